"""Who makes room for whom: the policy."""

from __future__ import annotations

from tabagent.engine.residency import Resident, reclaimable, victims

OLD = Resident("old", 100, idle_since=1.0)
YOUNG = Resident("young", 100, idle_since=2.0)
BUSY = Resident("busy", 1000, idle_since=None)
PINNED = Resident("pinned", 1000, idle_since=0.5, pinned=True)
ALL = [BUSY, YOUNG, PINNED, OLD]


def test_the_longest_unused_goes_first_and_no_more_than_needed() -> None:
    assert victims(ALL, 1) == ["old"]
    assert victims(ALL, 100) == ["old"]
    assert victims(ALL, 101) == ["old", "young"]


def test_who_answers_and_who_is_pinned_never_goes() -> None:
    assert victims(ALL, 10_000) == ["old", "young"]
    assert victims([BUSY, PINNED], 1) == []


def test_nobody_goes_where_there_is_room() -> None:
    assert victims(ALL, 0) == []
    assert victims(ALL, -5) == []


def test_what_could_come_back() -> None:
    assert reclaimable(ALL, busy=False) == 200
    assert reclaimable(ALL, busy=True) == 1200
