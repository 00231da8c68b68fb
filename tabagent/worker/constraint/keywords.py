"""What each keyword of a JSON schema may hold for us to enforce it.

A keyword that is in none of these tables is refused: the grammar compiler would ignore it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Final

from tabagent.worker.constraint import formats, pattern

TYPES: Final = ("null", "boolean", "integer", "number", "string", "array", "object")
MOST: Final = 2000  # of anything that is counted or repeated
REACH: Final = 10**17  # bounds of numbers; the compiler's own end a little later
UNWRITABLE: Final = frozenset(map(chr, [*range(32), 127])) - set("\b\t\n\f\r")
"""Characters that no answer holds: they would need the escape \\uXXXX, see grammar.OPTIONS."""
LARGEST_MULTIPLE: Final = 10_000  # in units of its last digit: one state of the lexer each

ANNOTATIONS: Final = frozenset(
    {"title", "description", "default", "examples", "example", "deprecated", "readOnly"}
    | {"writeOnly", "$comment", "$schema", "$anchor"}
    | {"contentEncoding", "contentMediaType", "contentSchema"}
)
LISTS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})  # of schemas
MAPS: Final = frozenset({"properties", "patternProperties", "$defs", "definitions"})
SINGLES: Final = frozenset({"items", "additionalItems", "additionalProperties", "propertyNames"})
COUNTS: Final = frozenset(
    {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}
)
BOUNDS: Final = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_HINTS: Final = {
    "nullable": 'write "type": ["string", "null"] or the like',
    "not": "say what the value may be instead",
    "if": "use anyOf",
    "then": "use anyOf",
    "else": "use anyOf",
    "dependencies": "use anyOf",
    "$dynamicRef": "use $ref",
    "$recursiveRef": "use $ref",
}


def complaint(key: str, value: Any, *, at_root: bool) -> str | None:
    """Why `key` cannot hold `value`, or None. Does not look into schemas inside `value`."""
    if key in ANNOTATIONS or (key == "$id" and at_root):
        return None
    if check := _CHECKS.get(key):
        return check(value)
    if key in LISTS:
        return None if isinstance(value, list) and value else "must be a list of schemas, not empty"
    if key in MAPS:
        return None if isinstance(value, dict) else "must be an object of schemas"
    if key in SINGLES:
        return None
    if key in COUNTS:
        return _count(value)
    if key in BOUNDS:
        return _bound(value, lower=key.endswith("inimum"))
    hint = _HINTS.get(key)
    return "is not enforced" + (f"; {hint}" if hint else "")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def kind(value: Any) -> str:
    """The JSON type of a value; every number is a `number`."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def of_type(value: Any, types: list[str]) -> bool:
    own = kind(value)
    return own in types or (own == "number" and "integer" in types and float(value).is_integer())


def _count(value: Any) -> str | None:
    if not is_number(value) or not float(value).is_integer() or value < 0:
        return "must be a whole number, 0 or more"
    return f"must be at most {MOST:,}" if value > MOST else None


def _bound(value: Any, *, lower: bool) -> str | None:
    if isinstance(value, bool):
        return "must be a number; a true or false here is of an older draft"
    if not is_number(value):
        return "must be a number"
    beyond = value > REACH if lower else value < -REACH
    return f"is out of reach; numbers are bounded up to {REACH:.0e}" if beyond else None


def _type(value: Any) -> str | None:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name in TYPES for name in names):
        return f"must be one or several of {', '.join(TYPES)}"
    return None


def _format(value: Any) -> str | None:
    if not isinstance(value, str):
        return "must be a string"
    known = ", ".join(sorted(formats.KNOWN))
    return None if value in formats.KNOWN else f"the format is not enforced; known are {known}"


def _pattern(value: Any) -> str | None:
    if not isinstance(value, str):
        return "must be a string"
    try:
        pattern.whole(value)
    except pattern.PatternError as error:
        return str(error)
    return None


def _required(value: Any) -> str | None:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        return "must be a list of strings"
    return None


def _enum(value: Any) -> str | None:
    if not isinstance(value, list) or not value:
        return "must be a list of values, not empty"
    return next((said for item in value if (said := _literal(item))), None)


def _literal(value: Any) -> str | None:
    """Why a constant cannot be written out exactly."""
    for part in _leaves(value):
        if isinstance(part, str) and len(part) > MOST:
            return f"holds a string of more than {MOST:,} characters"
        if isinstance(part, str) and not UNWRITABLE.isdisjoint(part):
            return "holds a control character that is never written"
        if is_number(part) and (abs(part) > REACH or float(part) != part):
            return "holds a number too large to be exact; write it as a string"
    return None


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value
        for part in value.values():
            yield from _leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _multiple(value: Any) -> str | None:
    if not is_number(value) or value <= 0:
        return "must be a number above 0"
    units = Decimal(repr(value)).normalize().as_tuple()
    digits = int("".join(map(str, units.digits))) * 10 ** max(int(units.exponent), 0)
    if digits > LARGEST_MULTIPLE:
        return f"is enforced up to {LARGEST_MULTIPLE:,}, counted in units of its last digit"
    # The compiler multiplies by ten until nothing is left behind the point; not all doubles end.
    scaled = float(value)
    while not math.isinf(scaled) and not scaled.is_integer():
        scaled *= 10.0
    return None if scaled == digits else "cannot be enforced exactly"


def _reference(value: Any) -> str | None:
    return None if isinstance(value, str) else "must be a string"


def _unique(value: Any) -> str | None:
    return None if value is False else "is not enforced; items may repeat"


def _discriminator(value: Any) -> str | None:
    if (
        not isinstance(value, dict)
        or not isinstance(value.get("propertyName"), str)
        or not isinstance(value.get("mapping", {}), dict)
        or not value.keys() <= {"propertyName", "mapping"}
    ):
        return "must be an object with a propertyName and perhaps a mapping"
    return None


_CHECKS: Final[dict[str, Callable[[Any], str | None]]] = {
    "type": _type,
    "enum": _enum,
    "const": _literal,
    "format": _format,
    "pattern": _pattern,
    "required": _required,
    "multipleOf": _multiple,
    "uniqueItems": _unique,
    "$ref": _reference,
    "discriminator": _discriminator,
}
