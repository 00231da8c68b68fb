"""Who waits for whom, and how long that is thought to take."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.live import FAKE, LiveServer, eventually, fake_model
from tests.transports.test_http import start_chat


def active(server: LiveServer) -> int:
    return len(server.client.get("/v1/halt").json()["active"])


def test_the_queue_counts_answers_not_requests(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=[fake_model()], slots=1, queue_size=2) as server:
        server.owner.post("/v1/models/load", json={"model": FAKE})
        with start_chat(server, "1000 sleep", n=3):
            eventually(lambda: server.loaded()["slots_used"] == 1)
            full = server.chat("1").json()
        assert (full["code"], full["queue_length"]) == ("queue-full", 2)


def test_requests_that_wait_for_a_load_are_queued_like_others(tmp_path: Path) -> None:
    models = [fake_model(path="/slow")]
    with (
        LiveServer(tmp_path, extra=models, slots=1, queue_size=2) as server,
        ThreadPoolExecutor(5) as pool,
    ):
        answers = list(pool.map(lambda _: server.chat("40 sleep", max_tokens=20), range(5)))
    assert sorted(a.status_code for a in answers) == [200, 200, 200, 429, 429]


def test_the_estimate_learns_from_what_ended_and_from_what_runs(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=[fake_model()], slots=1, queue_size=1) as server:
        server.owner.post("/v1/models/load", json={"model": FAKE})

        def estimate() -> float:
            held = [start_chat(server, "1000 sleep") for _ in range(2)]
            eventually(lambda: active(server) == 2)
            refused = server.chat("1")
            for connection in held:
                connection.close()
            eventually(lambda: active(server) == 0)
            assert int(refused.headers["retry-after"]) >= 1
            return float(refused.json()["eta_s"])

        assert estimate() == pytest.approx(10.0), "nothing is known: five seconds for each"
        server.answer("1")
        assert 1 <= estimate() < 10, "the last one was quick"


def test_several_prompts_are_one_generation(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=[fake_model()]) as server, ThreadPoolExecutor() as pool:
        body = {"model": FAKE, "prompt": ["1000 sleep", "1000 sleep"], "n": 2}
        running = pool.submit(server.client.post, "/v1/completions", json=body)
        rows = eventually(
            lambda: [
                row for row in server.client.get("/v1/halt").json()["active"] if row["tokens"] >= 4
            ]
        )
        stopped = server.client.post("/v1/halt", json={}).json()["stopped"]
        assert stopped == [rows[0]["request_id"]]
        choices = running.result().json()["choices"]
    assert [(c["index"], c["stop_reason"]) for c in choices] == [(n, "halted") for n in range(4)]
