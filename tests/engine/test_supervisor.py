"""Workers that die, stall or will not start, and what their callers see."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.live import FAKE, LiveServer, chat_body, eventually, fake_model
from tests.transports.test_http import start_chat


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while part := connection.recv(65536):
        data += part
        if data.endswith(b"0\r\n\r\n"):
            break
    return data


@pytest.fixture
def server(tmp_path: Path) -> Any:
    models = [fake_model(), fake_model("fake/other"), fake_model("fake/slow", "/slow")]
    with LiveServer(tmp_path, extra=models, worker_restarts=2) as live:
        yield live


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_worker_killed_mid_stream_is_an_error_event_within_a_second(
    server: LiveServer, number: signal.Signals
) -> None:
    other = start_chat(server, "12 sleep", model="fake/other", stream=True)
    with start_chat(server, "1000 sleep", stream=True) as connection:
        assert b"data: " in connection.recv(65536)
        worker = server.worker()
        began = time.monotonic()
        worker.send_signal(number)
        rest = read_all(connection)
        assert time.monotonic() - began < 1
    event = rest[rest.index(b"event: error") :]
    problem = json.loads(event[event.index(b"{") : event.rindex(b"}") + 1])
    assert problem["code"] == "worker-crashed"
    assert problem["signal"] == number.name
    assert problem["tokens_sent"] > 0
    assert problem["error"]["message"]
    assert server.answer("3") == "1 2 3 "
    assert server.worker().pid != worker.pid
    assert server.loaded()["restarts"] == 1
    with other:
        assert b"[DONE]" in read_all(other)


def test_a_worker_killed_while_idle_is_started_again(server: LiveServer) -> None:
    server.answer("1")
    old = server.worker()
    old.kill()
    eventually(lambda: server.loaded().get("pid") not in (None, old.pid))
    assert server.answer("2") == "1 2 "


def test_a_worker_killed_while_loading_fails_that_load_only(server: LiveServer) -> None:
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(server.chat, "1", model="fake/slow")
        server.worker("fake/slow").kill()
        assert waiting.result().json()["code"] == "worker-crashed"
    assert server.answer("1", model="fake/slow") == "1 "


@pytest.mark.parametrize("word", ["crash", "exit", "raise"])
def test_a_worker_that_dies_says_its_last_words(server: LiveServer, word: str) -> None:
    problem = server.chat(f"9 {word}").json()
    assert problem["code"] == "worker-crashed"
    assert problem["signal"] == ("SIGABRT" if word == "crash" else None)
    if word == "crash":
        assert problem["last_words"] == "these are my last words"
    if word == "raise":
        assert "RuntimeError: made to fail" in problem["last_words"]
        assert "/" not in problem["last_words"].replace("://", "")


def test_noise_on_stdout_harms_nobody(server: LiveServer) -> None:
    assert server.answer("5 noise") == "1 2 3 4 5 "


def test_a_stopped_worker_is_noticed_within_three_heartbeats(server: LiveServer) -> None:
    server.answer("1")
    worker = server.worker()
    worker.suspend()
    began = time.monotonic()
    problem = server.chat("5").json()
    assert problem["code"] == "worker-crashed"
    assert "stopped answering" in problem["detail"]
    assert time.monotonic() - began < 3 * server.settings.worker_beat_s + 1
    assert server.answer("1") == "1 "


def test_a_worker_that_makes_no_progress_is_ended(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=[fake_model()], stall_s=0.5, worker_beat_s=0.2) as server:
        problem = server.chat("9 stall").json()
        assert problem["code"] == "worker-crashed"
        assert "no progress" in problem["detail"]


def test_crashes_are_forgiven_a_few_times_only(server: LiveServer) -> None:
    for _ in range(3):
        assert server.chat("9 crash").json()["code"] == "worker-crashed"
        time.sleep(0.05)
    eventually(lambda: server.loaded().get("state") == "crashed")
    response = server.chat("1")
    assert response.json()["code"] == "model-crash-loop"
    assert response.headers["x-should-retry"] == "false"
    assert server.answer("1", model="fake/other") == "1 "
    assert server.owner.post("/v1/models/load", json={"model": FAKE}).status_code == 200
    assert server.answer("1") == "1 "


def test_many_first_requests_cause_one_load(server: LiveServer) -> None:
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: server.answer("2", model="fake/slow"), range(12)))
    assert answers == ["1 2 "] * 12
    children = psutil.Process().children()
    ours = [p for p in children if "tabagent.worker" in " ".join(p.cmdline())]
    assert len([p for p in ours if p.pid == server.worker("fake/slow").pid]) == 1
    assert server.loaded("fake/slow")["restarts"] == 0


def test_the_first_who_asked_may_leave_while_others_wait(server: LiveServer) -> None:
    first = start_chat(server, "1", model="fake/slow")
    eventually(lambda: server.loaded("fake/slow"))
    with ThreadPoolExecutor() as pool:
        second = pool.submit(server.answer, "3", "fake/slow")
        time.sleep(0.1)
        first.close()
        assert second.result() == "1 2 3 "


def test_a_failed_load_leaves_the_next_one_possible(tmp_path: Path) -> None:
    path = tmp_path / "state"
    models = [
        fake_model("fake/corrupt", "/corrupt"),
        fake_model("fake/crash", "/crash"),
        fake_model("fake/die", "/die"),
        fake_model(),
    ]
    with LiveServer(path, extra=models) as server:
        for _ in range(2):
            typed = server.chat("1", model="fake/corrupt")
            assert (typed.status_code, typed.json()["check"]) == (422, "fake")
            crashed = server.chat("1", model="fake/crash")
            assert (crashed.status_code, crashed.json()["code"]) == (422, "model-corrupt")
            assert crashed.json()["actual"] == "these are my last words"
            died = server.chat("1", model="fake/die")
            assert (died.status_code, died.json()["code"]) == (503, "worker-crashed")
        assert [row["model"] for row in server.client.get("/v1/models/loaded").json()["data"]] == []
        assert server.answer("2") == "1 2 "


def test_a_load_that_takes_too_long_is_called_off(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=[fake_model(path="/slow")], load_s=0.2) as server:
        response = server.chat("1")
        assert (response.status_code, response.json()["code"]) == (503, "model-loading")
        assert server.loaded() == {}


def test_without_auto_load_a_model_must_be_loaded_first(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=[fake_model()], auto_load=False) as server:
        problem = server.chat("1").json()
        assert problem["code"] == "model-not-loaded"
        assert problem["load_hint"] == f"tabagent load {FAKE}"
        server.owner.post("/v1/models/load", json={"model": FAKE})
        assert server.answer("1") == "1 "


def test_loading_otherwise_is_a_conflict_unless_forced(server: LiveServer) -> None:
    load = {"model": FAKE, "slots": 2}
    assert server.owner.post("/v1/models/load", json=load).json()["slots"] == 2
    assert server.owner.post("/v1/models/load", json=load).status_code == 200
    other = {**load, "slots": 3}
    assert server.owner.post("/v1/models/load", json=other).json()["code"] == "conflict"
    forced = server.owner.post("/v1/models/load", json={**other, "force_reload": True})
    assert forced.json()["slots"] == 3


def test_a_busy_model_is_unloaded_only_by_force(server: LiveServer) -> None:
    with start_chat(server, "1000 sleep", stream=True) as connection:
        assert b"data: " in connection.recv(65536)
        worker = server.worker()
        busy = server.owner.post("/v1/models/unload", json={"model": FAKE})
        assert (busy.status_code, busy.json()["code"]) == (409, "model-busy")
        forced = server.owner.post("/v1/models/unload", json={"model": FAKE, "force": True})
        assert forced.status_code == 200
        assert b"shutting-down" in read_all(connection)
        assert not worker.is_running()
    again = server.owner.post("/v1/models/unload", json={"model": FAKE})
    assert again.json()["code"] == "model-not-loaded"
    assert server.answer("1") == "1 "


def test_unloading_a_model_that_loads_ends_its_waiters(server: LiveServer) -> None:
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(server.chat, "1", model="fake/slow")
        eventually(lambda: server.loaded("fake/slow").get("pid"))
        server.owner.post("/v1/models/unload", json={"model": "fake/slow"})
        assert waiting.result().json()["code"] == "shutting-down"


def test_the_queue_has_an_end(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=[fake_model()], slots=1, queue_size=2) as server:
        server.answer("1")
        held = [start_chat(server, "1000 sleep") for _ in range(3)]
        eventually(lambda: server.loaded()["queue"] == 2)
        full = server.chat("1")
        assert full.status_code == 429
        assert full.json()["queue_length"] == 2
        assert full.json()["eta_s"] > 0
        assert int(full.headers["retry-after"]) >= 1
        assert full.headers["x-should-retry"] == "true"
        for connection in held:
            connection.close()
        eventually(lambda: server.idle())
        assert server.answer("1") == "1 "


def test_a_generation_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=[fake_model()], generation_s=0.3) as server:
        assert server.chat("1000 sleep").json()["code"] == "generation-timeout"
        eventually(lambda: server.idle())
        assert server.answer("1") == "1 "


def test_stopping_ends_a_generation_in_order(server: LiveServer) -> None:
    with ThreadPoolExecutor() as pool:
        running = pool.submit(server.chat, "1000 sleep")
        eventually(lambda: server.client.get("/v1/halt").json()["active"])
        active = eventually(
            lambda: [a for a in server.client.get("/v1/halt").json()["active"] if a["tokens"]]
        )
        assert active[0]["model"] == FAKE
        unknown = server.client.post("/v1/generation/stop", json={"request_id": "x"})
        assert unknown.json()["code"] == "request-not-found"
        id_ = active[0]["request_id"]
        as_completion = "chatcmpl-" + id_.replace("-", "")
        stopped = server.client.post("/v1/halt", json={"request_id": as_completion})
        assert stopped.json()["stopped"] == [id_]
        choice = running.result().json()["choices"][0]
        assert choice["message"]["content"].startswith("1 2 ")
        assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "halted")
    assert server.client.get("/v1/halt").json()["last_halt_at"]
    assert server.client.post("/v1/generation/stop", json={}).json() == {"stopped": []}


def test_a_generation_stopped_while_its_model_loads_ends_at_once(server: LiveServer) -> None:
    with ThreadPoolExecutor() as pool:
        running = pool.submit(server.chat, "1000 sleep", model="fake/slow")
        eventually(lambda: server.client.get("/v1/halt").json()["active"])
        assert server.client.post("/v1/generation/stop", json={}).json()["stopped"]
        assert running.result().json()["choices"][0]["stop_reason"] == "halted"


def test_two_requests_of_one_id_are_not_mixed_up(server: LiveServer) -> None:
    mine = {"X-Request-Id": "0f6b7f5a-3c5b-4a39-9a0e-7d2f6f1a2b3c"}
    server.answer("1")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(
            server.client.post,
            "/v1/chat/completions",
            json=chat_body("12 sleep"),
            headers=mine,
        )
        eventually(lambda: server.client.get("/v1/halt").json()["active"])
        second = server.client.post("/v1/chat/completions", json=chat_body("1"), headers=mine)
        assert second.json()["code"] == "conflict"
        assert first.result().status_code == 200


SERVE = """
import sys, threading, time
from pathlib import Path
from tabagent import logs
from tests.live import LiveServer, fake_model
logs.configure("warning", "console")
with LiveServer(Path(sys.argv[1]), extra=[fake_model()]) as server:
    server.answer("1")
    print(server.worker().pid, flush=True)
    server.chat("1000000 sleep")
"""


def test_killing_the_server_leaves_no_worker(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert process.stdout is not None
    with process.stdout:
        worker = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.wait()
    eventually(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 1)


def test_draining_lets_answers_end_and_takes_nothing_new(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=[fake_model()], drain_s=10) as server:
        server.answer("1")
        short = start_chat(server, "20 sleep", stream=True)
        assert b"data: " in short.recv(65536)
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        eventually(lambda: server.gateway.dispatcher.draining)
        refused = server.client.post("/v1/chat/completions", json=chat_body("1"))
        assert refused.json()["code"] == "shutting-down"
        assert b"[DONE]" in read_all(short)
        short.close()
        stopper.join()


def test_what_does_not_end_in_time_is_told_so(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=[fake_model()], drain_s=0.2) as server:
        server.answer("1")
        long = start_chat(server, "1000 sleep", stream=True)
        assert b"data: " in long.recv(65536)
        server.stop()
        assert b"shutting-down" in read_all(long)
        long.close()
