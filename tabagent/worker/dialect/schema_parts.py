"""Parts of a tool's schema: its arguments one by one, and each of them on its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


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


def resolved(schema: Any, root: Any) -> dict[str, Any]:
    """`schema`, or what it refers to; {} where that is nothing."""
    seen: set[str] = set()
    while isinstance(schema, dict) and isinstance(reference := schema.get("$ref"), str):
        if reference in seen:
            return {}
        seen.add(reference)
        schema = resolve(reference, root)
    return schema if isinstance(schema, dict) else {}


def members(root: Any) -> tuple[dict[str, Any], set[str]]:
    """The schemas of all members that an object may have by name, and which it must have."""
    declared: dict[str, Any] = {}
    required: set[str] = set()
    # (schema, whether it always holds); each is looked at once, so circles end.
    waiting, seen = [(root, True)], set[int]()
    while waiting:
        part, always = waiting.pop(0)
        schema = resolved(part, root)
        if id(schema) in seen:
            continue
        seen.add(id(schema))
        for name, one in _mapping(schema.get("properties")).items():
            declared.setdefault(name, one)
        if always:
            required.update(n for n in _sequence(schema.get("required")) if isinstance(n, str))
        waiting += [(each, always) for each in _sequence(schema.get("allOf"))]
        for key in ("anyOf", "oneOf"):
            waiting += [(each, False) for each in _sequence(schema.get(key))]
    for name in sorted(required - declared.keys()):
        declared[name] = {}
    return declared, required


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


def alone(schema: Any, root: Any) -> Any:
    """`schema` as a document of its own, with what its references mean in `root`."""
    if "$ref" not in set(keywords(schema)):
        return schema
    return {**_moved(schema), "$defs": {"tool": _moved(root)}}


def _moved(schema: Any) -> Any:
    """With references to what stands at #/$defs/tool now."""
    if isinstance(schema, list):
        return [_moved(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value) for key, value in schema.items()}
    if isinstance(reference := schema.get("$ref"), str) and reference.startswith("#"):
        moved["$ref"] = "#/$defs/tool" + reference[1:]
    return moved


def keywords(schema: Any) -> Iterator[str]:
    """Every member's name in `schema`, at any depth."""
    if isinstance(schema, list):
        for part in schema:
            yield from keywords(part)
    elif isinstance(schema, dict):
        yield from schema
        for part in schema.values():
            yield from keywords(part)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _sequence(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
