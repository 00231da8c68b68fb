"""Whether a schema whose references form circles can be satisfied by something that ends."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Final

from tabagent.worker.constraint.document import Document, Path

LONGEST_CHAIN: Final = 64  # references and alternatives that lead to each other in one place


def circles(document: Document) -> list[tuple[Path, str]]:
    """Schemas that lead back to themselves before they say anything, and chains too long."""
    heights: dict[Path, int] = {}  # of what is known to end
    entered: set[Path] = set()
    for start in document.schemas:
        todo = [start]
        while todo:
            path = todo[-1]
            following = document.in_place(path)
            if path not in entered:
                entered.add(path)
                todo += [p for p in following if p not in entered]
                continue
            todo.pop()
            if path in heights:
                continue
            if any(p not in heights for p in following):
                return [(path, "leads back to itself without saying anything")]
            heights[path] = 1 + max((heights[p] for p in following), default=0)
            if heights[path] > LONGEST_CHAIN:
                return [(path, f"leads through more than {LONGEST_CHAIN} references")]
    return []


def endless(document: Document) -> list[tuple[Path, str]]:
    """The schema that demands more without end, or that nothing satisfies, if the root does."""
    ends: set[Path] = set()
    waiting: dict[Path, set[Path]] = defaultdict(set)
    queue = deque(document.schemas)
    while queue:
        path = queue.popleft()
        if path in ends:
            continue
        missing = _missing(document, path, ends)
        if missing is None:
            ends.add(path)
            queue += waiting.pop(path, ())
        else:
            for needed in missing:
                waiting[needed].add(path)
    if () in ends:
        return []
    place: Path = ()
    seen = {place}
    while (missing := _missing(document, place, ends)) and not seen >= missing:
        place = next(p for p in sorted(missing) if p not in seen)
        seen.add(place)
    said = "nothing satisfies it" if not missing else "demands itself, or more like it, without end"
    return [(place, said)]


def _missing(document: Document, path: Path, ends: set[Path]) -> set[Path] | None:
    """What must turn out to end before `path` does; None when it ends already."""
    schema = document.schemas[path]
    if isinstance(schema, bool):
        return None if schema else set()
    target = document.target(path)
    needed = set(document.children(path, "allOf")) | ({target} if target is not None else set())
    needed -= ends
    for keyword in ("anyOf", "oneOf"):
        options = set(document.children(path, keyword))
        if options and not options & ends:
            needed |= options
    if needed or "const" in schema or "enum" in schema:
        return needed or None
    types = schema.get("type", "null")
    types = [types] if isinstance(types, str) else types
    if set(types) - {"object", "array"}:
        return None
    ways = [_contents(document, path, name) - ends for name in types]
    return None if not all(ways) else set().union(*ways)


def _contents(document: Document, path: Path, type_name: str) -> set[Path]:
    """What an object or array at `path` cannot be without."""
    schema = document.schemas[path]
    if type_name == "object":
        properties = {p[-1]: p for p in document.children(path, "properties")}
        others = document.children(path, "additionalProperties")
        open_names = schema.get("patternProperties")
        return {
            p
            for name in schema.get("required", [])
            for p in ([properties[name]] if name in properties else [] if open_names else others)
        }
    first = document.children(path, "prefixItems")
    rest = document.children(path, "items")
    if isinstance(schema.get("items"), list):
        first, rest = rest, document.children(path, "additionalItems")
    least = int(schema.get("minItems", 0))
    return set(first[:least]) | set(rest if least > len(first) else [])
