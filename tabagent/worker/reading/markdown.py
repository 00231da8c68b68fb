"""Markdown as we write it: little markup, so that a chunk is mostly the words it is found by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

TICKS: Final = re.compile("`+")
# What would begin a block of another kind at the start of a paragraph's line.
BLOCK: Final = re.compile(r"^(?=#{1,6}(?:\s|$)|```|~~~|>|(?:=+|-+)\s*$)", re.M)
UNSAFE: Final = str.maketrans(
    {" ": "%20", "(": "%28", ")": "%29", "<": "%3C", ">": "%3E", "\n": ""}
)


def heading(level: int, text: str) -> str:
    return f"{'#' * min(max(level, 1), 6)} {text}"


def paragraph(text: str) -> str:
    return BLOCK.sub(r"\\", text)


def fence(code: str, language: str = "") -> str:
    """A code block whose fence is longer than any run of ticks within."""
    longest = max((len(ticks) for ticks in TICKS.findall(code)), default=0)
    mark = "`" * max(3, longest + 1)
    return f"{mark}{language}\n{code}\n{mark}"


def code(text: str) -> str:
    """An inline code span."""
    longest = max((len(ticks) for ticks in TICKS.findall(text)), default=0)
    mark = "`" * (longest + 1)
    pad = " " if longest and (text[0] == "`" or text[-1] == "`") else ""
    return f"{mark}{pad}{text}{pad}{mark}"


def link(text: str, url: str) -> str:
    return f"[{text}]({url.translate(UNSAFE)})"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A pipe table whose first row is its head; paragraphs when it has one column or one row."""
    rows = [row for row in rows if any(row)]
    width = max((len(row) for row in rows), default=0)
    if width < 2 or len(rows) < 2:
        return "\n\n".join(paragraph(" ".join(filter(None, row))) for row in rows)
    lines = [_row(row, width) for row in rows]
    lines.insert(1, "|" + " --- |" * width)
    return "\n".join(lines)


def _row(cells: Sequence[str], width: int) -> str:
    padded = [*cells, *[""] * (width - len(cells))]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in padded) + " |"
