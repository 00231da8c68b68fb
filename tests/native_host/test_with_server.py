"""The host before the real server: what comes out is the server's, whole, however much it is."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from native_host import relay
from native_host.install import EXTENSION_ID
from tests.commands.test_serve import run, serving
from tests.native_host.hosts import HostProcess, Place, framed
from tests.native_host.test_frames import some_body

ORIGIN = f"chrome-extension://{EXTENSION_ID}/"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Beside a server that runs and knows the extension."""
    made = Place(tmp_path_factory.mktemp("real") / "d", allowed_origins=[ORIGIN])
    with serving(made.data_dir):
        done = run("clients", "approve", EXTENSION_ID, "--data-dir", str(made.data_dir))
        assert done.returncode == 0, done.stderr
        yield made


@pytest.fixture
def host(place: Place) -> Iterator[HostProcess]:
    with place.host(ORIGIN) as process:
        yield process
        assert not process.broken


def asked(host: HostProcess, name: str, route: str, **payload: Any) -> dict[str, Any]:
    """The reply, joined where it comes in parts."""
    host.send({"request_id": name, "route": route, "payload": payload})
    text, reply = "", host.receive(30)
    while reply.get("event") == "part":
        text += reply["text"]
        if not reply["more"]:
            reply = json.loads(text)
            break
        reply = host.receive(30)
    assert reply["request_id"] == name
    return reply


def test_sixty_four_requests_at_once(host: HostProcess) -> None:
    for n in range(64):
        host.send({"request_id": f"r{n}", "route": "tokenize", "payload": {"text": "one two"}})
    replies = [host.receive(30) for _ in range(64)]
    assert {reply["request_id"] for reply in replies} == {f"r{n}" for n in range(64)}
    assert all(reply["success"] for reply in replies), replies[0]


def test_a_reply_that_is_larger_than_a_message_comes_in_parts(host: HostProcess) -> None:
    reply = asked(host, "r1", "tokenize", text="word " * 400_000)
    assert reply["success"], str(reply)[:300]
    assert len(json.dumps(reply)) > relay.MOST_TO_BROWSER


def test_a_chat_streams_through(host: HostProcess) -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}], "stream": True, "max_tokens": 8}
    host.send({"request_id": "c1", "route": "chat", "payload": body})
    events: list[dict[str, Any]] = []
    while not events or events[-1].get("event") == "chunk":
        events.append(host.receive(40))
    assert events[-1].get("event") == "done", events[-1]
    assert [event["seq"] for event in events[:-1]] == list(range(len(events) - 1))


def test_nonsense_is_answered_message_by_message_and_harms_nobody(host: HostProcess) -> None:
    chance = random.Random(7)
    bodies = [some_body(chance, f"n{n}") for n in range(150)]
    host.stdin.write(b"".join(map(framed, bodies)))
    host.stdin.flush()
    for _ in bodies:
        reply = host.receive(20)
        assert not reply["success"], reply
        assert reply["error"]["status"] < 500
    assert asked(host, "after", "health")["success"]


def test_the_largest_frame_is_answered_too(host: HostProcess) -> None:
    body = b'{"request_id":"big","route":"health","payload":{"x":"'
    host.send(body.ljust(relay.MOST - 3, b"x") + b'"}}')
    assert not host.receive(40)["success"]
    assert asked(host, "after", "health")["success"]


def test_one_who_is_not_approved_is_told_so(place: Place, tmp_path: Path) -> None:
    other = "chrome-extension://ponmlkjihgfedcbaponmlkjihgfedcba/"
    place.configure(allowed_origins=[ORIGIN, other])
    with place.host(other) as host:
        reply = asked(host, "r1", "tokenize", text="one")
        assert reply["error"]["code"] == "pairing-required"
        assert asked(host, "r2", "health")["success"]


def test_a_server_that_was_killed_is_found_again(tmp_path: Path) -> None:
    place = Place(tmp_path / "d", allowed_origins=[ORIGIN])
    with serving(place.data_dir) as (process, _), place.host(ORIGIN) as host:
        assert asked(host, "r1", "health")["success"]
        process.kill()
        process.wait()
        assert host.receive()["error"]["code"] == "server-unreachable"
        assert asked(host, "r2", "health")["error"]["code"] == "server-unreachable"
        with serving(place.data_dir):
            assert asked(host, "r3", "health")["success"]


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_it_finds_either_kind_of_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "tcp":
        monkeypatch.setenv("TABAGENT_NATIVE_SOCKET", "tcp")
    data = tmp_path / ("d" if kind == "tcp" else "long" * 25)  # a socket's path may not be so long
    place = Place(data, allowed_origins=[ORIGIN])
    with serving(place.data_dir), place.host(ORIGIN) as host:
        assert asked(host, "r1", "health")["success"]
