"""Rows of two servers side by side: medians, spread, ratio, target; as plain text or Markdown."""

from __future__ import annotations

import importlib.metadata
import platform
import statistics
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from rich.console import Console
from rich.table import Table

from tabagent.hardware.cpu import cpu
from tabagent.hardware.limits import memory
from tabagent.hardware.machine import this_machine

WIDTH = 160  # in a narrower terminal rows wrap, but no number is cut off
HEAD = ("what", "ours", "llama-server", "ratio", "target", "")


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on our value, or on its ratio to the peer's."""

    bound: Literal["at least", "at most"]
    limit: float
    of: Literal["value", "ratio"] = "ratio"

    def met(self, value: float) -> bool:
        return value >= self.limit if self.bound == "at least" else value <= self.limit


@dataclass(frozen=True, slots=True)
class Row:
    """One value a run. No `theirs`: the peer has nothing like it; no `target`: for information."""

    what: str
    unit: str
    ours: Sequence[float]
    theirs: Sequence[float] = ()
    target: Target | None = None

    @property
    def ratio(self) -> float | None:
        return (
            statistics.median(self.ours) / statistics.median(self.theirs) if self.theirs else None
        )

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        value = self.ratio if self.target.of == "ratio" else statistics.median(self.ours)
        return "" if value is None else "met" if self.target.met(value) else "short"

    def cells(self) -> tuple[str, ...]:
        goal = ""
        if self.target:
            sign = "≥" if self.target.bound == "at least" else "≤"
            unit = "x" if self.target.of == "ratio" else self.unit
            goal = f"{sign} {self.target.limit:,g} {unit}".rstrip()
        ratio = f"{self.ratio:.2f} x" if self.ratio is not None else ""
        return self.what, self._side(self.ours), self._side(self.theirs), ratio, goal, self.verdict

    def _side(self, values: Sequence[float]) -> str:
        if not values:
            return ""
        middle = f"{_figures(statistics.median(values))} {self.unit}".rstrip()
        if len(values) == 1:
            return middle
        return f"{middle} ({_figures(min(values))} to {_figures(max(values))})"


def _figures(value: float) -> str:
    """Three figures, more only where they stand before the point."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:,.{digits}f}"


def show(rows: Iterable[Row], notes: Iterable[str]) -> None:
    """Print the table and what has to be known about it."""
    table = Table(box=None, pad_edge=False)
    for title in HEAD:
        table.add_column(title, no_wrap=True)
    for row in rows:
        table.add_row(*row.cells())
    Console(width=WIDTH, highlight=False).print(table)
    for note in notes:
        print(f"\n{textwrap.fill(note, 100)}")


def markdown(title: str, rows: Iterable[Row], notes: Iterable[str]) -> str:
    """The same as a page."""
    lines = [f"# {title}", "", *(f"{note}\n" for note in notes)]
    lines += [_line(HEAD), _line(["---"] * len(HEAD)), *(_line(row.cells()) for row in rows)]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def machine() -> str:
    """When and on what this was measured."""
    found = cpu(this_machine())
    packages = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("tabagent", "llama-cpp-python", "uvicorn", "uvloop")
    )
    return (
        f"{date.today().isoformat()}; {found.name}, {found.physical_cores} cores "
        f"({found.logical_cores} threads), {memory().total_bytes / 2**30:.0f} GiB; "
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {packages}."
    )
