"""Grammars for arguments that a family writes one by one, between markers and without quotes."""

from __future__ import annotations

import json
from typing import Any, Final

from llguidance import regex_to_lark

from tabagent import wire
from tabagent.errors import InvalidRequest
from tabagent.worker.dialect.lark import TEXT, Lark, either, join, plain
from tabagent.worker.dialect.schema_parts import alone, keywords, kinds, members, resolved
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

NAME: Final = '/[^<>"\\s]{1,64}/'

_WORDS: Final = {"boolean": "/true|false|True|False/", "null": "/null|None/"}


def arguments_one_by_one(
    lark: Lark, name: str, shape: Shape, tool: wire.Tool, schema: dict[str, Any]
) -> str:
    """A rule for the arguments of `tool`: the declared ones in order, without those left out.

    Raises InvalidRequest where a strict tool asks for more than can be held this way.
    """
    lark.check(schema, tool.pointer)
    whole = resolved(schema, schema)
    if tool.strict and (beyond := sorted(BEYOND & whole.keys())):
        raise _too_strict(f"{tool.pointer}/{beyond[0]}")
    declared, required = members(schema)
    values = _Values(lark, shape.texts[2], tool.pointer, schema)
    arguments = []
    for number, (key, one) in enumerate(declared.items()):
        if tool.strict and values.is_beyond(one):
            raise _too_strict(f"{tool.pointer}/properties/{pointed(key)}")
        before = lark.literal(shape.texts[0] + key + shape.texts[1])
        value = values.value(f"{name}_{number}_value", key, one)
        argument = lark.rule(f"{name}_{number}", join(before, value))
        arguments.append(argument if key in required else f"{argument}?")
    other = whole.get("additionalProperties", {})
    if not declared and other is not False:  # names that the model thinks of
        before = join(lark.literal(shape.texts[0]), NAME, lark.literal(shape.texts[1]))
        argument = lark.rule(
            f"{name}_other", join(before, values.value(f"{name}_value", "", other))
        )
        arguments.append(f"{argument}*")
    return lark.rule(name, join(*arguments) or '""')


class _Values:
    """Values as they are written: strings as they are, everything else as JSON."""

    def __init__(self, lark: Lark, end: str, pointer: str, root: Any) -> None:
        self._lark = lark
        self._end = end
        self._pointer = pointer
        self._root = root

    def value(self, name: str, key: str, schema: Any) -> str:
        """A rule for the value of the argument `key`, and its end."""
        meant = resolved(schema, self._root)
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
        pointer = f"{self._pointer}/properties/{pointed(key)}"
        return join(self._lark.json(name, alone(schema, self._root), pointer), end)

    def is_beyond(self, schema: Any) -> bool:
        """Whether a string in it has to be more than can be held."""
        allowed, meant = kinds(schema, self._root), resolved(schema, self._root)
        if "enum" in meant or "const" in meant or (allowed and "string" not in allowed):
            return False
        of_strings = OF_STRINGS & set(keywords(alone(schema, self._root)))
        return bool(of_strings) if allowed != frozenset({"string"}) else "format" in meant

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
        return self._lark.rule(name, " & ".join([*parts, TEXT, f"~/(?s:.*{plain(self._end)}.*)/"]))


def _too_strict(pointer: str) -> InvalidRequest:
    detail = "cannot be held to strictly by this model, which writes arguments one by one"
    return InvalidRequest(
        f"{pointer} {detail}; leave it or `strict` out",
        param="tools",
        errors=[{"pointer": pointer, "detail": detail}],
    )


def pointed(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
