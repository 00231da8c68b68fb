"""Signalling sessions: whose they are, how long they live, how many there may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tabagent.errors import Conflict, PeerNotFound, QueueFull
from tabagent.stores import signals
from tabagent.stores.database import Database
from tabagent.stores.signals import CANDIDATES, LIVES_S, PER_CALLER, SignalStore

HOST = {"candidate": "candidate:1 1 udp 1 127.0.0.1 9 typ host"}


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database: Database, clock: Clock) -> SignalStore:
    return SignalStore(database, clock)


@pytest.fixture
async def elsewhere(
    database: Database, place: Path | str, clock: Clock
) -> AsyncIterator[SignalStore]:
    """Another server on the same database."""
    other = Database(place)
    yield SignalStore(other, clock)
    await other.close()


async def test_before_an_answer_whoever_knows_the_id_may_then_two_callers(
    store: SignalStore,
) -> None:
    made = await store.create("a", "relay", "offer")
    assert (await store.read(made.id, "b", 0))[0].offer == "offer"
    assert (await store.read(made.id, "c", 0))[0].answerer is None
    answered = await store.answer(made.id, "b", "answer")
    assert (answered.state, answered.answer, answered.answerer) == ("answered", "answer", "b")
    for caller in ("a", "b"):
        assert (await store.read(made.id, caller, 0))[0].answer == "answer"
        with pytest.raises(Conflict):
            await store.answer(made.id, caller, "another")
    for refused in (
        store.read(made.id, "c", 0),
        store.answer(made.id, "c", "another"),
        store.add_candidate(made.id, "c", None, HOST),
        store.read("rtc_none", "a", 0),
    ):
        with pytest.raises(PeerNotFound):
            await refused


async def test_a_candidate_is_the_side_s_whose_caller_brought_it(store: SignalStore) -> None:
    made = await store.create("a", "relay", "offer")
    await store.add_candidate(made.id, "a", None, HOST)
    await store.add_candidate(made.id, "b", None, HOST)
    with pytest.raises(Conflict, match="another caller's"):
        await store.add_candidate(made.id, "b", "offer", HOST)
    with pytest.raises(Conflict, match="another's"):
        await store.add_candidate(made.id, "a", "answer", HOST)
    with pytest.raises(PeerNotFound):  # who brought a candidate is the second peer
        await store.read(made.id, "c", 0)
    signal, candidates = await store.read(made.id, "a", 0)
    assert [(one.seq, one.side) for one in candidates] == [(2, "offer"), (3, "answer")]
    assert signal.seq == 3
    assert (await store.read(made.id, "a", 2))[1] == candidates[1:]


async def test_one_caller_may_be_both_peers(store: SignalStore) -> None:
    made = await store.create("a", "relay", "offer")
    await store.answer(made.id, "a", "answer")
    await store.add_candidate(made.id, "a", "answer", None)
    (last,) = (await store.read(made.id, "a", 0))[1]
    assert (last.side, last.candidate) == ("answer", None)


async def test_with_this_server_as_the_peer_a_session_is_its_caller_s_alone(
    store: SignalStore,
) -> None:
    made = await store.create("a", "server", "offer")
    with pytest.raises(PeerNotFound):
        await store.read(made.id, "b", 0)
    await store.add_candidate(made.id, "a", None, HOST)
    (kept,) = (await store.read(made.id, "a", 0))[1]
    assert kept.candidate is None  # counted, and not kept
    await store.note(made.id, "connected")
    signal, _ = await store.read(made.id, "a", 0)
    assert (signal.state, signal.seq) == ("connected", 3)


async def test_what_is_over_is_not_found_and_then_not_there(
    store: SignalStore, clock: Clock, database: Database
) -> None:
    old = await store.create("a", "relay", "offer")
    await store.add_candidate(old.id, "a", None, HOST)
    clock.now += LIVES_S
    for refused in (store.read(old.id, "a", 0), store.answer(old.id, "b", "answer")):
        with pytest.raises(PeerNotFound):
            await refused
    await store.create("a", "relay", "offer")
    assert database.run("SELECT count(*) FROM signals") == [(1,)]
    assert database.run("SELECT count(*) FROM signal_candidates") == [(0,)]


async def test_one_caller_has_so_many_and_all_have_so_many(
    store: SignalStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(PER_CALLER):
        made = await store.create("a", "relay", "offer")
    with pytest.raises(QueueFull, match="of this caller"):
        await store.create("a", "relay", "offer")
    monkeypatch.setattr(signals, "IN_ALL", PER_CALLER + 1)
    await store.create("b", "relay", "offer")
    with pytest.raises(QueueFull, match="of all callers"):
        await store.create("c", "relay", "offer")
    clock.now += LIVES_S
    await store.create("c", "relay", "offer")  # by then the others are over
    with pytest.raises(PeerNotFound):
        await store.read(made.id, "a", 0)


async def test_a_connection_that_is_over_takes_no_new_one_s_place(store: SignalStore) -> None:
    for _ in range(PER_CALLER * 2):
        made = await store.create("a", "server", "offer")
        await store.note(made.id, "closed")
    assert (await store.read(made.id, "a", 0))[0].state == "closed"


async def test_a_side_has_so_many_candidates(store: SignalStore) -> None:
    made = await store.create("a", "relay", "offer")
    for _ in range(CANDIDATES):
        await store.add_candidate(made.id, "a", None, HOST)
    with pytest.raises(QueueFull):
        await store.add_candidate(made.id, "a", None, HOST)
    await store.add_candidate(made.id, "b", None, HOST)
    signal, candidates = await store.read(made.id, "a", 0)
    assert (signal.seq, len(candidates)) == (CANDIDATES + 2, CANDIDATES + 1)


async def test_of_two_answers_at_once_through_two_servers_one_counts(
    store: SignalStore, elsewhere: SignalStore
) -> None:
    made = await store.create("a", "relay", "offer")
    results = await asyncio.gather(
        store.answer(made.id, "b", "from b"),
        elsewhere.answer(made.id, "c", "from c"),
        return_exceptions=True,
    )
    (kept,) = [one for one in results if not isinstance(one, BaseException)]
    (refused,) = [one for one in results if isinstance(one, BaseException)]
    assert isinstance(refused, Conflict | PeerNotFound)
    assert (await elsewhere.read(made.id, "a", 0))[0] == kept


async def test_candidates_at_once_through_two_servers_have_a_number_each(
    store: SignalStore, elsewhere: SignalStore
) -> None:
    made = await store.create("a", "relay", "offer")
    one = [store.add_candidate(made.id, "a", None, HOST) for _ in range(5)]
    other = [elsewhere.add_candidate(made.id, "b", None, HOST) for _ in range(5)]
    await asyncio.gather(*one, *other)
    _, candidates = await store.read(made.id, "b", 0)
    assert [found.seq for found in candidates] == list(range(2, 12))
