"""A soak as tables, in the terminal or as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.measure import quantile
from benchmarks.soaked import QUOTED, Soaked
from benchmarks.table import WIDTH, machine


@dataclass(frozen=True, slots=True)
class Grid:
    """A head and lines of as many cells."""

    head: tuple[str, ...]
    lines: list[tuple[str, ...]]


def _grids(result: Soaked) -> Iterator[Grid]:
    yield Grid(("check", "", "found"), [_verdict(*check) for check in _checked(result)])
    yield Grid(
        ("action", "done", "failed", "p50 ms", "p99 ms", "longest ms"), list(_actions(result))
    )
    yield Grid(
        ("process", "MB first", "2nd fifth", "last fifth", "last", "MB/min", "resident MB"),
        list(_memory(result)),
    )
    yield Grid(("process", "descriptors before, most, after", "threads"), list(_holdings(result)))


def _checked(result: Soaked) -> list[tuple[str, bool, str]]:
    return [(check.what, check.passed, check.found) for check in result.checks]


def _verdict(what: str, passed: bool, found: str) -> tuple[str, ...]:
    return what, "held" if passed else "FAILED", found


def _actions(result: Soaked) -> Iterator[tuple[str, ...]]:
    for kind, tally in result.tallies.items():
        times = [seconds * 1e3 for seconds in tally.seconds] or [0.0]
        numbers = (median(times), quantile(times, 0.99), max(times))
        yield (
            kind,
            f"{len(tally.seconds):,}",
            str(len(tally.failures)),
            *(f"{ms:,.0f}" for ms in numbers),
        )


def _memory(result: Soaked) -> Iterator[tuple[str, ...]]:
    for role, history in result.histories.items():
        own = history.own
        numbers = (own[0], history.fifth(2), history.fifth(5), own[-1])
        resident = history.seen[-1].resident
        yield role, *(f"{mb:,.1f}" for mb in numbers), f"{history.slope:+.2f}", f"{resident:,.0f}"


def _holdings(result: Soaked) -> Iterator[tuple[str, ...]]:
    for role, history in result.histories.items():
        if role in result.before and role in result.after:
            before, after = result.before[role], result.after[role]
            yield (
                role,
                f"{before.descriptors}, {max(v.descriptors for v in history.seen)}, {after.descriptors}",
                f"{before.threads}, {max(v.threads for v in history.seen)}, {after.threads}",
            )


def _notes(result: Soaked) -> Iterator[str]:
    done = sum(len(tally.seconds) for tally in result.tallies.values())
    yield (
        f"{done:,} actions of {result.clients} clients in {result.seconds:,.0f} s "
        f"({done / result.seconds:,.0f} a second). Memory is what a process has to itself, without "
        "the files it maps (on other systems than Linux with them); the slope is that of the "
        "second half."
    )
    for kind, tally in result.tallies.items():
        for failure in tally.failures[:QUOTED]:
            yield f"{kind}: {failure}"


def show(result: Soaked) -> None:
    console = Console(width=WIDTH, highlight=False)
    for grid in _grids(result):
        table = Table(*grid.head, box=None, pad_edge=False)
        for line in grid.lines:
            table.add_row(*line)
        console.print(table, "")
    for note in _notes(result):
        print(note)


def markdown(result: Soaked) -> str:
    """A section to append to a page."""
    parts = ["", "## Soak", "", machine(), ""]
    for note in _notes(result):
        parts += [note, ""]
    for grid in _grids(result):
        rule = ("---",) * len(grid.head)
        parts += [f"| {' | '.join(line)} |" for line in (grid.head, rule, *grid.lines)] + [""]
    return "\n".join(parts)
