"""Arguments of a call: JSON passed on as it arrives, plain values turned into the JSON they mean."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Final, NoReturn

from tabagent.worker.dialect.reader import Reader, Wait
from tabagent.worker.dialect.schema_parts import kind_of

_OUTSIDE: Final = re.compile(r'["{}\[\]]|[^\s\w+.,:-]', re.ASCII)
_INSIDE: Final = re.compile(r'["\\]')
_PYTHON: Final = {"True": True, "False": False, "None": None}


class JsonEnd:
    """Finds where a JSON object, array or string ends, in text that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._string = False
        self._escaped = False
        self.broken = False  # ended by what no JSON has outside of strings

    def find(self, text: str, at: int) -> int:
        """The position behind the value's last character, or -1 when `text` does not have it."""
        while True:
            if self._escaped:
                if at == len(text):
                    return -1
                self._escaped, at = False, at + 1
            found = (_INSIDE if self._string else _OUTSIDE).search(text, at)
            if found is None:
                return -1
            at, char = found.end(), found[0]
            if char == '"':
                self._string = not self._string
            elif char == "\\" and self._string:
                self._escaped = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
            else:
                self.broken = True
                return at - 1
            if self._depth <= 0 and not self._string:
                return at


def pass_json(reader: Reader, sink: Callable[[str], None]) -> Wait[None]:
    """Hand on the JSON value that stands here, as it arrives."""
    if not (yield from reader.choose(("{", "[", '"'))):
        sink((yield from reader.word(",}]")) or "")
        return
    value = JsonEnd()
    while True:
        rest = reader.rest()
        end = value.find(rest, 0)
        part = rest if end < 0 else rest[:end]
        reader.at += len(part)
        sink(part)
        if end >= 0 or reader.ended:
            return
        yield


def quoted(text: str) -> str:
    """`text` as a JSON string."""
    return json.dumps(text, ensure_ascii=False)


def as_json(text: str, allowed: frozenset[str] | None) -> str:
    """The JSON that `text` means where values of the types `allowed` may stand.

    >>> as_json("2", None), as_json("2", frozenset({"string"})), as_json("True", None)
    ('2', '"2"', 'true')
    """
    bare = text.strip()
    try:
        value = _PYTHON[bare] if bare in _PYTHON else json.loads(bare, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return quoted(text)
    kind = kind_of(value)
    fits = allowed is None or kind in allowed or (kind == "integer" and "number" in allowed)
    if kind == "string" or not fits:
        return quoted(text)
    return json.dumps(value) if bare in _PYTHON else bare


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
