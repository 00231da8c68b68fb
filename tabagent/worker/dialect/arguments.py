"""Arguments of a call: JSON passed on as it arrives, plain values turned into the JSON they mean."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final, NoReturn

from tabagent.worker.dialect.reader import Reader, Wait

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


def kinds(schema: Any, root: Any, seen: set[str] | None = None) -> frozenset[str] | None:
    """The JSON types that `schema` allows; None where it does not say."""
    seen = set() if seen is None else seen
    if not isinstance(schema, dict):
        return None
    if isinstance(reference := schema.get("$ref"), str):
        if reference in seen:  # a schema that only leads back to itself allows nothing new
            return frozenset()
        seen.add(reference)
        return kinds(resolve(reference, root), root, seen)
    named = schema.get("type")
    if isinstance(named, str):
        return frozenset({named})
    if isinstance(named, list):
        return frozenset(kind for kind in named if isinstance(kind, str))
    if isinstance(values := schema.get("enum"), list):
        return frozenset(map(kind_of, values))
    if "const" in schema:
        return frozenset({kind_of(schema["const"])})
    for key in ("anyOf", "oneOf"):
        if isinstance(choices := schema.get(key), list):
            of_each = [kinds(choice, root, seen) for choice in choices]
            return None if None in of_each else frozenset().union(*filter(None, of_each))
    return None


def resolve(reference: str, root: Any) -> Any:
    """What a local `$ref` (RFC 6901 in a fragment) means in `root`; None when there is nothing."""
    if not reference.startswith("#"):
        return None
    found = root
    for part in reference[1:].split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        elif isinstance(found, dict) and key in found:
            found = found[key]
        else:
            return None
    return found


def kind_of(value: Any) -> str:
    """The JSON type of a value as `json.loads` gives it."""
    for kind, types in (
        ("string", str),
        ("boolean", bool),
        ("null", type(None)),
        ("integer", int),
        ("number", float),
        ("array", list),
    ):
        if isinstance(value, types):
            return kind
    return "object"


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
