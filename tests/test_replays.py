"""Answers that are followed again, over HTTP: the bounds of what is kept, and for how long."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import uuid
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tabagent.errors import Conflict, Gone, InvalidRequest, TabAgentError, WorkerCrashed
from tabagent.operation import Access, Call, Event, Reply
from tabagent.replays import LEAD, Replay, Replays
from tests.live import FAKE, LiveServer, chat_body, eventually, fake_models


class Word(Reply):
    """A word."""

    text: str


Words = AsyncGenerator[Reply | Event, None]


async def words(count: int, pause_s: float = 0.0, error: TabAgentError | None = None) -> Words:
    for number in range(count):
        await asyncio.sleep(pause_s)
        yield Word(text=str(number))
    if error:
        raise error


async def joined(events: AsyncIterator[Reply | Event]) -> Reply:
    return Word(text=" ".join([event.text async for event in events if isinstance(event, Word)]))


def call(caller: str = "me") -> Call:
    return Call(str(uuid.uuid4()), Access.USER, caller, "native")


def kept(**more: Any) -> Replays:
    return Replays(**({"keep_s": 60, "detached_keep_s": 60, "room": 2**16, "total": 2**20} | more))


def begin(replays: Replays, mine: Call, *, detach: bool = False) -> Replay:
    return replays.begin(mine, joined, streamed=False, detach=detach, ttl_s=1)


async def seqs(replay: Replay, start: int = 0) -> list[int]:
    return [one.seq async for one in replay.follow(start)]


async def test_followers_get_every_event_once_from_where_they_begin() -> None:
    replay = begin(kept(), call())
    replay.run(words(50, 0.001), 60)
    early = asyncio.create_task(seqs(replay))
    while replay.next < 20:
        await asyncio.sleep(0.001)
    assert await seqs(replay, 10) == list(range(10, 50))
    assert await early == list(range(50))
    assert await seqs(replay, 50) == []
    reply = await replay.whole()
    assert isinstance(reply, Word) and reply.text.split() == [str(n) for n in range(50)]


async def test_from_beyond_the_next_event_is_refused() -> None:
    replay = begin(kept(), call())
    replay.run(words(3), 60)
    await seqs(replay)
    with pytest.raises(InvalidRequest, match="number 3"):
        await seqs(replay, 4)


async def test_an_error_is_every_followers_error_after_what_came_before() -> None:
    replay = begin(kept(), call())
    replay.run(words(3, error=WorkerCrashed()), 60)
    for _ in range(2):
        events = replay.follow(0)
        assert [(await anext(events)).seq for _ in range(3)] == [0, 1, 2]
        with pytest.raises(WorkerCrashed):
            await anext(events)


async def test_the_oldest_events_go_when_there_are_too_many_and_are_gone() -> None:
    replay = begin(kept(), call())
    replay.run(words(2000), 60)
    while not replay.ended:
        await asyncio.sleep(0.001)
    assert replay.size <= 2**16
    assert replay.first > 0
    with pytest.raises(Gone, match=f"before number {replay.first}"):
        await seqs(replay, replay.first - 1)
    with pytest.raises(Gone):
        await replay.whole()
    assert await seqs(replay, replay.first) == list(range(replay.first, 2000))


async def test_an_answer_runs_no_further_ahead_than_its_quickest_follower_reads() -> None:
    replay = begin(kept(room=2**24), call())
    replay.run(words(10 * LEAD), 60)
    slow = replay.follow(0)
    await anext(slow)
    for _ in range(50):
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    assert replay.next <= LEAD + 3
    assert len([one async for one in slow]) == 10 * LEAD - 1


async def test_an_answer_ends_when_nobody_comes_back() -> None:
    replay = begin(kept(), call())
    replay.run(words(10_000, 0.001), 0.05)
    async for _ in replay.follow(0):
        break
    started = time.monotonic()
    while not replay.ended:
        await asyncio.sleep(0.005)
    assert time.monotonic() - started < 1
    with pytest.raises(Gone, match="cancelled"):
        await seqs(replay)


async def test_an_answer_that_its_client_drives_ends_with_it() -> None:
    replay = begin(kept(), call())
    events = replay.driven(words(100))
    await anext(events)
    await events.aclose()
    assert replay.ended
    with pytest.raises(Gone):
        await seqs(replay)


async def test_two_answers_of_one_id_do_not_run_at_once() -> None:
    replays, mine = kept(), call()
    first = begin(replays, mine)
    first.run(words(100, 0.001), 60)
    with pytest.raises(Conflict):
        begin(replays, mine)
    replays.cancel(mine)
    with pytest.raises(Gone):
        await seqs(first)
    assert begin(replays, mine) is replays.find(mine.request_id, "me")


async def test_answers_are_found_by_their_caller_alone_and_for_a_while() -> None:
    replays, mine = kept(keep_s=0.1), call()
    replay = replays.begin(mine, joined, streamed=False, detach=False, ttl_s=0.1)
    replay.run(words(3), 60)
    await seqs(replay)
    assert replays.find(mine.request_id, "other") is None
    assert replays.find(mine.request_id, "me") is replay
    await asyncio.sleep(0.3)
    assert replays.find(mine.request_id, "me") is None


async def test_all_answers_together_are_bounded() -> None:
    replays = kept(total=2**17)
    calls = [call() for _ in range(12)]
    for mine in calls:
        replay = begin(replays, mine)
        replay.run(words(400), 60)
        while not replay.ended:
            await asyncio.sleep(0.001)
    found = [replays.find(mine.request_id, "me") for mine in calls]
    assert found[0] is None, "the oldest went"
    assert found[-1] is not None
    assert sum(one.size for one in found if one) <= 2**17


async def written(replay: Replay, events: Words) -> None:
    replay.run(events, 60)
    while not replay.ended:
        await asyncio.sleep(0.001)


async def test_an_answer_is_cancelled_by_the_call_that_began_it_alone() -> None:
    replays, mine = kept(), call()
    replay = begin(replays, mine)
    replay.run(words(100, 0.001), 60)
    for other in (replace(mine, caller="other"), replace(mine)):
        replays.cancel(other)
    begin(replays, replace(mine, caller="other"))  # has its own of that id
    assert await seqs(replay) == list(range(100))


async def test_what_is_forgotten_is_let_go_of() -> None:
    replays = kept(total=2**17)
    kept_ones = []
    for _ in range(12):
        replay = begin(replays, call())
        await written(replay, words(400))
        kept_ones.append(weakref.ref(replay))
    del replay
    gc.collect()
    assert sum(one() is not None for one in kept_ones) < 4


async def test_answers_that_failed_at_once_are_bounded_too() -> None:
    replays = kept(total=2**17)
    for _ in range(1000):
        begin(replays, call()).end(WorkerCrashed())
    assert replays.count < 100


async def test_the_error_of_an_answer_holds_on_to_nothing_of_its_request() -> None:
    class Payload:
        pass

    async def failing(payload: Payload) -> Words:
        yield Word(text="a")
        raise WorkerCrashed("why", tokens_sent=1)

    payload = Payload()
    held = weakref.ref(payload)
    replay = begin(kept(), call())
    await written(replay, failing(payload))
    del payload
    for _ in range(3):
        with pytest.raises(WorkerCrashed) as raised:
            await seqs(replay)
        assert (raised.value.detail, raised.value.members) == ("why", {"tokens_sent": 1})
    gc.collect()
    assert held() is None
    assert replay.error is not None and replay.error.__traceback__ is None


async def test_a_slow_follower_of_large_events_loses_none_of_them() -> None:
    async def large() -> Words:
        for number in range(200):
            yield Word(text=f"{number}" + "x" * (2**17 if number == 100 else 2000))

    replay = begin(kept(), call())
    replay.run(large(), 60)
    found = []
    async for one in replay.follow(0):
        found.append(one.seq)
        await asyncio.sleep(0.001)
        assert replay.size <= 2**16 + 2**18
    assert found == list(range(200))
    assert replay.size <= 2**16


# ---- over HTTP ----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    place: Path = tmp_path_factory.mktemp("replays")
    with LiveServer(place, extra=fake_models(), model=FAKE) as live:
        live.owner.post("/v1/models/load", json={"model": FAKE})
        yield live


def read(response: httpx.Response, most: int = 10**9) -> list[tuple[str, str]]:
    """(id, data) of the events of a stream, at most so many."""
    found: list[tuple[str, str]] = []
    id_ = ""
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if name == "id":
            id_ = value
        elif name == "data":
            found.append((id_, value))
            if len(found) == most:
                break
    return found


def content(events: list[tuple[str, str]]) -> str:
    chunks = [json.loads(data) for _, data in events if data != "[DONE]"]
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])


def hang_up_after(server: LiveServer, most: int, **more: Any) -> tuple[str, list[tuple[str, str]]]:
    body = chat_body("30 sleep", stream=True, **more)
    with server.client.stream("POST", "/v1/chat/completions", json=body) as response:
        return response.headers["x-request-id"], read(response, most)


COUNTED = " ".join(str(n) for n in range(1, 31))


def test_a_hang_up_ends_an_answer_that_did_not_ask_to_last(server: LiveServer) -> None:
    request_id, events = hang_up_after(server, 5)
    assert all(id_ == "" for id_, _ in events)
    eventually(lambda: server.idle(), 1)
    with server.client.stream("GET", f"/v1/generation/{request_id}/events") as response:
        *again, (_, last) = read(response)
    assert content(again).startswith(content(events))
    assert json.loads(last)["code"] == "gone"


def test_an_answer_is_followed_again_from_the_last_event_that_was_seen(server: LiveServer) -> None:
    request_id, before = hang_up_after(server, 6, resume_ttl=10)
    assert [id_ for id_, _ in before] == [str(n) for n in range(6)]
    path = f"/v1/generation/{request_id}/events"
    with server.client.stream("GET", path, headers={"Last-Event-ID": "5"}) as response:
        after = read(response)
    assert [id_ for id_, _ in after[:-1]] == [str(n) for n in range(6, 6 + len(after) - 1)]
    assert after[-1][1] == "[DONE]"
    assert content([*before, *after]).split() == COUNTED.split()
    with server.client.stream("GET", path, params={"from": 3}) as response:
        assert content([*before[:3], *read(response)]).split() == COUNTED.split()


def test_a_detached_answer_is_there_whole_when_its_client_comes_back(server: LiveServer) -> None:
    request_id = str(uuid.uuid4())
    with pytest.raises(httpx.ReadTimeout):
        server.client.post(
            "/v1/chat/completions",
            json=chat_body("30 sleep", detach=True),
            headers={"X-Request-Id": request_id},
            timeout=0.3,
        )
    path = f"/v1/generation/{request_id}/events"
    whole = server.client.get(path, params={"stream": False}).json()
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"]["content"].split() == COUNTED.split()


def test_stop_ends_a_detached_answer(server: LiveServer) -> None:
    request_id, _ = hang_up_after(server, 3, detach=True)
    stopped = server.client.post("/v1/generation/stop", json={"request_id": request_id})
    assert stopped.json()["stopped"] == [request_id]
    path = f"/v1/generation/{request_id}/events"
    with server.client.stream("GET", path) as response:
        said = content(read(response)).split()
    assert said == COUNTED.split()[: len(said)]
    assert len(said) < 30
    whole = server.client.get(path, params={"stream": False}).json()
    assert whole["code"] == "unsupported-parameter"
    eventually(lambda: server.idle(), 1)


@pytest.mark.parametrize(
    ("params", "pointer"),
    [({"last_event_id": "x"}, "/last_event_id"), ({"from": 3, "stream": False}, "")],
)
def test_nonsense_is_refused_by_name(
    server: LiveServer, params: dict[str, Any], pointer: str
) -> None:
    request_id, _ = hang_up_after(server, 2)
    response = server.client.get(f"/v1/generation/{request_id}/events", params=params)
    assert response.status_code == 400
    assert response.json()["errors"][0]["pointer"] == pointer


def test_an_answer_nobody_began_is_not_found(server: LiveServer) -> None:
    response = server.client.get(f"/v1/generation/{uuid.uuid4()}/events")
    assert response.status_code == 404
    assert response.json()["code"] == "request-not-found"
