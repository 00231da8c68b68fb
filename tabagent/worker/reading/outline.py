"""The headings of a Markdown text, where they are, and what of it is code or front matter."""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import Final, NamedTuple

# Lines that matter: a fence (also in a list or a quote), a heading with #, or one underlined.
LINE: Final = re.compile(
    r"^(?:[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?(?P<fence>`{3,}(?=[^`\n]*$)|~{3,})(?P<info>[^\n]*)"
    r"| {0,3}(?P<marks>\#{1,6})(?:[ \t]+(?P<title>[^\n]*))?$"
    r"| {0,3}(?P<under>=+|-+)[ \t]*$)",
    re.M,
)
CLOSING: Final = re.compile(r"(?:^|[ \t]+)#+[ \t]*$")
PLAIN: Final = re.compile(r" {0,3}[^\s#>|`~+*=-]")  # how a line that can be underlined begins
INLINE: Final = re.compile(r"!?\[([^\]\n]*)\]\([^)\n]*\)|`+|\*\*|__")
FRONT: Final = re.compile(r"---[ \t]*\n(?P<front>.{0,16000}?)^(?:---|\.\.\.)[ \t]*$", re.M | re.S)
TITLE: Final = re.compile(r"^title[ \t]*:[ \t]*(.+)$", re.M)
LONGEST: Final = 200  # characters of a heading in a chunk's path


class Heading(NamedTuple):
    start: int
    level: int
    title: str


class Outline:
    """Where the headings stand, by offset in characters."""

    def __init__(self, headings: list[Heading]) -> None:
        self._paths: list[list[str]] = []
        self.starts = [heading.start for heading in headings]
        open_: list[Heading] = []
        for heading in headings:
            while open_ and open_[-1].level >= heading.level:
                open_.pop()
            open_.append(heading)
            self._paths.append([above.title for above in open_ if above.title])

    def path(self, offset: int) -> list[str]:
        """The headings that `offset` stands under, the outermost first."""
        at = bisect_right(self.starts, offset)
        return self._paths[at - 1] if at else []


def headings(text: str) -> list[Heading]:
    """All headings, in order; what stands in fenced code is none."""
    front = FRONT.match(text)
    found: list[Heading] = []
    fence = ""
    for line in LINE.finditer(text, front.end() if front else 0):
        if mark := line["fence"]:
            if not fence:
                fence = mark
            elif mark.startswith(fence) and not line["info"].strip():
                fence = ""
        elif fence:
            continue
        elif line["marks"]:
            title = CLOSING.sub("", line["title"] or "")
            found.append(Heading(line.start(), len(line["marks"]), _plain(title)))
        elif above := _underlined(text, line.start()):
            found.append(Heading(above[0], 1 if line["under"][0] == "=" else 2, _plain(above[1])))
    return found


def title(text: str, found: list[Heading]) -> str:
    """What the front matter calls the text, else its first heading of the highest level."""
    front = FRONT.match(text)
    if front and (named := TITLE.search(front["front"])):
        return named[1].strip().strip("\"'")[:LONGEST]
    return min(found, key=lambda heading: heading.level).title if found else ""


def _underlined(text: str, at: int) -> tuple[int, str] | None:
    """The single line of a paragraph that ends before `at`."""
    start = text.rfind("\n", 0, max(at - 1, 0)) + 1
    line = text[start : max(at - 1, start)]
    before = text[text.rfind("\n", 0, max(start - 1, 0)) + 1 : max(start - 1, 0)]
    return None if before.strip() or not PLAIN.match(line) else (start, line)


def _plain(title: str) -> str:
    return INLINE.sub(r"\1", title).replace("\\", "").strip()[:LONGEST]
