"""Who makes room for whom: the policy."""

from __future__ import annotations

from tabagent.engine.residency import Resident, reclaimable, sleepers, victim_on, victims

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


def awake(name: str, idle_since: float | None, *, pinned: bool = False) -> Resident:
    return Resident(name, 100, idle_since, pinned, asleep_bytes=60)


SLEEPY = [
    awake("young", 2.0),
    awake("old", 1.0),
    awake("busy", None),
    awake("pinned", 0.5, pinned=True),
]


def test_contexts_go_before_models_where_they_are_enough() -> None:
    assert sleepers(SLEEPY, 1) == ["old"]
    assert sleepers(SLEEPY, 41) == ["old", "young"]
    assert sleepers(SLEEPY, 81) == []
    assert sleepers(SLEEPY, 0) == []


def test_who_sleeps_already_has_no_context_to_give() -> None:
    assert sleepers([Resident("asleep", 60, 1.0)], 1) == []


def test_the_longest_unused_on_a_device_goes_for_another_there() -> None:
    here = Resident("here", 1, 2.0, device_bytes={"cuda:0": 5})
    older = Resident("older", 1, 1.0, device_bytes={"cuda:0": 5})
    other = Resident("other", 1, 0.1, device_bytes={"cuda:1": 5})
    busy = Resident("busy", 1, None, device_bytes={"cuda:0": 5})
    assert victim_on([here, older, other, busy], "cuda:0") == "older"
    assert victim_on([busy, OLD], "cuda:0") is None
