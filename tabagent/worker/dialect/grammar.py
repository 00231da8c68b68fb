"""Grammars that hold a model to a family's calls, to an answer, or to either."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tabagent import wire
from tabagent.worker.dialect.families import Reasoning, Syntax
from tabagent.worker.dialect.lark import GAP, SPACE, TEXT, Lark, either, join, plain, quote
from tabagent.worker.dialect.one_by_one import arguments_one_by_one
from tabagent.worker.dialect.parser import Thoughts
from tabagent.worker.dialect.schema_parts import alone

NO_ARGUMENTS: Final[dict[str, Any]] = {"properties": {}, "additionalProperties": False}
VARYING: Final = {"index": "/[0-9]{1,4}/", "id": "/[A-Za-z0-9]{9}/"}


@dataclass(frozen=True)
class Wanted:
    """What an answer may be: calls to `tools`, what the Lark in `answer` says, or free text."""

    tools: Sequence[wire.Tool]
    required: bool  # nothing but calls
    several: bool  # more than one of them
    answer: str | None


def grammar(
    syntax: Syntax,
    reasoning: Reasoning | None,
    thoughts: Thoughts,
    wanted: Wanted,
    lark: Lark,
) -> str:
    """Lark source. Reasoning may come first, and has to end where the prompt has begun it."""
    writer = _Writer(lark, syntax, reasoning, wanted)
    further = wanted.answer or ""
    if reasoning is None or thoughts == "none":
        return lark.source(writer.body(TEXT), further)
    thinking = lark.until("dialect_thinking", reasoning.close)
    after = lark.rule("dialect_after", join(f"{GAP}?", writer.body(TEXT)))
    if thoughts == "open":
        return lark.source(join(thinking, after), further)
    opening = reasoning.open.rstrip()
    begun = join(lark.spaced("DIALECT_OPENING", opening), thinking, after)
    text = TEXT
    if not lark.is_special(opening):  # text that began like reasoning would be held as text
        text = lark.rule("DIALECT_OTHER", f"{TEXT} & ~/(?s:{SPACE}*{plain(opening)}.*)/")
    return lark.source(either(begun, writer.body(text, spaced=True)), further)


def schema_of(tool: wire.Tool) -> dict[str, Any]:
    """The schema of a call's arguments, which are an object whatever it says."""
    return {"type": "object", **(NO_ARGUMENTS if tool.parameters is None else tool.parameters)}


class _Writer:
    def __init__(
        self, lark: Lark, syntax: Syntax, reasoning: Reasoning | None, wanted: Wanted
    ) -> None:
        self._lark = lark
        self._syntax = syntax
        self._wanted = wanted
        self._around = reasoning.answer if reasoning else ("", "")

    def body(self, text: str, *, spaced: bool = False) -> str:
        """What follows the reasoning; `text` is the terminal for free text.

        With `spaced`, white space may come first.
        """
        wanted = self._wanted
        answer = join(f"{GAP}?" if spaced else "", self._answer("answer"))
        if not wanted.tools:
            return answer
        if not wanted.required and wanted.answer is None:
            return self._bare(text) if self._syntax.bare else self._triggered(text)
        if self._syntax.bare and not wanted.required:
            return either(*self._calls_as_json(), answer)
        lead = self._lark.literal(self._syntax.lead)
        calls = join(lead and f"({lead})?", self._calls(spaced=spaced))
        return calls if wanted.required else either(calls, answer)

    def _answer(self, content: str) -> str:
        before, after = (self._lark.literal(text) for text in self._around)
        return join(before and f"({before})?", content, after and f"({after})?")

    def _triggered(self, text: str) -> str:
        """Free text; once it has a trigger, calls."""
        begun = join(self._trigger(text), self._calls(self._syntax.trigger))
        return either(self._answer(text), begun)

    def _bare(self, text: str) -> str:
        """Free text, or a call; what is one as far as its arguments is no text."""
        heads = "|".join(self._head(tool) for tool in self._wanted.tools)
        free = self._lark.rule(f"{text}_FREE", f"{text} & ~/(?s:({heads}).*)/")
        return either(free, self._calls(), join(self._trigger(free), self._calls()))

    def _trigger(self, text: str) -> str:
        """Free text, and what begins calls: as a control token where it is one, and spelled."""
        lark, trigger = self._lark, self._syntax.trigger
        spelled = lark.rule(f"{text}_spelled".lower(), f"{text} {quote(trigger)}", "[lazy]")
        return (
            either(spelled, join(text, lark.literal(trigger)))
            if lark.is_special(trigger)
            else spelled
        )

    # ---- calls ----------------------------------------------------------------------------------
    def _calls(self, begun: str = "", *, spaced: bool = False) -> str:
        """All calls of a turn; of the first, `begun` has been written."""
        lark, syntax = self._lark, self._syntax
        opening, closing = syntax.section
        each = self._call()
        more = join("(", lark.literal(syntax.between), each, ")*") if self._wanted.several else ""
        if not opening:
            return join(self._call(begun, spaced=spaced) if begun or spaced else each, more)
        if spaced:
            opened = lark.spaced("DIALECT_SECTION", opening)
        else:
            opened = lark.literal(opening.removeprefix(begun))
        return join(opened, each, more, lark.literal(closing))

    def _call(self, begun: str = "", *, spaced: bool = False) -> str:
        """A rule for one call to any of the functions."""
        kind = "_first" if spaced else "_rest" if begun else ""
        calls = [
            self._call_to(i, tool, begun, spaced=spaced)
            for i, tool in enumerate(self._wanted.tools)
        ]
        return self._lark.rule(f"dialect_call{kind}", either(*calls))

    def _call_to(self, number: int, tool: wire.Tool, begun: str, *, spaced: bool) -> str:
        lark, shape = self._lark, self._syntax.call
        arguments = self._arguments(number, tool)
        if self._syntax.bare:
            head = lark.rule(f"DIALECT_HEAD_{number}", f"/{self._head(tool)}/")
            return join(head, f"{GAP}?", arguments, f"{GAP}?", quote("}"))
        expression, text = "", shape.texts[0].removeprefix(begun)
        for field, following in zip(shape.fields, shape.texts[1:], strict=True):
            if field == "name":
                text += tool.name + following
                continue
            before = lark.literal(text)
            if spaced and not expression:
                before = lark.spaced(f"DIALECT_FIRST_{number}", text)
            varying = arguments if field == "arguments" else VARYING[field]
            expression = join(expression, before, varying)
            text = following
        return join(expression, lark.literal(text))

    def _arguments(self, number: int, tool: wire.Tool) -> str:
        name = f"dialect_arguments_{number}"
        schema = schema_of(tool)
        if self._syntax.argument:
            return arguments_one_by_one(self._lark, name, self._syntax.argument, tool, schema)
        return self._lark.json(name, schema, tool.pointer)

    def _calls_as_json(self) -> list[str]:
        """Bare calls beside answers that are JSON too: one JSON or the other, not text or JSON."""
        rules = []
        for number, tool in enumerate(self._wanted.tools):
            arguments = alone(schema_of(tool), schema_of(tool))
            members = {"name": {"const": tool.name}, self._arguments_key: arguments}
            schema = {
                "type": "object",
                "properties": members,
                "required": list(members),
                "additionalProperties": False,
            }
            self._lark.check(schema_of(tool), tool.pointer)
            rules.append(self._lark.json(f"dialect_call_{number}", schema, tool.pointer))
        return rules

    @property
    def _arguments_key(self) -> str:
        return self._syntax.call.texts[1].split('"')[2]

    def _head(self, tool: wire.Tool) -> str:
        """A regex for a bare call as far as its arguments."""
        space = f"{SPACE}{{0,8}}"
        tokens = ["{", '"name"', ":", json.dumps(tool.name), ",", f'"{self._arguments_key}"', ":"]
        kind = ["{", '"type"', ":", '"function"', ","]
        typed = space.join(map(plain, kind))
        return f"{space}({typed}|{plain('{')}){space}" + space.join(map(plain, tokens[1:]))
