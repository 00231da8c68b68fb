"""Templates through their real child process, tokenizers from real vocabularies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tabagent import wire
from tabagent.worker.dialect.dialect import Dialect
from tabagent.worker.template import TemplateRenderer
from tests.worker.conftest import Vocabulary
from tests.worker.dialect.tokens import Tokens

TEMPLATES = Path(__file__).parent / "templates"
NAMES = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))

RESERVED = (
    *("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]", "<tool_call>", "</tool_call>"),
    *("<think>", "</think>", "<|START_THINKING|>", "<|END_THINKING|>", "<|START_ACTION|>"),
    *("<|END_ACTION|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|channel|>", "<|message|>"),
    *("<|start|>", "<|end|>", "<|constrain|>", "<|python_tag|>", "<｜tool▁calls▁begin｜>"),
    *("<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"),
    *("<|tool_call|>", "<seed:tool_call>", "</seed:tool_call>", "<arg_key>", "</arg_key>"),
    *("<arg_value>", "</arg_value>", "<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
    *("<|tool_call_argument_begin|>", "<|tool_call_end|>", "<|tool_calls_section_end|>"),
    *("<minimax:tool_call>", "</minimax:tool_call>", "<TOOLCALL>", "</TOOLCALL>"),
)
"""Texts that the reserved tokens of Llama's vocabulary are given: control tokens of all families."""


class Template:
    """A template, and the dialect found for it. `specials` of its dialect can be set."""

    def __init__(self, name: str, specials: dict[str, int], child: TemplateRenderer) -> None:
        self._source = (TEMPLATES / f"{name}.jinja").read_text()
        self._child = child
        self.dialect = Dialect.of(self._source, self.render, specials)

    def render(self, variables: dict[str, Any]) -> str:
        self._child._template = self._source
        return self._child.render({"bos_token": "<s>", "eos_token": "</s>", **variables})

    def prompt(self, messages: list[dict[str, Any]], dialogue: wire.Dialogue | None = None) -> str:
        """What an engine makes of a request."""
        dialogue = dialogue or wire.Dialogue()
        messages, variables = self.dialect.prompt(messages, dialogue)
        prompt = self.render({**variables, "messages": messages, "add_generation_prompt": True})
        return prompt + self.dialect.suffix(prompt, dialogue)


MakeTemplate = Callable[..., Template]


@pytest.fixture(scope="package")
def template() -> Iterator[MakeTemplate]:
    """The fixture template of a name, all of them in one child."""
    child = TemplateRenderer("")
    made = cache(lambda name, specials: Template(name, dict(specials), child))
    yield lambda name, specials=None: made(name, tuple((specials or {}).items()))
    child.close()


@pytest.fixture(scope="package")
def qwen(vocabulary: Vocabulary) -> Tokens:
    """A vocabulary in which all that matters here is text."""
    return Tokens.load(vocabulary("qwen2"))


@pytest.fixture(scope="package")
def reserved(vocabulary: Vocabulary) -> Tokens:
    """A vocabulary in which all that matters here is a control token."""
    own = [f"<|reserved_special_token_{i}|>" for i in range(len(RESERVED))]
    return Tokens.load(vocabulary("llama-bpe"), dict(zip(own, RESERVED, strict=True)))


@pytest.fixture(params=["text", "control"])
def tokens(request: pytest.FixtureRequest) -> Tokens:
    """A vocabulary where markers are text, and one where they are control tokens."""
    found: Tokens = request.getfixturevalue("qwen" if request.param == "text" else "reserved")
    return found
