"""The soak, for seconds: that it runs, and that what it checks holds. Memory takes minutes to show."""

from __future__ import annotations

from benchmarks import soak_report
from benchmarks.soak import soak
from benchmarks.soaked import Soaked, checks
from benchmarks.vitals import GATEWAY, History, Vitals


async def test_everything_is_answered_and_given_back_under_a_mixed_load() -> None:
    result = await soak(6, memory=False)
    failures = {kind: tally.failures for kind, tally in result.tallies.items() if tally.failures}
    assert not failures
    assert result.passed, [check for check in result.checks if not check.passed]
    assert {"gateway", "tabagent/guide", "local/soak-embedder"} <= result.histories.keys()
    assert "| bad request |" in soak_report.markdown(result)


def test_slope_and_growth_are_those_of_the_later_samples() -> None:
    history = History()
    for second in range(100):
        history.add(second, Vitals(own=50.0 if second < 20 else 100 + second / 10))
    assert round(history.slope, 6) == 6
    assert history.growth == history.fifth(5) - history.fifth(2)
    assert round(history.growth, 6) == 6


def test_what_is_kept_fails_its_check() -> None:
    result = Soaked(6, 12, {GATEWAY: Vitals(descriptors=10)}, {GATEWAY: Vitals(descriptors=15)})
    rows = [{"model": "a", "pid": 1, "restarts": 0, "slots_used": 0, "queue": 0}]
    used = [rows[0] | {"pid": 2, "slots_used": 1}]
    found = checks(result, rows, used, memory=False)
    failed = {check.what.partition(",")[0] for check in found if not check.passed}
    assert failed == {
        "every kind was done",
        "no worker restarted",
        "slots and queues are empty before and after",
        "descriptors are given back",
    }


def test_a_leak_fails_both_checks_of_memory() -> None:
    result = Soaked(600, 12, {GATEWAY: Vitals()}, {GATEWAY: Vitals()})
    for second in range(600):
        result.histories[GATEWAY].add(second, Vitals(own=second / 30))  # 2 MB a minute
    found = checks(result, [], [], memory=True)[-2:]
    assert [check.passed for check in found] == [False, False]
    for vitals in result.histories[GATEWAY].seen:
        vitals.own = 50
    assert all(check.passed for check in checks(result, [], [], memory=True)[-2:])
