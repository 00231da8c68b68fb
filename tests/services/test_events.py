"""What changed: told in order, resumed without loss, and honest about what is not kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tabagent.journal import Change, Journal, Lost
from tests.live import FAKE, LiveServer, eventually, fake_model, fake_models

BAD = "fake/bad"


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveServer]:
    models = [*fake_models(), fake_model(BAD, path="/fake/corrupt")]
    with LiveServer(tmp_path, extra=models) as server:
        yield server


def kept(server: LiveServer, **query: Any) -> dict[str, Any]:
    answer = server.client.get("/v1/events", params={"stream": "false"} | query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def moments(server: LiveServer, model: str = FAKE) -> list[str]:
    rows = kept(server, **{"from": 1})["data"]
    return [
        r["data"]["state"] for r in rows if r["type"] == "model" and r["data"]["model"] == model
    ]


class Follower:
    """One that reads server-sent events."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines

    def next(self) -> dict[str, Any]:
        """The next event; its id is the one that its data says."""
        fields: dict[str, str] = {}
        for line in self._lines:
            if not line and fields:
                break
            name, _, value = line.partition(": ")
            if name:
                fields[name] = value
        event: dict[str, Any] = json.loads(fields["data"])
        assert fields["event"] == event["type"]
        assert fields["id"] == f"{event['epoch']}:{event['seq']}"
        return event | {"id": fields["id"]}

    def until(self, state: str) -> list[dict[str, Any]]:
        found = [self.next()]
        while found[-1]["data"].get("state") != state:
            found.append(self.next())
        return found


def follow(server: LiveServer, seen: str | None = None, **query: Any) -> Any:
    headers = {"Last-Event-ID": seen} if seen else {}
    return server.client.stream("GET", "/v1/events", params=query, headers=headers)


# ---- over HTTP ----------------------------------------------------------------------------------


def test_a_stream_tells_what_becomes_of_a_model_as_it_happens(live: LiveServer) -> None:
    with follow(live) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = Follower(answer.iter_lines())
        start = events.next()
        assert (start["type"], start["data"]) == ("start", {"last": 0})
        live.answer("3")
        loading, *_, ready = events.until("ready")
        assert loading["data"]["state"] == "loading"
        assert ready["data"] == {
            "model": FAKE, "state": "ready", "progress": None, "notes": [], "problem": None,
        }  # fmt: skip
        live.owner.post("/v1/models/unload", json={"model": FAKE})
        *_, gone = events.until("unloaded")
        assert start["seq"] < loading["seq"] < ready["seq"] < gone["seq"]


def test_who_comes_back_with_the_last_id_misses_nothing(live: LiveServer) -> None:
    live.answer("3")
    with follow(live, None, **{"from": 1}) as answer:
        seen = Follower(answer.iter_lines()).until("ready")[-1]
    live.owner.post("/v1/models/unload", json={"model": FAKE})
    with follow(live, seen["id"], **{"from": 1}) as answer:  # as a browser sends both
        events = Follower(answer.iter_lines())
        assert events.next()["type"] == "start"
        after = events.next()
        assert (after["data"]["state"], after["seq"]) == ("unloaded", seen["seq"] + 1)


def test_an_id_of_an_earlier_server_is_answered_with_a_gap_and_all_there_is(
    live: LiveServer,
) -> None:
    live.answer("3")
    answer = kept(live, last_event_id="0123456789ab:7")
    gap, first, *_ = answer["data"]
    assert (gap["type"], gap["data"]) == ("gap", {"first": None, "last": None})
    assert (first["type"], first["seq"]) == ("model", 1)
    assert first["epoch"] == answer["epoch"] != "0123456789ab"


def test_what_is_kept_can_be_asked_for_without_a_stream(live: LiveServer) -> None:
    empty = kept(live)
    assert (empty["next"], empty["data"]) == (1, [])
    live.answer("3")
    rows = kept(live, **{"from": empty["next"]})
    assert [row["data"]["state"] for row in rows["data"]][-1] == "ready"
    assert rows["next"] == rows["data"][-1]["seq"] + 1
    assert kept(live, **{"from": rows["next"]})["data"] == []


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"from": "0"}, "/from"),
        ({"from": "99"}, "/from"),
        ({"from": "first"}, "/from"),
        ({"last_event_id": "nonsense"}, "/last_event_id"),
        ({"last_event_id": "x" * 65}, "/last_event_id"),
    ],
)
def test_a_place_that_does_not_exist_is_refused(
    live: LiveServer, query: dict[str, str], pointer: str
) -> None:
    answer = live.client.get("/v1/events", params=query)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["pointer"] == pointer


def test_a_number_that_this_server_has_not_reached_is_refused(live: LiveServer) -> None:
    epoch = kept(live)["epoch"]
    answer = live.client.get("/v1/events", headers={"Last-Event-ID": f"{epoch}:5"})
    assert answer.status_code == 400
    assert "newest event is number 0" in answer.json()["detail"]


def test_a_load_that_fails_is_told_with_its_problem(live: LiveServer) -> None:
    refused = live.chat("3", BAD)
    assert refused.status_code == 422
    *_, failed = kept(live, **{"from": 1})["data"]
    assert (failed["data"]["model"], failed["data"]["state"]) == (BAD, "failed")
    assert failed["data"]["problem"]["code"] == "model-corrupt"


def test_a_crash_and_the_new_start_are_told(live: LiveServer) -> None:
    live.answer("3")
    live.worker().kill()
    eventually(lambda: "restarting" in moments(live))
    eventually(lambda: moments(live)[-1] == "ready", 10)


def test_a_model_that_sleeps_and_wakes_is_told(tmp_path: Path) -> None:
    with LiveServer(tmp_path, sleep_s=0.05) as live:
        live.answer("hello", None)
        eventually(lambda: moments(live, "tabagent/guide")[-1] == "asleep", 10)
        live.answer("hello", None)
        eventually(lambda: "asleep" in moments(live, "tabagent/guide")[:-1], 10)
        states = moments(live, "tabagent/guide")
        assert states[states.index("asleep") + 1] == "ready"


def test_a_token_is_told_of_but_not_told(live: LiveServer) -> None:
    live.owner.post("/v1/hf/token", json={"token": "hf_" + "secret" * 4})
    live.owner.delete("/v1/hf/token")
    answer = live.client.get("/v1/events", params={"stream": "false", "from": 1})
    assert "secret" not in answer.text
    told = [row["data"] for row in answer.json()["data"] if row["type"] == "setting"]
    assert told == [
        {"name": "hf_token", "value": {"set": True}},
        {"name": "hf_token", "value": {"set": False}},
    ]


def test_a_stream_does_not_hold_up_the_end_of_the_server(tmp_path: Path) -> None:
    with LiveServer(tmp_path, drain_s=60) as live, follow(live) as answer:
        lines = answer.iter_lines()
        Follower(lines).next()
        live.server.should_exit = True
        assert [line for line in lines if line] == []  # it ends in order
        eventually(lambda: not live._thread.is_alive(), 10)


def test_a_follower_that_left_is_forgotten(live: LiveServer) -> None:
    with follow(live) as answer:
        Follower(answer.iter_lines()).next()
        assert len(live.gateway.journal._followers) == 1
    eventually(lambda: not live.gateway.journal._followers)


def test_browsers_of_other_sites_may_not_follow(live: LiveServer) -> None:
    headers = {"Origin": "https://evil.example"}
    answer = httpx.get(f"{live.url}/v1/events", headers=headers, trust_env=False)
    assert answer.status_code == 403


# ---- the journal --------------------------------------------------------------------------------


def numbers(journal: Journal, after: int = 0) -> list[Any]:
    return [
        (found.first, found.last) if isinstance(found, Lost) else (found.number, found.data)
        for found in journal.since(after)
    ]


def test_what_was_passing_goes_when_its_subject_is_told_of_again() -> None:
    journal = Journal(pace_s=0)
    journal.note("pull", "a", "a begins")
    journal.note("pull", "a", "a 1 %", passing=True)
    journal.note("pull", "b", "b 1 %", passing=True)
    journal.note("pull", "a", "a 2 %", passing=True)
    assert numbers(journal) == [(1, "a begins"), (3, "b 1 %"), (4, "a 2 %")]
    journal.note("pull", "a", "a is done")
    assert numbers(journal) == [(1, "a begins"), (3, "b 1 %"), (5, "a is done")]
    journal.note("pull", "a", "a begins again")
    assert numbers(journal)[-2:] == [(5, "a is done"), (6, "a begins again")]


def test_what_passes_faster_than_the_pace_is_left_out() -> None:
    journal = Journal(pace_s=60)
    for percent in range(100):
        journal.note("pull", "a", percent, passing=True)
    journal.note("pull", "a", "done")
    assert numbers(journal) == [(2, "done")]


def test_what_there_is_no_room_for_is_a_gap_for_those_who_did_not_see_it() -> None:
    journal = Journal(kept=3)
    for number in range(1, 6):
        journal.note("model", "m", number)
    assert numbers(journal) == [(1, 2), (3, 3), (4, 4), (5, 5)]
    assert numbers(journal, 1) == [(2, 2), (3, 3), (4, 4), (5, 5)]
    assert numbers(journal, 2) == [(3, 3), (4, 4), (5, 5)]
    assert numbers(journal, 5) == []


def test_a_passing_change_that_had_to_go_is_no_defect() -> None:
    journal = Journal(kept=1, pace_s=0)
    journal.note("pull", "a", 1, passing=True)
    journal.note("model", "m", 2)
    journal.note("pull", "a", 3, passing=True)
    assert numbers(journal) == [(1, 2), (3, 3)]


async def test_a_slow_follower_is_told_what_it_lost_and_goes_on() -> None:
    journal = Journal(kept=2)
    journal.note("model", "m", 1)
    stream = journal.follow(0)
    first = await anext(stream)
    assert isinstance(first, Change) and first.number == 1
    for number in range(2, 7):
        journal.note("model", "m", number)
    lost = await anext(stream)
    assert isinstance(lost, Lost) and (lost.first, lost.last) == (2, 4)
    rest = [await anext(stream) for _ in range(2)]
    assert [change.number for change in rest if isinstance(change, Change)] == [5, 6]
    journal.close()
    assert [change async for change in stream] == []


async def test_a_hundred_followers_are_told_the_same() -> None:
    journal = Journal()

    async def read() -> list[int]:
        return [c.number async for c in journal.follow(0) if isinstance(c, Change)]

    readers = [asyncio.create_task(read()) for _ in range(100)]
    for number in range(50):
        journal.note("model", "m", number)
        await asyncio.sleep(0)
    journal.close()
    assert await asyncio.gather(*readers) == [list(range(1, 51))] * 100
