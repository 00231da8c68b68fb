"""How one model is talked to, whatever engine runs it: template, family, grammars.

An engine says what its vocabulary is, and turns the stretches of a prompt into tokens; all that is
known of templates, tool calls, reasoning and structured output is here and below.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from tabagent import wire
from tabagent.errors import InvalidRequest, WrongModelTask
from tabagent.worker.constraint.compiler import Compiler, Constraint
from tabagent.worker.constraint.grammar import answer_rules, json_rule
from tabagent.worker.constraint.schema import check_schema
from tabagent.worker.constraint.vocabulary import Vocabulary
from tabagent.worker.dialect.dialect import Dialect
from tabagent.worker.dialect.parser import Parser, PlainParser
from tabagent.worker.template import ControlTokenGuard, TemplateRenderer


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt: its text, and the stretches to tokenise, each with whether control tokens count."""

    text: str
    stretches: list[tuple[str, bool]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How the answer to a prompt is read and held. None where nothing is to be done."""

    parser: Callable[[], Parser] | None = None
    constraint: Constraint | None = None
    shown: frozenset[int] = frozenset()  # control tokens whose text the parser must see
    closing: str = ""  # what ends the model's reasoning


class Speech:
    """Thread-safe. `control` are the control tokens by their text. `close` ends its processes."""

    def __init__(
        self,
        template: str | None,
        control: Mapping[str, int],
        markers: Mapping[str, str],
        vocabulary: Callable[[], Vocabulary],
    ) -> None:
        """`markers` are the template's variables `bos_token` and `eos_token`."""
        self._template, self._control, self._markers = template, control, dict(markers)
        self._guard = ControlTokenGuard(control)
        self._compiler = Compiler(vocabulary)
        self._renderer = TemplateRenderer(template) if template else None  # starts beside the load
        self._dialect: Dialect | None = None
        self._finding = threading.Lock()

    def render(
        self, messages: list[dict[str, Any]], dialogue: wire.Dialogue, *, generation: bool
    ) -> Rendered:
        """The prompt of a conversation: what people wrote is never read as control tokens.

        Raises ChatTemplateRejected, WrongModelTask, UnsupportedParameter or InvalidRequest.
        """
        renderer, dialect = self._chat()
        messages, variables = dialect.prompt(messages, dialogue)
        guarded, mark = self._guard.guard({**variables, "messages": messages})
        prompt = renderer.render({**guarded, **self._markers, "add_generation_prompt": generation})
        stretches = self._guard.split(prompt, mark)
        text = prompt.replace(mark, "") if mark else prompt
        if generation and (suffix := dialect.suffix(text, dialogue)):
            text += suffix
            stretches.append((suffix, True))
        return Rendered(text, stretches)

    def plan(self, command: wire.Generate, prompt: str) -> Plan:
        """How to read and hold the answer. Raises InvalidRequest, GrammarInvalid or as `render`."""
        answer = answer_rules(command.format) if command.format else None
        if command.messages is None:
            lark = f"start: answer\n{answer}" if answer else None
            return Plan(constraint=self._compiler.compile(lark) if lark else None)
        _, dialect = self._chat()
        dialogue = with_held_tools(command.dialogue)
        lark = dialect.grammar(dialogue, answer, prompt)
        parser = dialect.parser(command.dialogue, prompt)
        plain = isinstance(parser, PlainParser)
        return Plan(
            parser=None if plain else lambda: dialect.parser(command.dialogue, prompt),
            constraint=self._compiler.compile(lark) if lark else None,
            shown=frozenset(self._control[t] for t in dialect.control & self._control.keys()),
            closing=parser.closing,
        )

    def _chat(self) -> tuple[TemplateRenderer, Dialect]:
        renderer = self._renderer
        if renderer is None:
            raise WrongModelTask("this model has no chat template: use /v1/completions")
        with self._finding:  # found with the first conversation: it takes a few renderings
            if self._dialect is None:
                self._dialect = Dialect.of(
                    self._template or "",
                    lambda variables: renderer.render({**self._markers, **variables}),
                    self._control,
                    json_rule,
                )
        return renderer, self._dialect

    def close(self) -> None:
        self._compiler.close()
        if self._renderer:
            self._renderer.close()


def with_held_tools(dialogue: wire.Dialogue) -> wire.Dialogue:
    """With schemas that can be held.

    A call that is forced, or that is strict, is held to every word of its schema, or refused. One
    that the model is free to make is held to what can be held: its caller was promised no more.
    """
    if dialogue.tool_choice != "auto":
        return dialogue
    tools = [tool if tool.strict else _with_held_schema(tool) for tool in dialogue.tools]
    return replace(dialogue, tools=tools)


def _with_held_schema(tool: wire.Tool) -> wire.Tool:
    schema = tool.parameters
    if schema is None or _can_be_held(schema):
        return tool
    properties = schema.get("properties")
    shared: dict[str, Any] = {
        key: schema[key] for key in ("$defs", "definitions", "required") if key in schema
    }
    held: dict[str, Any] = {
        "type": "object",
        **shared,
        "properties": {
            name: value
            if _can_be_held({"type": "object", **shared, "properties": {name: value}})
            else {}
            for name, value in (properties if isinstance(properties, dict) else {}).items()
        },
    }
    return replace(tool, parameters=held if _can_be_held(held) else {"type": "object"})


def _can_be_held(schema: dict[str, Any]) -> bool:
    try:
        check_schema(schema, "")
    except InvalidRequest:
        return False
    return True
