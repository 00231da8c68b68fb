"""The families, as a table: how each writes calls and reasoning, and how its template is known.

A shape is the exact text that a family's template writes, with $name, $arguments, $id, $index, $key
and $value where those belong. Grammars hold the model to it; the parser reads it with any spacing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, Literal

from tabagent.worker.dialect.shape import MARKER, Shape

Ids = Literal["openai", "nine", "numbered"]


@dataclass(frozen=True)
class Syntax:
    """How calls are written.

    `call` is one call. Where `section` is given, calls stand between its two texts; `between` parts
    them. `argument` is one argument of a family that writes them one by one, else they are JSON.
    `bare` calls have no marker: an answer that begins with one is one. `ids` is the form of call
    ids that the family's template or output asks for.
    """

    name: str
    call: Shape
    marks: tuple[str, ...] = ()  # its template contains all of them
    section: tuple[str, str] = ("", "")
    between: str = "\n"
    argument: Shape | None = None
    bare: bool = False
    lead: str = ""  # may stand before a bare call, and makes it one anywhere
    several: bool = True  # calls in one turn
    ids: Ids = "openai"

    def write(self, functions: Sequence[Mapping[str, Any]]) -> str:
        """Calls to `functions`, each with its `name` and its `arguments`, as a model writes them."""
        calls = [
            self.call.write(
                name=function["name"],
                arguments=self._arguments(function["arguments"]),
                index=str(index),
                id="",
            )
            for index, function in enumerate(functions)
        ]
        return self.section[0] + self.between.join(calls) + self.section[1]

    def _arguments(self, arguments: dict[str, Any]) -> str:
        if not self.argument:
            return json.dumps(arguments, ensure_ascii=False)
        values = {
            key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for key, value in arguments.items()
        }
        return "".join(self.argument.write(key=key, value=values[key]) for key in values)

    @property
    def is_json(self) -> bool:
        """Whether a call is one JSON object, its name in it."""
        return '{"' in self.call.text

    @cached_property
    def trigger(self) -> str:
        """What begins calls in the midst of text; "" where nothing does."""
        if self.bare:
            return self.lead
        opening = self.section[0] or self.call.texts[0]
        marker = MARKER.match(opening)
        return marker[0] if marker else opening.split()[0]

    @cached_property
    def markers(self) -> frozenset[str]:
        """Every text in it that may be a control token of the model."""
        texts = [*self.section, self.between, self.lead, *self.call.texts]
        if self.argument:
            texts += self.argument.texts
        return frozenset(marker for text in texts for marker in MARKER.findall(text))


@dataclass(frozen=True)
class Reasoning:
    """The texts around a model's thoughts, and around the answer that follows where it has some."""

    open: str
    close: str
    gap: str = ""  # around nothing, and behind the close
    answer: tuple[str, str] = ("", "")
    marks: tuple[str, ...] = ()  # further text that its template contains

    @property
    def closing(self) -> str:
        """What ends thoughts that are not at their end."""
        return f"{self.gap[:1]}{self.close}{self.gap}"

    @property
    def nothing(self) -> str:
        """No thoughts at all."""
        return f"{self.open}{self.gap}{self.close}{self.gap}"


JSON_CALL: Final = '{"name": "$name", "arguments": $arguments}'
XML_CALL: Final = "<function=$name>\n$arguments</function>"

HERMES: Final = Syntax(
    "hermes",
    Shape(f"<tool_call>\n{JSON_CALL}\n</tool_call>"),
    marks=("<tool_call>", '"arguments"'),
)
GENERIC: Final = replace(HERMES, name="generic", marks=())
"""What a model is told to write when its template tells it nothing; many have seen it."""

HARMONY: Final = Syntax(
    "harmony",
    Shape(
        "<|channel|>commentary to=functions.$name <|constrain|>json<|message|>$arguments",
    ),
    marks=("<|channel|>", "<|message|>", "<|start|>"),
    several=False,  # each call ends the turn
)

SYNTAXES: Final = (
    HARMONY,
    Syntax(
        "mistral-id",
        Shape("[TOOL_CALLS]$name[CALL_ID]$id[ARGS]$arguments"),
        marks=("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
        between="",
        ids="nine",
    ),
    Syntax(
        "mistral-args",
        Shape("[TOOL_CALLS]$name[ARGS]$arguments"),
        marks=("[TOOL_CALLS]", "[ARGS]"),
        between="",
        ids="nine",
    ),
    Syntax(
        "mistral",
        Shape(JSON_CALL),
        marks=("[TOOL_CALLS]",),
        section=("[TOOL_CALLS][", "]"),
        between=", ",
        ids="nine",
    ),
    Syntax(
        "deepseek-r1",
        Shape(
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>$name\n```json\n$arguments\n```"
            "<｜tool▁call▁end｜>"
        ),
        marks=("<｜tool▁calls▁begin｜>", "```json"),
        section=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    ),
    Syntax(
        "deepseek-v3.1",
        Shape("<｜tool▁call▁begin｜>$name<｜tool▁sep｜>$arguments<｜tool▁call▁end｜>"),
        marks=("<｜tool▁calls▁begin｜>",),
        section=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        between="",
    ),
    Syntax(
        "kimi",
        Shape(
            "<|tool_call_begin|>functions.$name:$index<|tool_call_argument_begin|>$arguments"
            "<|tool_call_end|>"
        ),
        marks=("<|tool_calls_section_begin|>", "<|tool_call_argument_begin|>"),
        section=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
        between="",
        ids="numbered",
    ),
    Syntax(
        "glm",
        Shape("<tool_call>$name\n$arguments</tool_call>"),
        marks=("<tool_call>", "<arg_key>", "<arg_value>"),
        argument=Shape("<arg_key>$key</arg_key>\n<arg_value>$value</arg_value>\n"),
    ),
    Syntax(
        "glm",
        Shape("<tool_call>$name$arguments</tool_call>"),
        marks=("<tool_call>", "<arg_key>", "<arg_value>"),
        argument=Shape("<arg_key>$key</arg_key><arg_value>$value</arg_value>"),
        between="",
    ),
    Syntax(
        "seed",
        Shape(f"<seed:tool_call>\n{XML_CALL}\n</seed:tool_call>"),
        marks=("<seed:tool_call>", "<function=", "<parameter="),
        argument=Shape("<parameter=$key>$value</parameter>\n"),
    ),
    Syntax(
        "qwen-xml",
        Shape(f"<tool_call>\n{XML_CALL}\n</tool_call>"),
        marks=("<tool_call>", "<function=", "<parameter="),
        argument=Shape("<parameter=$key>\n$value\n</parameter>\n"),
    ),
    Syntax(
        "minimax",
        Shape('<invoke name="$name">\n$arguments</invoke>\n'),
        marks=("<minimax:tool_call>", "<invoke name="),
        section=("<minimax:tool_call>\n", "</minimax:tool_call>"),
        between="",
        argument=Shape('<parameter name="$key">$value</parameter>\n'),
    ),
    Syntax(
        "command-r",
        Shape('{"tool_call_id": "$index", "tool_name": "$name", "parameters": $arguments}'),
        marks=("<|START_ACTION|>", "<|END_ACTION|>"),
        section=("<|START_ACTION|>[\n    ", "\n]<|END_ACTION|>"),
        between=",\n    ",
    ),
    Syntax(
        "granite",
        Shape(JSON_CALL),
        marks=("<|start_of_role|>", "<|tool_call|>"),
        section=("<|tool_call|>[", "]"),
        between=", ",
    ),
    Syntax(
        "nemotron",
        Shape(JSON_CALL),
        marks=("<TOOLCALL>", '"arguments"'),
        section=("<TOOLCALL>[", "]</TOOLCALL>"),
        between=", ",
    ),
    HERMES,
    Syntax(
        "functionary",
        Shape("<function=$name>$arguments</function>"),
        marks=("<function=", "</function>"),
        between="",
    ),
    Syntax(
        "llama3",
        Shape('{"name": "$name", "parameters": $arguments}'),
        marks=("<|start_header_id|>", '"parameters"'),
        bare=True,
        lead="<|python_tag|>",
        between="; ",
        several=False,
    ),
)
"""The first whose marks a template has is tried; reading back what the template writes proves it.
Of several with the same marks, the one that writes exactly as the template does is taken."""

ANALYSIS: Final = Reasoning("<|channel|>analysis<|message|>", "<|end|>")

REASONINGS: Final = (
    Reasoning("<|channel>thought\n", "<channel|>"),
    Reasoning("[THINK]", "[/THINK]"),
    Reasoning(
        "<|START_THINKING|>",
        "<|END_THINKING|>",
        answer=("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ),
    Reasoning(
        "<|START_THINKING|>",
        "<|END_THINKING|>",
        answer=("<|START_TEXT|>", "<|END_TEXT|>"),
    ),
    Reasoning("<seed:think>", "</seed:think>", gap="\n"),
    Reasoning(
        "<think>",
        "</think>",
        gap="\n\n",
        answer=("<response>", "</response>"),
        marks=("<|start_of_role|>",),
    ),
    Reasoning("<think>", "</think>", gap="\n\n"),
    Reasoning("<|inner_prefix|>", "<|inner_suffix|>"),
)
"""The first of which a template has every text is the model's."""


def syntax_named_by(template: str) -> Syntax | None:
    """The syntax whose marks `template` has."""
    return next((s for s in SYNTAXES if all(mark in template for mark in s.marks)), None)


def reasoning_named_by(template: str) -> Reasoning | None:
    """The reasoning whose markers `template` has."""
    if all(mark in template for mark in (*HARMONY.marks, "analysis")):
        return ANALYSIS
    return next(
        (
            r
            for r in REASONINGS
            if all(text.strip() in template for text in (r.open, r.close, *r.answer, *r.marks))
        ),
        None,
    )
