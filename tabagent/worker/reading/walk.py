"""An HTML tree as Markdown: headings, lists, tables, definitions, code and links; nothing hidden.

One pass without recursion, since a page nests as deeply as its author likes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from lxml import etree

from tabagent.worker.reading import markdown


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


DROPPED: Final = _names(
    "script style template noscript head iframe object embed applet svg canvas audio video map nav"
    " footer button select input textarea option datalist progress meter dialog"
)
ROLES: Final = _names("navigation search banner contentinfo dialog menu menubar toolbar")
CLASSES: Final = _names("headerlink linenos lineno hash-link")
BLOCKS: Final = _names(
    "address article aside blockquote body caption center dd details div dl dt fieldset figcaption"
    " figure footer form h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main menu ol p pre"
    " section summary table tbody td tfoot th thead tr ul"
)
HEADINGS: Final = ("h1", "h2", "h3", "h4", "h5", "h6")
# A table with one of these lays a page out, or has cells that do not fit on a line.
WIDE: Final = ("table", "pre", "dl", "blockquote", "article", "section", *HEADINGS)
HIDING: Final = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)
LANGUAGE: Final = re.compile(r"(?:^|\s)(?:language|lang|highlight|brush:)[-\s]+([\w+#.-]{1,30})")
SPACE: Final = re.compile(r"\s+")
SPACES: Final = re.compile(" {2,}")
BREAK: Final = re.compile(r" ?\n[ \n]*")
DEEPEST: Final = 8  # lists and quotes within each other that still show

Element = Any  # lxml has no types
Resolve = Callable[[str], str]


class Walk:
    """`markdown(element)` once. `resolve` makes an href a URL, or "" where it leads nowhere."""

    def __init__(self, resolve: Resolve, *, whole: bool = False) -> None:
        self._resolve = resolve
        self._whole = whole  # of a page with its frame, which is left out then
        self.depth = 0
        self.skipped: list[Element] = []  # of a whole page
        self._parts: list[str] = []
        self._inline: list[str] = []
        self._marks: list[tuple[str, int, str]] = []  # open spans: kind, where they begin, URL
        self._lists: list[list[int]] = []  # the next number of each open list, 0 without numbers
        self._prefixes: list[tuple[str, str]] = []  # of an item's first line, and of those after
        self._fresh: set[int] = set()  # prefixes whose first line is still to come
        self._raw = 0  # within <pre>, which may nest
        self._title = 0  # within a heading or a signature: words alone
        self._rows: list[list[str]] | None = None
        self._listed = False  # the last block was an item's

    def markdown(self, root: Element) -> str:
        depth = 0
        walk = etree.iterwalk(root, events=("start", "end"))
        for event, element in walk:
            if event == "start":
                depth += 1
                self.depth = max(self.depth, depth)
                if element is not root and self._skipped(element):
                    walk.skip_subtree()
                    self._pass_over(element)
                    continue
                self._start(element.tag, element)
                if element.text:
                    self._say(element.text)
            else:
                depth -= 1
                if element is root or not self._skipped(element):
                    self._end(element.tag, element)
                if element.tail and element is not root:
                    self._say(element.tail)
        self._flush()
        return "".join(self._parts)

    def _skipped(self, element: Element) -> bool:
        tag = element.tag
        if tag in DROPPED:
            return True
        if self._whole and (tag == "aside" or (tag == "header" and _only_frame(element))):
            return True
        attributes = element.attrib
        if not attributes:
            return False
        return (
            "hidden" in attributes
            or attributes.get("role") in ROLES
            or bool(HIDING.search(attributes.get("style", "")))
            or not CLASSES.isdisjoint(attributes.get("class", "").split())
        )

    def _pass_over(self, element: Element) -> None:
        if self._whole:
            self.skipped.append(element)
        if element.tag in BLOCKS or element.tag in ("nav", "dialog"):
            self._flush()

    # ---- inline ---------------------------------------------------------------------------------
    def _say(self, text: str) -> None:
        self._inline.append(text if self._raw else SPACE.sub(" ", text))

    def _line(self) -> str:
        text, self._inline = "".join(self._inline), []
        self._marks = [(kind, 0, url) for kind, _, url in self._marks]
        return BREAK.sub("\n", SPACES.sub(" ", text)).strip()

    def _close_mark(self, kind: str) -> None:
        """End the innermost span of this kind: a link or a piece of code."""
        if not self._marks or self._marks[-1][0] != kind:
            return
        _, start, url = self._marks.pop()
        text = "".join(self._inline[start:])
        words = " ".join(text.split())
        if not words:
            return
        marked = markdown.link(words, url) if kind == "a" else markdown.code(words)
        before = " " if text[0].isspace() else ""
        after = " " if text[-1].isspace() else ""
        self._inline[start:] = [before + marked + after]

    def _markable(self) -> bool:
        return not (self._raw or self._title or any(kind == "code" for kind, _, _ in self._marks))

    # ---- blocks ---------------------------------------------------------------------------------
    def _start(self, tag: str, element: Element) -> None:
        if tag in BLOCKS:
            self._flush()
        if tag == "br":
            self._inline.append("\n")
        elif tag == "img":
            self._say(element.get("alt") or "")
        elif tag == "a":
            url = self._resolve(element.get("href") or "") if self._markable() else ""
            if url:
                self._marks.append(("a", len(self._inline), url))
        elif tag in ("code", "kbd", "samp", "tt"):
            if self._markable():
                self._marks.append(("code", len(self._inline), ""))
        elif tag == "pre":
            self._raw += 1
        elif tag in HEADINGS or _is_signature(tag, element):
            self._title += 1
        elif tag in ("ul", "ol", "menu"):
            self._lists.append([_number(element.get("start")) if tag == "ol" else 0])
        elif tag == "li":
            self._item()
        elif tag == "blockquote":
            self._indent("> ", "> ")
        elif tag == "table" and self._rows is None and next(_within(element), None) is None:
            self._rows = []
        elif tag == "tr" and self._rows is not None:
            self._rows.append([])

    def _end(self, tag: str, element: Element) -> None:
        if tag == "a" or tag in ("code", "kbd", "samp", "tt"):
            self._close_mark("a" if tag == "a" else "code")
        elif tag == "pre":
            self._end_pre(element)
        elif tag in HEADINGS and self._title:
            self._title -= 1
            if text := " ".join(self._line().split()):
                self._emit(markdown.heading(int(tag[1]), text))
        elif _is_signature(tag, element):
            self._title -= 1
            if text := " ".join(self._line().split()):
                self._emit(markdown.code(text))
        elif self._rows is not None and tag in ("td", "th"):
            if not self._rows:
                self._rows.append([])
            self._rows[-1].append(" ".join(self._line().split()))
        elif self._rows is not None and tag == "table":
            rows, self._rows = self._rows, None
            if text := markdown.table(rows):
                self._emit(text)
        elif self._rows is not None and tag == "caption":
            text, rows, self._rows = self._line(), self._rows, None
            self._emit(markdown.paragraph(text))
            self._rows = rows
        elif tag in BLOCKS:
            self._flush()
            if tag in ("ul", "ol", "menu") and self._lists:
                self._lists.pop()
            elif tag in ("li", "blockquote"):
                self._outdent()

    def _end_pre(self, element: Element) -> None:
        self._raw -= 1
        if self._raw:
            return
        code, self._inline = "".join(self._inline).strip("\n").expandtabs(4), []
        if self._rows is None and code.strip():
            self._emit(markdown.fence(code.rstrip(), _language(element)))
        elif code:
            self._inline = [code]

    def _flush(self) -> None:
        """What was said since the last block is a paragraph; in a cell or in code only a break."""
        if self._raw:
            if self._inline and not self._inline[-1].endswith("\n"):
                self._inline.append("\n")
        elif self._rows is not None or self._title:
            self._inline.append(" ")
        elif self._inline and (text := self._line()):
            self._emit(markdown.paragraph(text))

    def _item(self) -> None:
        number = self._lists[-1][0] if self._lists else 0
        if number:
            self._lists[-1][0] += 1
        mark = f"{number}. " if number else "- "
        self._indent(mark, " " * len(mark))

    def _indent(self, first: str, rest: str) -> None:
        if len(self._prefixes) < DEEPEST:
            self._fresh.add(len(self._prefixes))
            self._prefixes.append((first, rest))
        else:
            self._prefixes.append(("", ""))

    def _outdent(self) -> None:
        if self._prefixes:
            self._prefixes.pop()
            self._fresh.discard(len(self._prefixes))

    def _emit(self, block: str) -> None:
        if not block:
            return
        shown = self._prefixes[:DEEPEST]
        first = "".join(p[i not in self._fresh] for i, p in enumerate(shown))
        rest = "".join(prefix for _, prefix in shown)
        tight = self._listed and bool(self._fresh)
        if self._parts:
            self._parts.append("\n" if tight else "\n\n")
        self._parts.append(first + (block.replace("\n", "\n" + rest) if rest else block))
        self._listed = bool(shown)
        self._fresh.clear()


def _within(table: Element) -> Any:
    found = table.iter(*WIDE)
    next(found)  # the table itself
    return found


def _only_frame(header: Element) -> bool:
    return header.find(".//h1") is None or header.find(".//nav") is not None


def _is_signature(tag: str, element: Element) -> bool:
    return tag == "dt" and "sig" in element.get("class", "").split()


def _language(pre: Element) -> str:
    """What it is written in, as it is told by the classes of the block and what is around it."""
    around = [pre, *pre.iterchildren("code")]
    for _ in range(2):
        parent = around[0].getparent()
        if parent is None:
            break
        around.insert(0, parent)
    for element in reversed(around):
        if found := LANGUAGE.search(element.get("class", "")):
            return "" if found[1] in ("default", "none", "text") else found[1]
    return ""


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else 1
