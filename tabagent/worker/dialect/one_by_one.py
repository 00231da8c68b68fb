"""Grammars for arguments that a family writes one by one, between markers and without quotes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from llguidance import regex_to_lark

from tabagent import wire
from tabagent.errors import InvalidRequest
from tabagent.worker.dialect.arguments import kinds, resolve
from tabagent.worker.dialect.lark import TEXT, Lark, either, join, plain
from tabagent.worker.dialect.shape import Shape

BEYOND: Final = frozenset(
    {
        *("allOf", "anyOf", "oneOf", "not", "if", "patternProperties", "propertyNames"),
        *("dependencies", "dependentRequired", "dependentSchemas"),
        *("minProperties", "maxProperties"),
    }
)
"""Keywords of the arguments together, which cannot be kept while they are written one by one."""

OF_STRINGS: Final = frozenset(("enum", "const", "pattern", "minLength", "maxLength", "format"))

_WORDS: Final = {"boolean": "/true|false|True|False/", "null": "/null|None/"}


def arguments_one_by_one(
    lark: Lark, name: str, shape: Shape, tool: wire.Tool, schema: dict[str, Any]
) -> str:
    """A rule for the arguments of `tool`: the declared ones in order, without those left out.

    Raises InvalidRequest where a strict tool asks for more than can be held this way.
    """
    root = schema
    if isinstance(reference := schema.get("$ref"), str):
        found = resolve(reference, root)
        schema = found if isinstance(found, dict) else schema
    if tool.strict and (beyond := sorted(BEYOND & schema.keys())):
        raise _too_strict(f"{tool.pointer}/{beyond[0]}")
    required = schema.get("required") or []
    properties = {**{key: {} for key in required}, **(schema.get("properties") or {})}
    values = _Values(lark, shape.texts[2], root)
    arguments = []
    for number, (key, one) in enumerate(properties.items()):
        if tool.strict and values.is_beyond(one):
            raise _too_strict(f"{tool.pointer}/properties/{_pointed(key)}")
        before = lark.literal(shape.texts[0] + key + shape.texts[1])
        argument = lark.rule(
            f"{name}_{number}", join(before, values.value(f"{name}_{number}_value", one))
        )
        arguments.append(argument if key in required else f"{argument}?")
    return lark.rule(name, join(*arguments) or '""')


class _Values:
    """Values as they are written: strings as they are, everything else as JSON."""

    def __init__(self, lark: Lark, end: str, root: Any) -> None:
        self._lark = lark
        self._end = end
        self._root = root

    def value(self, name: str, schema: Any) -> str:
        """A rule for a value and its end."""
        meant = self._resolved(schema)
        end = self._lark.literal(self._end)
        choices = meant.get("enum", [meant["const"]] if "const" in meant else None)
        if isinstance(choices, list):
            written = (v if isinstance(v, str) else json.dumps(v) for v in choices)
            return join(either(*(self._lark.literal(text) or '""' for text in written)), end)
        allowed = kinds(schema, self._root)
        if allowed == frozenset({"string"}):
            return self._lark.until(name, self._end, self._string(name.upper(), meant))
        if allowed is None or "string" in allowed:
            return self._lark.until(name, self._end)
        if allowed <= _WORDS.keys():
            return join(either(*(_WORDS[kind] for kind in sorted(allowed))), end)
        return join(self._lark.json(name, _rooted(schema, self._root)), end)

    def is_beyond(self, schema: Any) -> bool:
        """Whether a string in it has to be more than can be held."""
        allowed, meant = kinds(schema, self._root), self._resolved(schema)
        if "enum" in meant or "const" in meant or (allowed and "string" not in allowed):
            return False
        of_strings = OF_STRINGS & set(_keys(_rooted(schema, self._root)))
        return bool(of_strings) if allowed != frozenset({"string"}) else "format" in meant

    def _resolved(self, schema: Any) -> dict[str, Any]:
        for _ in range(16):
            if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
                break
            schema = resolve(schema["$ref"], self._root)
        return schema if isinstance(schema, dict) else {}

    def _string(self, name: str, schema: dict[str, Any]) -> str:
        """A terminal for what a string may be; its end is not in it, or it would not end there."""
        least, most = schema.get("minLength", 0), schema.get("maxLength", "")
        parts = []
        if least or most != "":
            parts.append(f"/(?s:.){{{least},{most}}}/")
        if isinstance(pattern := schema.get("pattern"), str):
            before = "" if pattern.startswith("^") else "(?s:.*)"
            after = "" if pattern.endswith("$") else "(?s:.*)"
            middle = regex_to_lark(pattern.removeprefix("^").removesuffix("$"), "dw")
            parts.append(f"/{before}({middle}){after}/")
        if not parts:
            return TEXT
        ends = plain(self._end).replace("\n", r"\n")
        return self._lark.rule(name, " & ".join([*parts, TEXT, f"~/(?s:.*{ends}.*)/"]))


def _rooted(schema: Any, root: Any) -> Any:
    """`schema` on its own, with what its references mean."""
    if "$ref" not in set(_keys(schema)):
        return schema
    return {**_moved(schema), "$defs": {"tool": _moved(root)}}


def _moved(schema: Any) -> Any:
    """With references into the tool's schema, which stands at #/$defs/tool."""
    if isinstance(schema, list):
        return [_moved(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value) for key, value in schema.items()}
    if isinstance(reference := schema.get("$ref"), str) and reference.startswith("#"):
        moved["$ref"] = "#/$defs/tool" + reference[1:]
    return moved


def _keys(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for part in schema:
            yield from _keys(part)
    elif isinstance(schema, dict):
        yield from schema
        for part in schema.values():
            yield from _keys(part)


def _too_strict(pointer: str) -> InvalidRequest:
    detail = "cannot be held to strictly by this model, which writes arguments one by one"
    return InvalidRequest(
        f"{pointer} {detail}; leave it or `strict` out",
        param="tools",
        errors=[{"pointer": pointer, "detail": detail}],
    )


def _pointed(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
