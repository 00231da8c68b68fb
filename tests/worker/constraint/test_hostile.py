"""Every attack is refused with a type or is followed in bounded time; none takes the process."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator

import pytest

from tests.worker.constraint import attack

WAIT_S = 40.0  # bounds a hang; nothing comes near it


class Judge:
    """A child that tries one attack after another, and a new one when it dies or hangs."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._ours, theirs = spawn.Pipe()
        self._child = spawn.Process(target=attack.serve, args=(theirs,), daemon=True)
        self._child.start()
        theirs.close()

    def outcome(self, kind: str, name: str) -> str:
        self._ours.send((kind, name))
        try:
            return str(self._ours.recv()) if self._ours.poll(WAIT_S) else "hung"
        except EOFError:
            return "died"

    def close(self) -> None:
        self._ours.close()
        self._child.join(10)
        self._child.kill()
        self._child.join()


@pytest.fixture(scope="module")
def judges() -> Iterator[list[Judge]]:
    """The one at work last."""
    at_work = [Judge()]
    yield at_work
    at_work[-1].close()


def judged(judges: list[Judge], kind: str, name: str) -> str:
    outcome = judges[-1].outcome(kind, name)
    if outcome in ("hung", "died"):
        judges[-1].close()
        judges.append(Judge())
    return outcome


@pytest.mark.parametrize("name", attack.SCHEMAS)
def test_a_hostile_schema_ends_in_a_refusal_or_in_an_answer(name: str, judges: list[Judge]) -> None:
    assert judged(judges, "json_schema", name) in attack.SCHEMAS[name][1]


@pytest.mark.parametrize("name", attack.GRAMMARS)
def test_a_hostile_grammar_ends_in_a_refusal_or_in_an_answer(
    name: str, judges: list[Judge]
) -> None:
    assert judged(judges, "gbnf", name) in attack.GRAMMARS[name][1]
