"""`oneOf`: may two alternatives hold at once? If not, it is an `anyOf`, which can be enforced.

Pydantic and OpenAPI write unions that a tag tells apart as `oneOf` with a `discriminator`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import wraps
from itertools import combinations
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from tabagent.worker.constraint.document import Document, Path
from tabagent.worker.constraint.keywords import TYPES, kind

MOST: Final = 100
_KINDS: Final = frozenset(TYPES) - {"integer"}  # an integer is a number
_P = ParamSpec("_P")
_T = TypeVar("_T")


def _remembered(
    method: Callable[Concatenate[Alternatives, _P], _T],
) -> Callable[Concatenate[Alternatives, _P], _T]:
    """References let a schema be reached in more ways than can be walked: answer once for each."""

    @wraps(method)
    def recall(self: Alternatives, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        key = (method.__name__, *args)
        if key not in self.memory:
            self.memory[key] = method(self, *args, **kwargs)
        found: _T = self.memory[key]
        return found

    return recall


class Alternatives:
    """Judges the unions of a document without circles.

    `problems` are unions that cannot be enforced; `tags` has the properties that an object must
    have for its union to be decided, by the object's path.
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        self.memory: dict[tuple[Any, ...], Any] = {}
        self.problems: list[tuple[Path, str]] = []
        self.tags: dict[Path, set[str]] = {}
        for path, schema in document.schemas.items():
            if isinstance(schema, dict) and ("oneOf" in schema or "discriminator" in schema):
                self._judge(path, schema)

    def _judge(self, path: Path, schema: dict[str, Any]) -> None:
        one_of = self._document.children(path, "oneOf")
        tag = schema.get("discriminator", {}).get("propertyName")
        if tag is not None:
            said = self._discriminates(path, schema["discriminator"], tag)
            if said:
                self.problems.append(((*path, "discriminator"), said))
                return
            for option in one_of or self._document.children(path, "anyOf"):
                self._demand(option, tag)
        if len(one_of) > MOST:
            self.problems.append(((*path, "oneOf"), f"has more than {MOST} alternatives"))
            return
        for a, b in combinations(one_of, 2):
            if not self._apart(a, b, tag):
                said = f"alternatives {a[-1]} and {b[-1]} could hold at once; use anyOf"
                self.problems.append(((*path, "oneOf"), said))
                return

    def _discriminates(self, path: Path, said: dict[str, Any], tag: str) -> str | None:
        options = self._document.children(path, "oneOf") or self._document.children(path, "anyOf")
        found = [self._property_values(option, tag) for option in options]
        if not found or None in found:
            return f"every alternative must fix the property {tag} with const or enum"
        known = set().union(*(values for values in found if values is not None))
        if "mapping" in said and {_canonical(name) for name in said["mapping"]} != known:
            return f"the mapping names other values than the alternatives fix {tag} to"
        return None

    def _apart(self, a: Path, b: Path, tag: str | None) -> bool:
        common = self._kinds(a) & self._kinds(b)
        if not common:
            return True
        values_a, values_b = self._values(a), self._values(b)
        if values_a is not None and values_b is not None:
            return not values_a & values_b
        if common != {"object"}:
            return False
        for name in sorted(self._names(a) & self._names(b)):
            if name == tag or self._requires(a, name) or self._requires(b, name):
                tags_a, tags_b = self._property_values(a, name), self._property_values(b, name)
                if tags_a is not None and tags_b is not None and not tags_a & tags_b:
                    return True
        return False

    @_remembered
    def _demand(self, path: Path, tag: str) -> None:
        """Make every object under `path` that has the property `tag` always write it."""
        schema = self._document.schemas[path]
        if isinstance(schema, dict) and tag in schema.get("properties", {}):
            self.tags.setdefault(path, set()).add(tag)
        for part in self._document.in_place(path):
            self._demand(part, tag)

    # ---- what is known of the value at a path ------------------------------------------------------
    @_remembered
    def _kinds(self, path: Path) -> frozenset[str]:
        """The JSON types it can have, at most."""
        schema = self._document.schemas[path]
        if isinstance(schema, bool):
            return _KINDS if schema else frozenset()
        types = schema.get("type", list(_KINDS))
        kinds = frozenset(types if isinstance(types, list) else [types])
        if "integer" in kinds:
            kinds = kinds - {"integer"} | {"number"}
        for key in ("const", "enum"):
            if key in schema:
                kinds &= {kind(v) for v in (schema[key] if key == "enum" else [schema[key]])}
        for part in self._all(path):
            kinds &= self._kinds(part)
        for options in self._unions(path):
            kinds &= frozenset[str]().union(*map(self._kinds, options))
        return kinds

    @_remembered
    def _values(self, path: Path) -> frozenset[str] | None:
        """All that it can be, when that is a list."""
        schema = self._document.schemas[path]
        if isinstance(schema, bool):
            return None if schema else frozenset()
        if "const" in schema:
            return frozenset({_canonical(schema["const"])})
        if "enum" in schema:
            return frozenset(map(_canonical, schema["enum"]))
        if schema.get("type") == "null":
            return frozenset({_canonical(None)})
        if schema.get("type") == "boolean":
            return frozenset({_canonical(True), _canonical(False)})
        found = [v for p in self._all(path) if (v := self._values(p)) is not None]
        found += [v for o in self._unions(path) if (v := _union(map(self._values, o))) is not None]
        return frozenset.intersection(*found) if found else None

    @_remembered
    def _property_values(self, path: Path, name: str) -> frozenset[str] | None:
        """All that the property `name` can be where it is, when that is a list."""
        schema = self._document.schemas[path]
        if isinstance(schema, bool):
            return None
        if name in schema.get("properties", {}):
            found = self._values((*path, "properties", name))
            if found is not None:
                return found
        for part in self._all(path):
            if (found := self._property_values(part, name)) is not None:
                return found
        for options in self._unions(path):
            found = _union(self._property_values(option, name) for option in options)
            if found is not None:
                return found
        return None

    @_remembered
    def _requires(self, path: Path, name: str) -> bool:
        schema = self._document.schemas[path]
        return isinstance(schema, dict) and (
            name in schema.get("required", [])
            or any(self._requires(part, name) for part in self._all(path))
            or any(
                all(self._requires(option, name) for option in options)
                for options in self._unions(path)
            )
        )

    @_remembered
    def _names(self, path: Path) -> set[str]:
        schema = self._document.schemas[path]
        own = set() if isinstance(schema, bool) else set(schema.get("properties", {}))
        return own.union(*map(self._names, self._document.in_place(path)))

    def _all(self, path: Path) -> list[Path]:
        target = self._document.target(path)
        own = [target] if target is not None else []
        return own + self._document.children(path, "allOf")

    def _unions(self, path: Path) -> list[list[Path]]:
        found = [self._document.children(path, keyword) for keyword in ("anyOf", "oneOf")]
        return [options for options in found if options]


def _union(values: Iterable[frozenset[str] | None]) -> frozenset[str] | None:
    found: set[str] = set()
    for some in values:
        if some is None:
            return None
        found |= some
    return frozenset(found)


def _canonical(value: Any) -> str:
    """The same text for the same JSON value, and only for it."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, list):
        return f"[{','.join(map(_canonical, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{json.dumps(k)}:{_canonical(value[k])}' for k in sorted(value))}}}"
    return json.dumps(value)
