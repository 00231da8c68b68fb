"""A checked schema as the grammar compiler takes it and keeps it to the letter.

Older spellings become today's, what the compiler gets wrong is said in another way, annotations
go, and everything a reference points at becomes a numbered definition. The result is never wider
than the schema; it is a little narrower where the comments say so.
"""

from __future__ import annotations

from typing import Any, Final

from tabagent.worker.constraint import formats, pattern
from tabagent.worker.constraint.document import Document, Path
from tabagent.worker.constraint.keywords import COUNTS, REACH

NUDGE: Final = 1e-12
_SAME: Final = ("multipleOf", "required", "const", "enum")


class Rewriter:
    """`tags` as Alternatives found them. `problems` fills while rewriting."""

    def __init__(self, document: Document, tags: dict[Path, set[str]]) -> None:
        self.problems: list[tuple[Path, str]] = []
        self._document, self._tags = document, tags
        self._names: dict[Path, str] = {}  # of the definitions
        self._combined = _combined(document)

    def rewrite(self) -> dict[str, Any]:
        root = self._schema(())
        definitions: dict[str, Any] = {}
        while len(definitions) < len(self._names):  # rewriting one may name others
            for path, name in list(self._names.items())[len(definitions) :]:
                definitions[name] = self._schema(path)
        assert isinstance(root, dict), "what nothing satisfies is refused before"
        return {**root, **({"$defs": definitions} if definitions else {})}

    def _schema(self, path: Path) -> Any:
        schema = self._document.schemas[path]
        if isinstance(schema, bool):
            return {} if schema else False
        out: dict[str, Any] = {k: schema[k] for k in ("type", *_SAME) if k in schema}
        out |= {k: int(schema[k]) for k in sorted(COUNTS) if k in schema}
        out |= _numbers(schema)
        more = self._strings(schema, out)
        self._arrays(path, out)
        self._objects(path, schema, out)
        for keyword in ("allOf", "anyOf", "oneOf"):
            parts = [self._schema(part) for part in self._document.children(path, keyword)]
            if keyword == "allOf":
                more += parts
            elif parts and "anyOf" not in out:
                out["anyOf"] = parts
            elif parts:
                more.append({"anyOf": parts})
        target = self._document.target(path)
        if target is not None:
            out["$ref"] = f"#/$defs/{self._names.setdefault(target, f'd{len(self._names)}')}"
        if more:
            out["allOf"] = more
        return out

    def _strings(self, schema: dict[str, Any], out: dict[str, Any]) -> list[Any]:
        """Returns what must hold beside `out`."""
        expressions = pattern.whole(schema["pattern"]) if "pattern" in schema else []
        name = schema.get("format")
        if name in formats.PATTERNS:
            expressions += pattern.whole(formats.PATTERNS[name])
        elif name in formats.COMPILED:
            out["format"] = name
        if expressions:
            out["pattern"] = expressions[0]
        types = {"type": schema["type"]} if "type" in schema else {}
        return [{**types, "pattern": expression} for expression in expressions[1:]]

    def _arrays(self, path: Path, out: dict[str, Any]) -> None:
        children = self._document.children
        first, rest = children(path, "prefixItems"), children(path, "items")
        if isinstance(self._document.schemas[path].get("items"), list):  # of older drafts
            first, rest = rest, children(path, "additionalItems")
        if first:
            out["prefixItems"] = [self._schema(item) for item in first]
        if rest:
            out["items"] = self._schema(rest[0])

    def _objects(self, path: Path, schema: dict[str, Any], out: dict[str, Any]) -> None:
        for keyword in ("properties", "patternProperties"):
            if keyword in schema:
                values = map(self._schema, self._document.children(path, keyword))
                names = [
                    pattern.whole(name)[0] if keyword == "patternProperties" else name
                    for name in schema[keyword]
                ]
                out[keyword] = dict(zip(names, values, strict=True))
        if "additionalProperties" in schema:
            out["additionalProperties"] = self._schema((*path, "additionalProperties"))
        elif path not in self._combined and _lists_all(schema):
            out["additionalProperties"] = False
        if path in self._tags:
            tags = sorted(self._tags[path])  # narrower: what tells alternatives apart is written
            out["required"] = list(dict.fromkeys([*schema.get("required", []), *tags]))
        if "propertyNames" in schema:
            self._property_names(path, out)

    def _property_names(self, path: Path, out: dict[str, Any]) -> None:
        value = out.pop("additionalProperties", {})
        names = self._document.schemas[path]["propertyNames"]
        seen = (*path, "propertyNames")
        while isinstance(names, dict) and _meaning(names) == {"$ref"}:
            target = self._document.target(seen)
            assert target is not None
            seen, names = target, self._document.schemas[target]
        said = set[str]() if isinstance(names, bool) else _meaning(names)
        if names is False or said == {"const"} or said == {"enum"}:
            listed = [] if names is False else names.get("enum", [names.get("const")])
            out["properties"] = {name: value for name in listed if isinstance(name, str)}
            out["additionalProperties"] = False
        elif not said:
            out["additionalProperties"] = value
        elif said == {"pattern"} and len(expressions := pattern.whole(names["pattern"])) == 1:
            out["patternProperties"] = {expressions[0]: value}
            out["additionalProperties"] = False
        elif said <= {"minLength", "maxLength"}:
            least, most = names.get("minLength", 0), names.get("maxLength", "")
            out["patternProperties"] = {f"^(?s:.{{{least},{most}}})$": value}
            out["additionalProperties"] = False
        else:
            said_what = "is enforced when it is a list of names, a pattern or a length"
            self.problems.append(((*path, "propertyNames"), said_what))


def _meaning(schema: dict[str, Any]) -> set[str]:
    """The keywords by which a schema of names asks for something."""
    asking = {"const", "enum", "pattern", "minLength", "maxLength", "format"}
    asking |= {"$ref", "allOf", "anyOf", "oneOf"} | (
        {"type"} if schema.get("type") != "string" else set()
    )
    return asking & schema.keys()


def _lists_all(schema: dict[str, Any]) -> bool:
    """Whether it lists properties and says nothing of others.

    Then it gets no others, which is narrower: a small model would never stop adding them.
    """
    silent = not schema.keys() & {"minProperties", "propertyNames"}
    listed = schema.get("properties", {}).keys()
    lists = bool(schema.keys() & {"properties", "patternProperties"})
    return silent and lists and listed >= set(schema.get("required", []))


def _numbers(schema: dict[str, Any]) -> dict[str, Any]:
    """The bounds. Those beyond the compiler's reach are drawn in, which is narrower."""
    out: dict[str, Any] = {}
    low, high = formats.RANGES.get(schema.get("format", ""), (None, None))
    lows = [bound for bound in (low, schema.get("minimum")) if bound is not None]
    highs = [bound for bound in (high, schema.get("maximum")) if bound is not None]
    for key, bounds, inward in (("exclusiveMinimum", lows, 1), ("exclusiveMaximum", highs, -1)):
        if key in schema:
            bound = schema[key]
            if schema.get("type") == "integer" or not float(bound).is_integer():
                out[key] = min(max(bound, -REACH), REACH)
            else:
                # The compiler lets a whole bound itself through when the other bound is less than
                # one away. So the next number but a trillionth, which is narrower.
                bounds.append(bound + inward * NUDGE * max(abs(bound), 1))
    if lows:
        out["minimum"] = max(max(lows), -REACH)
    if highs:
        out["maximum"] = min(min(highs), REACH)
    return out


def _combined(document: Document) -> set[Path]:
    """Schemas whose objects another schema also speaks of: closing one would close the others."""
    found: set[Path] = set()
    todo: list[Path] = []
    for path, schema in document.schemas.items():
        if isinstance(schema, dict):
            parts = document.in_place(path)
            alone = len(document.children(path, "allOf")) < 2 and len(_speaking(schema)) < 2
            if parts and not alone:
                todo += [path, *parts]
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found.add(path)
        todo += document.in_place(path)
        for keyword in ("properties", "patternProperties", "additionalProperties", "items"):
            todo += document.children(path, keyword)
        todo += document.children(path, "prefixItems") + document.children(path, "additionalItems")
    return found


def _speaking(schema: dict[str, Any]) -> set[str]:
    """Keywords that speak of the value itself; all of an object's own count as one."""
    parts = schema.keys() & {"$ref", "allOf", "anyOf", "oneOf"}
    own = schema.keys() & {"properties", "patternProperties", "additionalProperties", "required"}
    return parts | ({"properties"} if own else set())
