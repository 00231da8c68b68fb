"""Grammars that hold a model to a family's calls, to an answer, or to either."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tabagent import wire
from tabagent.worker.dialect.families import Reasoning, Syntax
from tabagent.worker.dialect.lark import GAP, SPACE, TEXT, Lark, either, join, plain, quote
from tabagent.worker.dialect.one_by_one import arguments_one_by_one
from tabagent.worker.dialect.parser import Thoughts

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
    specials: Mapping[str, int],
) -> str:
    """Lark source. Reasoning may come first, and has to end where the prompt has begun it."""
    lark = Lark(specials)
    writer = _Writer(lark, syntax, reasoning, wanted)
    further = wanted.answer or ""
    if reasoning is None or thoughts == "none":
        return lark.source(writer.body(TEXT), further)
    thinking = join(lark.until("dialect_thinking", reasoning.close), f"{GAP}?")
    after = lark.rule("dialect_after", writer.body(TEXT))
    if thoughts == "open":
        return lark.source(join(thinking, after), further)
    opening = reasoning.open.rstrip()
    begun = join(f"{GAP}?", lark.literal(opening), thinking, after)
    if lark.is_special(opening):
        return lark.source(either(begun, join(f"{GAP}?", after)), further)
    # Free text that began like reasoning would be held as if it were none.
    other = lark.rule("DIALECT_OTHER", f"{TEXT} & ~/(?s:{SPACE}*{plain(opening)}.*)/")
    return lark.source(either(begun, join(f"{GAP}?", writer.body(other))), further)


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

    def body(self, text: str) -> str:
        """What follows the reasoning; `text` is the terminal for free text."""
        wanted = self._wanted
        if not wanted.tools:
            return self._answer("answer")
        if wanted.required:
            return self._calls()
        if wanted.answer is not None:
            return either(self._calls(), self._answer("answer"))
        return self._bare(text) if self._syntax.bare else self._triggered(text)

    def _answer(self, content: str) -> str:
        before, after = (self._lark.literal(text) for text in self._around)
        return join(before and f"({before})?", content, after and f"({after})?")

    def _triggered(self, text: str) -> str:
        """Free text; once it has a trigger, calls."""
        lark, trigger = self._lark, self._syntax.trigger
        heads = [lark.rule(f"dialect_spelled_{text}".lower(), f"{text} {quote(trigger)}", "[lazy]")]
        if lark.is_special(trigger):
            heads.append(join(text, lark.literal(trigger)))
        return either(self._answer(text), join(either(*heads), self._calls(trigger)))

    def _bare(self, text: str) -> str:
        """Free text, or a call; what is one as far as its arguments is no text."""
        lead = self._lark.literal(self._syntax.lead)
        heads = "|".join(self._head(tool) for tool in self._wanted.tools)
        free = self._lark.rule(f"{text}_FREE", f"{text} & ~/(?s:{SPACE}*({heads}).*)/")
        marked = join(text, lead, self._calls())
        return either(free, self._calls(), *[marked] * self._lark.is_special(self._syntax.lead))

    # ---- calls ----------------------------------------------------------------------------------
    def _calls(self, begun: str = "") -> str:
        """All calls of a turn; of the first, `begun` has been written."""
        lark, syntax = self._lark, self._syntax
        opening, closing = syntax.section
        each = self._call()
        first = each if opening or not begun else self._call(begun)
        more = join("(", lark.literal(syntax.between), each, ")*") if self._wanted.several else ""
        return join(lark.literal(opening.removeprefix(begun)), first, more, lark.literal(closing))

    def _call(self, begun: str = "") -> str:
        """A rule for one call to any of the functions."""
        calls = [self._call_to(i, tool, begun) for i, tool in enumerate(self._wanted.tools)]
        return self._lark.rule(f"dialect_call{'_rest' * bool(begun)}", either(*calls))

    def _call_to(self, number: int, tool: wire.Tool, begun: str) -> str:
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
            varying = arguments if field == "arguments" else VARYING[field]
            expression = join(expression, lark.literal(text), varying)
            text = following
        return join(expression, lark.literal(text))

    def _arguments(self, number: int, tool: wire.Tool) -> str:
        name = f"dialect_arguments_{number}"
        schema = schema_of(tool)
        if self._syntax.argument:
            return arguments_one_by_one(self._lark, name, self._syntax.argument, tool, schema)
        return self._lark.json(name, schema)

    def _head(self, tool: wire.Tool) -> str:
        """A regex for a bare call as far as its arguments."""
        space = f"{SPACE}{{0,8}}"
        key = self._syntax.call.texts[1].split('"')[2]
        tokens = ["{", '"name"', ":", json.dumps(tool.name), ",", f'"{key}"', ":"]
        kind = ["{", '"type"', ":", '"function"', ","]
        typed = space.join(map(plain, kind))
        return f"({typed}|{plain('{')}){space}" + space.join(map(plain, tokens[1:]))
