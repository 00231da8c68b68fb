"""What a Word document's styles and numbering say about a paragraph."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

HEADING: Final = re.compile(r"heading ([1-9])$", re.I)
CODE: Final = re.compile(r"\b(?:code|preformatted|verbatim)\b", re.I)

Element = Any  # lxml has no types


def local(element: Element) -> str:
    """The name without its namespace: strict and transitional documents differ in it."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def child(element: Element | None, *names: str) -> Element | None:
    """The first descendant down this path."""
    for name in names:
        if element is None:
            return None
        element = next((found for found in element if local(found) == name), None)
    return element


def value(element: Element | None, name: str = "val") -> str:
    if element is None:
        return ""
    found = (v for k, v in element.attrib.items() if k.rpartition("}")[2] == name)
    return str(next(found, ""))


class Style(NamedTuple):
    level: int = 0  # of a heading
    code: bool = False
    numbering: tuple[str, str] | None = None  # numId and level


class Styles:
    """The paragraph styles by their id, which is in the writer's language; their name is not."""

    def __init__(self, root: Element | None) -> None:
        self._styles: dict[str, Style] = {}
        for style in [] if root is None else root:
            if local(style) == "style":
                self._styles[value(style, "styleId")] = self._read(style)

    def of(self, paragraph: Element) -> Style:
        properties = child(paragraph, "pPr")
        style = self._styles.get(value(child(properties, "pStyle")), Style())
        outline = value(child(properties, "outlineLvl"))
        if outline.isdigit() and int(outline) < 9:
            style = style._replace(level=min(int(outline) + 1, 6))
        return style

    def _read(self, style: Element) -> Style:
        name = value(child(style, "name"))
        level = 1 if name.lower() == "title" else 0
        outline = value(child(style, "pPr", "outlineLvl"))
        if found := HEADING.match(name):
            level = min(int(found[1]), 6)
        elif outline.isdigit() and int(outline) < 9:
            level = min(int(outline) + 1, 6)
        numbers = child(style, "pPr", "numPr")
        numbering = (value(child(numbers, "numId")), value(child(numbers, "ilvl")) or "0")
        return Style(level, bool(CODE.search(name)), numbering if numbering[0] else None)


class Numbering:
    """Which lists count and which have bullets, and where each has got to."""

    def __init__(self, root: Element | None) -> None:
        kinds: dict[str, dict[str, str]] = {}
        self._lists: dict[str, dict[str, str]] = {}
        self._counts: dict[tuple[str, int], int] = {}
        for element in [] if root is None else root:
            if local(element) == "abstractNum":
                kinds[value(element, "abstractNumId")] = {
                    value(level, "ilvl"): value(child(level, "numFmt"))
                    for level in element
                    if local(level) == "lvl"
                }
        for element in [] if root is None else root:
            if local(element) == "num":
                abstract = value(child(element, "abstractNumId"))
                self._lists[value(element, "numId")] = kinds.get(abstract, {})

    def item(self, paragraph: Element, inherited: tuple[str, str] | None) -> tuple[int, str] | None:
        """How deep an item it is, and its mark; None when it is none."""
        numbers = child(paragraph, "pPr", "numPr")
        which = value(child(numbers, "numId")) or (inherited[0] if inherited else "")
        level = value(child(numbers, "ilvl")) or (inherited[1] if inherited else "0")
        if which in ("", "0") or not (level.isascii() and level.isdigit()):
            return None
        depth = min(int(level), 8)
        form = self._lists.get(which, {}).get(level, "bullet")
        if form in ("bullet", "none", ""):
            return depth, "-"
        for deeper in range(depth + 1, 9):
            self._counts.pop((which, deeper), None)
        count = self._counts[which, depth] = self._counts.get((which, depth), 0) + 1
        return depth, f"{count}."
