"""What came of a soak, and what must hold of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.actions import MIX
from benchmarks.vitals import History, Vitals

Rows = list[dict[str, Any]]
"""Loaded models, as the server lists them."""

QUOTED: Final = 5  # failures told in full, of each kind
SPARE_DESCRIPTORS: Final = 4  # more than at the start, of one role
SPARE_THREADS: Final = 8  # pools fill up when they are first needed
# A worker grows by 10 to 20 MB while it fills up with what it keeps (ended sequences, grammars, the
# heap of many threads) and is flat after some ten thousand generations: more than a run has.
GROWTH: Final = 8.0  # MB from the second fifth of the run to the last
SLOPES: Final = ((480, 1.0), (120, 2.5))
"""Seconds that a run takes at least, and the MB a minute allowed in its second half then."""


@dataclass(slots=True)
class Tally:
    """What became of one kind of action."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Check:
    what: str
    passed: bool
    found: str


@dataclass(slots=True)
class Soaked:
    """What came of a run. Vitals are by role."""

    seconds: float
    clients: int
    before: Mapping[str, Vitals]
    after: Mapping[str, Vitals] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    histories: dict[str, History] = field(default_factory=lambda: defaultdict(History))
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


def checks(result: Soaked, rows: Rows, after: Rows, memory: bool) -> list[Check]:
    """What must hold of a run. `rows`, `after`: the loaded models before and after it."""
    failures = sum(len(tally.failures) for tally in result.tallies.values())
    missing = [kind for kind in MIX if not result.tallies[kind].seconds]
    found = [
        Check("every answer is what its kind expects", not failures, f"{failures} are not"),
        Check("every kind was done", not missing, f"not done: {', '.join(missing) or 'none'}"),
        _same_workers(rows, after),
        _idle(rows + after),
        _given_back(result, "processes", 0),
        _given_back(result, "descriptors", SPARE_DESCRIPTORS),
        _given_back(result, "threads", SPARE_THREADS),
    ]
    return [*found, *_flat(result)] if memory else found


def _same_workers(rows: Rows, after: Rows) -> Check:
    def who(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["model"], row["pid"], row["restarts"]

    same = len(rows) == 2 and sorted(map(who, rows)) == sorted(map(who, after))
    return Check("no worker restarted", same, f"{len(after)} of {len(rows)} workers run")


def _idle(rows: Rows) -> Check:
    used, queued = (sum(row[name] for row in rows) for name in ("slots_used", "queue"))
    found = f"{used} slots used, {queued} requests queued"
    return Check("slots and queues are empty before and after", not used and not queued, found)


def _given_back(result: Soaked, what: str, spare: int) -> Check:
    more = {
        role: getattr(result.after.get(role, Vitals()), what)
        - getattr(result.before.get(role, Vitals()), what)
        for role in result.after.keys() | result.before.keys()
    }
    changed = ", ".join(f"{role} {n:+}" for role, n in sorted(more.items()) if n)
    limit = f", but for {spare}" if spare else ""
    return Check(
        f"{what} are given back{limit}", max(more.values()) <= spare, changed or "as before"
    )


def _flat(result: Soaked) -> list[Check]:
    grown = {role: history.growth for role, history in result.histories.items()}
    most = max(grown, key=lambda role: grown[role])
    growth = Check(
        f"no process grows by more than {GROWTH:g} MB from the second fifth to the last",
        grown[most] <= GROWTH,
        f"most: {grown[most]:+.1f} MB, {most}",
    )
    limit = next((mb for seconds, mb in SLOPES if result.seconds >= seconds), None)
    if limit is None:
        return [growth]
    slopes = {role: history.slope for role, history in result.histories.items()}
    steepest = max(slopes, key=lambda role: slopes[role])
    return [
        growth,
        Check(
            f"nor by more than {limit:g} MB a minute in the second half",
            slopes[steepest] <= limit,
            f"most: {slopes[steepest]:+.2f} MB a minute, {steepest}",
        ),
    ]
