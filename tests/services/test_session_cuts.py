"""Answers in a session that are cut off, and several at once: nothing is lost."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live import FAKE, LiveServer, chat_body, eventually, fake_models
from tests.services.test_session_chats import asked, chat, last, rows, settled
from tests.services.test_sessions import QUIET, create, history, ok, refused, say
from tests.transports.test_http import start_chat


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    place = tmp_path_factory.mktemp("cuts")
    with LiveServer(place, extra=fake_models(), **QUIET) as running:
        yield running


# ---- cut off ------------------------------------------------------------------------------------
def test_hanging_up_keeps_what_had_been_said(server: LiveServer) -> None:
    id_ = create(server)["id"]
    with start_chat(server, "1000 sleep", stream=True, session_id=id_) as connection:
        seen = b""
        while b'"content":"3 "' not in seen:
            seen += connection.recv(65536)
        assert last(server, id_)["status"] == "pending"
    answer = settled(server, id_)
    assert (answer["status"], answer["finish_reason"]) == ("partial", "cancelled")
    assert answer["content"].startswith("1 2 3 ")
    eventually(server.idle)
    seen_next = asked(server, id_)
    assert [m["content"] for m in seen_next] == ["1000 sleep", answer["content"], "report"]


def test_hanging_up_at_any_time_leaves_nothing_open(server: LiveServer) -> None:
    ids = [create(server)["id"] for _ in range(12)]
    for number, id_ in enumerate(ids):
        connection = start_chat(server, "100 sleep", stream=True, session_id=id_)
        threading.Event().wait(number / 1000)
        connection.close()
    for id_ in ids:
        for row in rows(server, id_):
            if row["role"] == "assistant":
                assert settled(server, id_)["status"] == "partial"
    eventually(server.idle, 15)
    eventually(lambda: not server.gateway.services.keeper._open)


def test_stopping_keeps_what_had_been_said(server: LiveServer) -> None:
    id_ = create(server)["id"]
    body = chat_body("1000 sleep", FAKE, stream=True, session_id=id_)
    with server.client.stream("POST", "/v1/chat/completions", json=body) as response:
        stopped = False
        for line in response.iter_lines():
            if '"content":"2 "' in line and not stopped:
                request = json.loads(line.removeprefix("data: "))["id"]
                ok(server.client.post("/v1/halt", json={"request_id": request}))
                stopped = True
    answer = last(server, id_)
    assert (answer["status"], answer["finish_reason"]) == ("partial", "halted")
    assert answer["content"].startswith("1 2 ")


def test_a_worker_that_dies_leaves_what_had_been_said(server: LiveServer) -> None:
    id_ = create(server)["id"]
    with start_chat(server, "1000 sleep", stream=True, session_id=id_) as connection:
        seen = b""
        while b'"content":"3 "' not in seen:
            seen += connection.recv(65536)
        server.worker().kill()
        answer = settled(server, id_)
    assert (answer["status"], answer["finish_reason"]) == ("partial", "worker-crashed")
    assert answer["content"].startswith("1 2 3 ")
    other = create(server)["id"]
    assert server.chat("9 crash", session_id=other).status_code == 503
    assert settled(server, other)["content"] == "1 2 "
    none = create(server)["id"]
    refused(server.chat("x" * 5000, session_id=none), 400, "context-length-exceeded")
    answer = settled(server, none)
    assert (answer["status"], answer["content"]) == ("failed", "")


SERVE = """
import sys, time
from pathlib import Path
from tests.live import LiveServer, fake_models
from tests.services.test_sessions import QUIET
with LiveServer(Path(sys.argv[1]), extra=fake_models(), **QUIET) as server:
    print(server.url, flush=True)
    time.sleep(600)
"""


def test_a_server_that_is_killed_has_kept_what_had_been_said(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            id_ = ok(client.post("/v1/sessions", json={}))["id"]
            body = chat_body("1000 sleep", FAKE, stream=True, session_id=id_)
            with client.stream("POST", "/v1/chat/completions", json=body) as response:
                for line in response.iter_lines():
                    # Longer than it takes until an answer is written for the first time.
                    if '"content":"60 "' in line:
                        os.kill(process.pid, signal.SIGKILL)
                        break
    finally:
        process.kill()
        process.communicate()
    with LiveServer(tmp_path, extra=fake_models(), **QUIET) as server:
        question, answer = rows(server, id_)
        assert question["content"] == "1000 sleep"
        assert (answer["status"], answer["finish_reason"]) == ("partial", "interrupted")
        assert answer["content"].startswith("1 2 3 4 5 ")
        query = {"query": "12 13 14", "mode": "words"}
        (found,) = ok(server.client.get("/v1/sessions/search", params=query))["data"]
        assert found["message"]["id"] == answer["id"]
        assert chat(server, id_, "2")["session"]["history_messages"] == 2


def test_a_server_that_stops_keeps_what_had_been_said(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=fake_models(), **QUIET) as server:
        id_ = create(server)["id"]
        connection = start_chat(server, "1000 sleep", stream=True, session_id=id_)
        seen = b""
        while b'"content":"3 "' not in seen:
            seen += connection.recv(65536)
    connection.close()
    with LiveServer(tmp_path, extra=fake_models(), **QUIET) as server:
        answer = last(server, id_)
        assert answer["status"] == "partial"
        assert answer["finish_reason"] == "shutting-down"
        assert answer["content"].startswith("1 2 3 ")


def test_an_answer_that_the_disk_did_not_take_is_saved_when_there_is_room(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=fake_models(), **QUIET) as server:
        id_ = create(server)["id"]
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        with start_chat(server, "20 sleep", stream=True, session_id=id_) as connection:
            seen = b""
            while b'"content":"1 "' not in seen:
                seen += connection.recv(65536)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
            try:
                while b"insufficient-storage" not in seen:
                    more = connection.recv(65536)
                    assert more, seen
                    seen += more
                assert last(server, id_)["status"] == "pending"
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
        answer = settled(server, id_)
        assert (answer["status"], answer["finish_reason"]) == ("complete", "stop")
        assert answer["content"].endswith(" 19 20 ")


# ---- at once ------------------------------------------------------------------------------------
def test_two_tabs_at_once_lose_nothing_and_keep_the_order(server: LiveServer) -> None:
    id_ = create(server)["id"]
    failures: list[str] = []

    def tab(name: str) -> None:
        for number in range(10):
            response = server.chat(f"2 {name}{number}", session_id=id_)
            if response.status_code != 200:
                failures.append(response.text)

    tabs = [threading.Thread(target=tab, args=(name,)) for name in "xy"]
    for thread in tabs:
        thread.start()
    for thread in tabs:
        thread.join(60)
    assert failures == []
    kept = rows(server, id_)
    assert len(kept) == 40
    assert [m["role"] for m in kept] == ["user", "assistant"] * 20
    assert all(m["content"] == "1 2 " for m in kept[1::2])
    for name in "xy":
        mine = [m["content"] for m in kept[::2] if m["content"].startswith(f"2 {name}")]
        assert mine == [f"2 {name}{n}" for n in range(10)]
    assert [m["depth"] for m in kept] == list(range(40))


def test_a_second_question_waits_for_the_first_answer_and_is_asked_with_it(
    server: LiveServer,
) -> None:
    id_ = create(server)["id"]
    body = chat_body("20 sleep", FAKE, stream=True, session_id=id_)
    with server.client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        while '"content":"1 "' not in next(lines):
            pass
        seen: list[Any] = []
        other = threading.Thread(target=lambda: seen.append(asked(server, id_)))
        other.start()
        eventually(lambda: history(server, id_)["total"] == 4)
        for _ in lines:
            pass
    other.join(30)
    whole = "".join(f"{n} " for n in range(1, 21))
    assert [m["content"] for m in seen[0]] == ["20 sleep", whole, "report"]


def test_a_fork_waits_for_an_answer_before_it_on_another_branch(server: LiveServer) -> None:
    id_ = create(server)["id"]
    with start_chat(server, "20 sleep", stream=True, session_id=id_) as connection:
        while b'"content":"1 "' not in connection.recv(65536):
            pass
        question = say(server, id_, "late")
        seen: list[Any] = []
        other = threading.Thread(
            target=lambda: seen.append(asked(server, id_, replace_message_id=question["id"]))
        )
        other.start()
        other.join(30)
    whole = "".join(f"{n} " for n in range(1, 21))
    assert [m["content"] for m in seen[0]] == ["20 sleep", whole, "report"]


def test_who_waits_too_long_is_told_and_the_message_is_kept(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=fake_models(), queue_wait_s=0.3, **QUIET) as server:
        id_ = create(server)["id"]
        with start_chat(server, "1000 sleep", stream=True, session_id=id_) as connection:
            while b'"content":"1 "' not in connection.recv(65536):
                pass
            for _ in range(2):  # neither of the two is answered before the first
                response = server.chat("2", session_id=id_)
                assert response.json()["code"] == "queue-timeout"
                assert response.json()["detail"].endswith("the message is saved")
            assert settled(server, id_)["status"] == "failed"
            kept = rows(server, id_)
            assert [m["content"] for m in kept[2:]] == ["2", "", "2", ""]
            assert kept[1]["status"] == "pending"
            assert kept[3]["status"] == "failed"
