"""What is found out about a template, by its text and by rendering it."""

from __future__ import annotations

from typing import Any

import pytest

from tabagent.errors import ChatTemplateRejected
from tabagent.worker.dialect.dialect import Dialect
from tabagent.worker.dialect.families import SYNTAXES
from tests.worker.dialect.conftest import NAMES, TEMPLATES, MakeTemplate

# name, tells of tools, reasoning, switch, efforts
FOUND = {
    "command-r7b": ("command-r", True, "<|START_THINKING|>", "enable_thinking", ()),
    "deepseek-r1": ("deepseek-r1", False, "<think>", None, ()),
    "deepseek-v3.1": ("deepseek-v3.1", False, "<think>", "thinking", ()),
    "functionary-3.1": ("functionary", True, None, None, ()),
    "gemma-2": ("generic", False, None, None, ()),
    "glm-4.5": ("glm", True, "<think>", "enable_thinking", ()),
    "glm-4.7": ("glm", True, "<think>", "enable_thinking", ()),
    "gpt-oss": (
        *("harmony", True, "<|channel|>analysis<|message|>", None),
        ("low", "medium", "high"),
    ),
    "granite-3.3": ("granite", True, "<think>", "thinking", ()),
    "kimi-k2": ("kimi", True, None, None, ()),
    "llama-3.1": ("llama3", True, None, None, ()),
    "magistral": ("mistral-args", True, "[THINK]", None, ()),
    "minimax-m2": ("minimax", True, "<think>", None, ()),
    "mistral-nemo": ("mistral", True, None, None, ()),
    "mistral-small": ("mistral-id", True, None, None, ()),
    "nemotron-nano": ("nemotron", True, "<think>", None, ()),
    "phi-4": ("generic", False, None, None, ()),
    "qwen2.5": ("hermes", True, None, None, ()),
    "qwen3": ("hermes", True, "<think>", "enable_thinking", ()),
    "qwen3-coder": ("qwen-xml", True, None, None, ()),
    "seed-oss": ("seed", True, "<seed:think>", "thinking_budget", ()),
}


def told(dialect: Dialect) -> tuple[Any, ...]:
    reasoning = dialect.reasoning.open if dialect.reasoning else None
    return dialect.name, dialect.tools, reasoning, dialect.switch, dialect.efforts


@pytest.mark.parametrize("name", NAMES)
def test_every_family_is_known_by_its_template(template: MakeTemplate, name: str) -> None:
    assert told(template(name).dialect) == FOUND[name]


def test_every_syntax_has_a_template_that_proves_it() -> None:
    assert {syntax.name for syntax in SYNTAXES} == {found[0] for found in FOUND.values()} - {
        "generic"
    }


@pytest.mark.parametrize("name", NAMES)
def test_without_rendering_the_text_says_most(name: str) -> None:
    dialect = Dialect.of((TEMPLATES / f"{name}.jinja").read_text())
    expected = FOUND[name]
    if name.startswith("deepseek"):  # that it shows calls at all is only seen when it does
        expected = ("generic", *expected[1:])
    assert told(dialect)[:3] == expected[:3]


def test_the_form_of_arguments_is_found_by_rendering(template: MakeTemplate) -> None:
    as_text = {n for n in NAMES if template(n).dialect._facts.arguments_as_text}
    assert as_text == {"deepseek-r1", "deepseek-v3.1", "functionary-3.1"}


def test_templates_that_take_one_call_in_a_message_are_found(template: MakeTemplate) -> None:
    single = {n for n in NAMES if not template(n).dialect._facts.several}
    assert single == {"llama-3.1", "gpt-oss"}


def test_control_texts_are_what_the_parser_looks_for(template: MakeTemplate) -> None:
    control = {name: template(name).dialect.control for name in NAMES}
    assert control["mistral-small"] == {"[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"}
    assert control["qwen3"] == {"<tool_call>", "</tool_call>", "<think>", "</think>"}
    assert control["llama-3.1"] == {"<|python_tag|>"}
    assert {"<|START_RESPONSE|>", "<|END_ACTION|>"} <= control["command-r7b"]
    assert {"<|channel|>", "<|end|>", "<|start|>", "<|constrain|>"} <= control["gpt-oss"]
    assert {"<arg_key>", "</arg_value>", "</think>"} <= control["glm-4.5"]


# ---- templates of no family ---------------------------------------------------------------------
def found(source: str) -> Dialect:
    """With a probe that knows what this small template needs."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    made = ImmutableSandboxedEnvironment().from_string(source)

    def probe(variables: dict[str, Any]) -> str:
        try:
            return made.render(variables)
        except Exception as error:
            raise ChatTemplateRejected(str(error)) from None

    return Dialect.of(source, probe)


TALK = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ m.tool_calls or '' }}\n{% endfor %}"


def test_a_syntax_that_is_only_mentioned_is_not_believed() -> None:
    source = f"{{{{ tools }}}}<tool_call> {{'name': 'x', \"arguments\"}}{TALK}"
    dialect = found(source)
    assert dialect.name == "generic"  # its calls cannot be read back
    assert not dialect.tools


def test_a_template_that_tells_of_tools_in_an_unknown_syntax_is_told_in_words() -> None:
    source = "{{ tools }}{% for m in messages %}{% for c in m.tool_calls or [] %}CALL {{ c.function.name }} WITH {{ c.function.arguments }}{% endfor %}{% endfor %}"
    assert told(found(source)) == ("generic", False, None, None, ())


def test_a_template_that_renders_nothing_is_known_by_its_text() -> None:
    source = '{{ raise() }}<tool_call>{"arguments"}{{ tools }}<think></think>{{ enable_thinking }}'
    assert told(found(source)) == ("hermes", True, "<think>", "enable_thinking", ())


def test_a_switch_that_changes_nothing_is_no_switch() -> None:
    assert found(f"<think></think>{{# enable_thinking #}}{TALK}").switch is None
    assert found(f"<think></think>{{{{ enable_thinking }}}}{TALK}").switch == "enable_thinking"


def test_efforts_are_those_that_make_a_difference() -> None:
    chosen = "{{ {'low': 'a', 'high': 'b'}[reasoning_effort] or 'c' }}"
    assert found(f"<think></think>{chosen}{TALK}").efforts == ("low", "medium", "high")
    printed = "{% if reasoning_effort not in ['low', 'xhigh'] %}{{ 1 / 0 }}{% endif %}"
    printed += "{{ reasoning_effort }}"
    # Without an effort it renders nothing at all: then its text is all there is.
    assert len(found(f"<think></think>{printed}{TALK}").efforts) == 5
    assert found(f"<think></think>{{# reasoning_effort #}}{TALK}").efforts == ()
    assert found(f"{{{{ reasoning_effort }}}}{TALK}").efforts == ()  # and no reasoning
