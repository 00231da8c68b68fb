"""Counts since the start: every way a request can end is counted, once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tabagent.engine.meter import share
from tests.live import EMBEDDER, FAKE, LiveServer, chat_body, eventually, fake_model, fake_models

BAD = "fake/bad"
GUIDE = "tabagent/guide"


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveServer]:
    models = [*fake_models(), fake_model(BAD, path="/fake/corrupt")]
    with LiveServer(tmp_path, extra=models) as server:
        yield server


def stats(server: LiveServer, model: str = FAKE) -> dict[str, Any]:
    rows = server.client.get("/v1/stats").json()["models"]
    found: dict[str, Any] = next((row for row in rows if row["model"] == model), {})
    return found


def test_nothing_was_asked_yet(live: LiveServer) -> None:
    answer = live.client.get("/v1/stats").json()
    assert answer["models"] == []
    assert answer["uptime_s"] >= 0


def test_requests_tokens_and_times_are_counted_by_model(live: LiveServer) -> None:
    usages = [live.chat("5").json()["usage"] for _ in range(3)]
    live.client.post("/v1/embeddings", json={"model": EMBEDDER, "input": ["abc", "d"]})
    found = stats(live)
    assert found["loaded"] is True
    assert found["requests"] == {
        "running": 0, "waiting": 0, "completed": 3, "cancelled": 0, "failed": {},
    }  # fmt: skip
    assert found["tokens"]["completion"] == sum(usage["completion_tokens"] for usage in usages)
    assert found["tokens"]["prompt"] == sum(usage["prompt_tokens"] for usage in usages)
    first, whole = found["time_to_first_token_ms"], found["request_ms"]
    assert 0 < first["p50"] <= first["p95"]
    assert first["p50"] <= whole["p95"]
    pooled = stats(live, EMBEDDER)
    assert pooled["requests"]["completed"] == 1
    assert pooled["tokens"]["prompt"] > 0
    assert pooled["time_to_first_token_ms"] == {"p50": None, "p95": None}


def test_the_real_engine_tells_its_speed_and_what_it_had_computed_before(tmp_path: Path) -> None:
    with LiveServer(tmp_path) as live:
        for _ in range(2):
            live.answer("What is TabAgent?", GUIDE, max_tokens=16)
        found = stats(live, GUIDE)
    assert found["tokens"]["cached"] > 0
    assert found["tokens_per_second"]["p50"] > 0
    assert found["prompt_tokens_per_second"]["p50"] > 0


def test_what_runs_is_seen_and_a_hang_up_is_counted_as_that(live: LiveServer) -> None:
    body = chat_body("100000", stream=True)
    with live.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = answer.iter_lines()
        for _ in range(6):
            next(lines)
        found = eventually(lambda: (s := stats(live))["tokens_per_second_now"] > 0 and s)
        assert found["requests"]["running"] == 1
    eventually(lambda: stats(live)["requests"]["cancelled"] == 1)
    assert stats(live)["requests"]["running"] == 0
    assert stats(live)["tokens_per_second_now"] == 0


def test_failures_are_counted_by_their_problem(live: LiveServer) -> None:
    assert [live.chat("3", BAD).status_code for _ in range(2)] == [422, 422]
    assert stats(live, BAD)["requests"]["failed"] == {"model-corrupt": 2}
    assert stats(live, BAD)["loaded"] is False


def test_a_halted_answer_is_complete(live: LiveServer) -> None:
    body = chat_body("100000", stream=True)
    with live.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        live.client.post("/v1/halt", json={})
        assert list(lines)
    assert eventually(lambda: stats(live)["requests"]["completed"]) == 1


def test_shares_are_by_nearest_rank() -> None:
    assert share(deque(), 0.5) is None
    assert share(deque([7.0]), 0.95) == 7.0
    values = deque(float(number) for number in range(100, 0, -1))
    assert (share(values, 0.5), share(values, 0.95)) == (50.0, 95.0)
