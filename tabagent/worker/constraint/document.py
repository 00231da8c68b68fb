"""A JSON schema taken apart: every schema in it by its place, checked keyword by keyword."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import unquote

from tabagent.worker.constraint import formats, keywords, pattern

LARGEST: Final = 64 * 1024  # bytes, serialised
DEEPEST: Final = 32  # schemas within schemas, and references that lead to references
DEEPEST_JSON: Final = 80  # levels of JSON, whatever they hold; two for a property
MOST_PROPERTIES: Final = 500

Path = tuple[str, ...]
"""Keys and indices from the root, as in a JSON pointer."""


class Document:
    """`schemas` has every schema by its path; `problems` what cannot be enforced, and where.

    Only without problems do the other methods mean anything.
    """

    def __init__(self, schema: Any) -> None:
        self.schemas: dict[Path, Any] = {}
        self.problems: list[tuple[Path, str]] = []
        self._properties = 0
        if not self._outside(schema):
            self._enter((), schema, DEEPEST)
            self._references()

    def target(self, path: Path) -> Path | None:
        """Where the `$ref` of the schema at `path` leads, if it has one."""
        schema = self.schemas[path]
        if isinstance(schema, bool) or "$ref" not in schema:
            return None
        return _pointed(schema["$ref"])

    def children(self, path: Path, keyword: str) -> list[Path]:
        """The schemas that a keyword of the schema at `path` holds."""
        schema = self.schemas[path]
        if isinstance(schema, bool) or keyword not in schema:
            return []
        value = schema[keyword]
        if keyword in keywords.MAPS:
            return [(*path, keyword, name) for name in value]
        if isinstance(value, list):
            return [(*path, keyword, str(i)) for i in range(len(value))]
        return [(*path, keyword)]

    def in_place(self, path: Path) -> list[Path]:
        """Schemas that speak of the same value as the one at `path`."""
        target = self.target(path)
        own = [target] if target is not None else []
        return own + [p for k in ("allOf", "anyOf", "oneOf") for p in self.children(path, k)]

    # ---- taking apart ---------------------------------------------------------------------------
    def _outside(self, schema: Any) -> bool:
        """What can be wrong before anything is a schema. True when something is."""
        try:
            size = len(json.dumps(schema, ensure_ascii=False).encode(errors="replace"))
        except RecursionError:
            self.problems.append(((), f"nests deeper than {DEEPEST} schemas"))
            return True
        except (TypeError, ValueError):
            self.problems.append(((), "must be JSON"))
            return True
        if size > LARGEST:
            self.problems.append(((), f"has {size:,} bytes; at most {LARGEST:,} are allowed"))
            return True
        self.problems += _unfit(schema)
        return bool(self.problems)

    def _enter(self, path: Path, schema: Any, levels: int) -> None:
        self.schemas[path] = schema
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict):
            self.problems.append((path, "must be a schema: an object, true or false"))
            return
        if levels == 0:
            self.problems.append((path, f"nests deeper than {DEEPEST} schemas"))
            return
        found = {
            key: said
            for key, value in schema.items()
            if (said := keywords.complaint(key, value, at_root=not path))
        }
        self.problems += [((*path, key), said) for key, said in found.items()]
        if not found:
            self.problems += [((*path, key), said) for key, said in _conflicts(schema)]
        for key, value in schema.items():
            if key not in found:
                self._enter_keyword(path, key, value, levels - 1)

    def _enter_keyword(self, path: Path, key: str, value: Any, levels: int) -> None:
        if key in keywords.MAPS:
            for name, child in value.items():
                self._name((*path, key, name), key, name)
                self._enter((*path, key, name), child, levels)
        elif key in keywords.LISTS or (key == "items" and isinstance(value, list)):
            for i, child in enumerate(value):
                self._enter((*path, key, str(i)), child, levels)
        elif key in keywords.SINGLES:
            self._enter((*path, key), value, levels)

    def _name(self, path: Path, key: str, name: str) -> None:
        if key not in ("properties", "patternProperties"):
            return
        self._properties += 1
        if self._properties == MOST_PROPERTIES + 1:
            said = f"the schema has more than {MOST_PROPERTIES} properties"
            self.problems.append((path, said))
        if key == "patternProperties":
            try:
                if len(pattern.whole(name)) > 1:
                    raise pattern.PatternError("looks around")
            except pattern.PatternError as error:
                self.problems.append((path, f"the pattern {error}"))
        elif literal := keywords.complaint("const", name, at_root=False):
            self.problems.append((path, f"the name {literal}"))

    def _references(self) -> None:
        for path, schema in self.schemas.items():
            if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
                continue
            reference = schema["$ref"]
            if reference != "#" and not reference.startswith("#/"):
                said = 'only references into this schema are followed, like "#/$defs/name"'
            elif _pointed(reference) not in self.schemas:
                said = "points at no schema"
            else:
                continue
            self.problems.append(((*path, "$ref"), said))


def pointer(path: Path) -> str:
    """RFC 6901."""
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)


def _pointed(reference: str) -> Path:
    parts = unquote(reference.removeprefix("#")).split("/")[1:]
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in parts)


def _unfit(value: Any) -> Iterator[tuple[Path, str]]:
    """Strings, numbers and depths that no JSON document of ours may have."""
    todo: list[tuple[Path, Any]] = [((), value)]
    while todo:
        path, part = todo.pop()
        if len(path) > DEEPEST_JSON:
            yield path, f"nests deeper than {DEEPEST_JSON} levels"
        elif isinstance(part, float) and not math.isfinite(part):
            yield path, "must be a finite number"
        elif isinstance(part, str) and not _is_text(part):
            yield path, "must be whole characters"
        elif isinstance(part, dict):
            for name, child in part.items():
                if not isinstance(name, str) or not _is_text(name):
                    yield path, "must have names of whole characters"
                else:
                    todo.append(((*path, name), child))
        elif isinstance(part, list):
            todo += [((*path, str(i)), child) for i, child in enumerate(part)]


def _is_text(value: str) -> bool:
    """Whether there is no half of a surrogate pair in it."""
    return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)


def _conflicts(schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Keywords, each right by itself, that are not right together."""
    for low, high in (
        ("minLength", "maxLength"),
        ("minItems", "maxItems"),
        ("minProperties", "maxProperties"),
        ("minimum", "maximum"),
    ):
        if low in schema and high in schema and schema[low] > schema[high]:
            yield high, f"is below {low}: nothing can satisfy both"
    types = schema.get("type", list(keywords.TYPES))
    types = types if isinstance(types, list) else [types]
    for key in ("const", "enum"):
        if key in schema:
            values = schema[key] if key == "enum" else [schema[key]]
            if not any(keywords.of_type(value, types) for value in values):
                yield key, f"has no value of type {' or '.join(types)}"
    if "prefixItems" in schema and isinstance(schema.get("items"), list):
        yield "items", "must be one schema beside prefixItems"
    name = schema.get("format")
    if name in formats.RANGES and not set(types) <= {"integer", "null"}:
        yield "format", f"{name} is enforced on integers only"
    yield from _property_counts(schema)
    if "propertyNames" in schema and schema.keys() & {"properties", "patternProperties"}:
        yield "propertyNames", "is not enforced beside properties or patternProperties"


def _property_counts(schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The compiler counts free properties by their number, and lets keys repeat."""
    required = set(schema.get("required", []))
    least = max(schema.get("minProperties", 0) - len(required), 0)
    most = schema.get("maxProperties")
    optional = set(schema.get("properties", {})) - required
    closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
    if least > 1:
        yield (
            "minProperties",
            "is enforced up to one more than is required: free keys may repeat",
        )
    if optional and (least or most is not None):
        single = closed and (most is None or most - len(required) == 1)
        if not single:
            key = "maxProperties" if most is not None else "minProperties"
            yield key, "is not enforced when properties are optional; make them required"
