"""Reads calls out of what a model writes, and tells each part of them as soon as it is certain."""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Callable, Mapping
from typing import Any, Final

from tabagent import wire
from tabagent.worker.dialect.arguments import as_json, pass_json, quoted
from tabagent.worker.dialect.families import Ids, Syntax
from tabagent.worker.dialect.reader import Reader, Wait, overlap
from tabagent.worker.dialect.schema_parts import kinds, members, resolved
from tabagent.worker.dialect.shape import Shape, pieces

NAME_KEYS: Final = ("name", "tool_name")
ARGUMENT_KEYS: Final = ("arguments", "parameters")
OTHER_KEYS: Final = ("id", "tool_call_id", "type")

_NINE: Final = re.compile(r"[A-Za-z0-9]{9}")
_ALPHABET: Final = string.ascii_letters + string.digits


class Calls:
    """Reads calls in one syntax to the functions in `tools`, a JSON schema by each name."""

    def __init__(
        self,
        reader: Reader,
        syntax: Syntax,
        tools: Mapping[str, Any],
        tell: Callable[[wire.ToolDelta], None],
    ) -> None:
        self._reader = reader
        self._syntax = syntax
        self._tools = tools
        self._tell = tell
        self._shape = [pieces(text) for text in syntax.call.texts]
        self._before, self._after = self._shape[0], self._shape[-1]
        if syntax.is_json:
            before, _, _ = syntax.call.text.partition("{")
            self._before, self._after = pieces(before), pieces(syntax.call.texts[-1][1:])
        self._opening, self._closing = (pieces(text) for text in syntax.section)
        self._between = pieces(syntax.between)
        self._begun = False
        self._written = ""  # arguments whose function is not known yet
        self.told = 0

    def read(self) -> Wait[bool]:
        """The calls that begin here. False, staying and with nothing told, when none does."""
        reader = self._reader
        start, before = reader.at, self.told
        if self._syntax.lead:
            yield from reader.take_some((self._syntax.lead,))
        if (yield from reader.take(self._opening)):
            while (yield from self._read_one()):
                yield from reader.take_some(self._between)
        if self.told == before:
            reader.at = start
            return False
        yield from reader.take_some(self._closing)
        reader.keep()
        return True

    def _read_one(self) -> Wait[bool]:
        start = self._reader.at
        self._begun, self._written = False, ""
        yield from self._read_json() if self._syntax.is_json else self._read_tagged()
        if not self._begun:
            self._reader.at = start
            return False
        yield from self._reader.take_some(self._after)
        self._reader.keep()
        return True

    # ---- {"name": ..., "arguments": ...} --------------------------------------------------------
    def _read_json(self) -> Wait[None]:
        reader = self._reader
        name = ""
        if not (yield from reader.take((*self._before, "{"))):
            return
        while (yield from reader.take(('"',))):
            key = yield from reader.until('"')
            if not (yield from reader.take((":",))):
                return
            yield from reader.space()
            if self._begun or key in OTHER_KEYS:
                yield from pass_json(reader, _drop)
            elif key in ARGUMENT_KEYS:
                if name:
                    self._begin(name)
                yield from self._read_arguments()
            elif key in NAME_KEYS and not name:
                parts: list[str] = []
                yield from pass_json(reader, parts.append)
                name = "".join(parts)[1:-1]
                if name not in self._tools:
                    return
            else:
                return
            if not (yield from reader.take((",",))):
                break
        if not (yield from reader.take(("}",))) or self._begun:
            return
        if name and (self._written or not self._syntax.bare):
            self._begin(name)
            self._argue("" if self._written else "{}")

    def _read_arguments(self) -> Wait[None]:
        """A JSON object. One that is written into a string, as some models do, is taken out."""
        reader = self._reader
        if (yield from reader.choose(("{", "["))):
            yield from pass_json(reader, self._argue)
            return
        parts: list[str] = []
        yield from pass_json(reader, parts.append)
        text = "".join(parts)
        if text.startswith('"'):
            try:
                inner: str = json.loads(text)
                inner.encode()
            except ValueError:  # unfinished, or half a character, which is no text
                inner = ""
            text = inner if inner.lstrip().startswith("{") else text
        self._argue("{}" if text in ("", "null") else text)

    # ---- a name between markers -----------------------------------------------------------------
    def _read_tagged(self) -> Wait[None]:
        reader, fields = self._reader, self._syntax.call.fields
        found = dict.fromkeys(fields, "")
        if not (yield from reader.take(self._before)):
            return
        for field, following in zip(fields, self._shape[1:], strict=True):
            if field == "arguments":
                break
            word = yield from reader.word("<" + "".join(following[:1])[:1])
            if not word or (field == "name" and word not in self._tools):
                return
            found[field] = word
            if (yield from reader.take(following)):
                continue
            # An id may be missing, and the marker before it.
            last = self._shape[fields.index("arguments")]
            if "id" not in fields or not (yield from reader.take(last)):
                return
            break
        self._begin(found["name"], found.get("id", ""), found.get("index", ""))
        if self._syntax.argument:
            yield from self._read_one_by_one(self._syntax.argument, self._tools[found["name"]])
            return
        yield from reader.space()
        if (yield from reader.choose(("{", '"', "null"))):
            yield from self._read_arguments()
        elif not reader.is_over:
            self._argue("{}")

    # ---- arguments one by one -------------------------------------------------------------------
    def _read_one_by_one(self, shape: Shape, schema: Any) -> Wait[None]:
        reader, texts = self._reader, shape.texts
        opening, middle, ending = (pieces(text) for text in texts)
        declared, _ = members(schema)
        other = resolved(schema, schema).get("additionalProperties")
        separator = "{"
        while True:
            yield from reader.space()
            if (yield from reader.choose((opening[0], *self._after))) != opening[0]:
                break
            yield from reader.take(opening)
            key = yield from reader.until(middle[0])
            if key is None or not (yield from reader.take(middle[1:])):
                break
            if texts[1].endswith("\n") and (yield from reader.choose(("\n",))):
                reader.at += 1
            key = key.strip()
            self._argue(f"{separator}{quoted(key)}: ")
            separator = ", "
            allowed = kinds(declared.get(key, other), schema)
            end = "\n" * texts[2].startswith("\n") + ending[0]
            if not (yield from self._read_value(end, (opening[0], *self._after), allowed)):
                return  # unfinished, and told as it is
            yield from reader.take_some(ending[1:])
        if not reader.is_over:
            self._argue("{}" if separator == "{" else "}")

    def _read_value(
        self, end: str, following: tuple[str, ...], allowed: frozenset[str] | None
    ) -> Wait[bool]:
        """Tell one value, up to an `end` with `following` behind it. False when there is none.

        Text is told as it arrives; what may be something else, once it is whole. A line break that
        `end` begins with may be missing.
        """
        reader = self._reader
        marker = end.lstrip()
        is_text = allowed == frozenset({"string"})
        parts: list[str] = []

        def add(text: str) -> None:
            if is_text:
                self._argue(quoted(text)[1:-1])
            else:
                parts.append(text)

        if is_text:
            self._argue('"')
        while True:
            start, found = reader.at, reader.find(marker)
            if found >= 0:
                reader.at = found + len(marker)
                yield from reader.space()
                is_end = reader.is_over or bool((yield from reader.choose(following)))
                reader.at = found + len(marker)
                value = reader.slice(start, found if is_end else reader.at)
                add(value.removesuffix(end[: -len(marker)]) if is_end else value)
                if is_end:
                    self._argue('"' if is_text else as_json("".join(parts), allowed))
                    return True
            elif reader.ended:
                add(reader.rest())
                reader.at = reader.end
                self._argue("".join(parts))
                return False
            else:
                rest = reader.rest()
                safe = len(rest) - overlap(rest, (end, marker))
                reader.at += safe
                add(rest[:safe])
                reader.keep()
                yield

    # ---- telling --------------------------------------------------------------------------------
    def _begin(self, name: str, id_: str = "", index: str = "") -> None:
        id_ = _call_id(self._syntax.ids, name, id_, index)
        self._tell(wire.ToolDelta(self.told, self._written, id_, name))
        self.told += 1
        self._begun = True
        self._reader.keep()

    def _argue(self, text: str) -> None:
        if not self._begun:
            self._written += text
        elif text:
            self._tell(wire.ToolDelta(self.told - 1, text))
            self._reader.keep()


def _drop(text: str) -> None:
    """What a call says beside its name and arguments has no place in the answer."""


def _call_id(form: Ids, name: str, id_: str, index: str) -> str:
    """The id that the model gave where its family's can be kept, else a new one."""
    if form == "numbered" and index.isdecimal():
        return f"functions.{name}:{index}"
    if form == "nine":
        if _NINE.fullmatch(id_):
            return id_
        return "".join(secrets.choice(_ALPHABET) for _ in range(9))
    return new_id()


def new_id() -> str:
    """A call's id, in the form of OpenAI's."""
    return f"call_{secrets.token_hex(12)}"
