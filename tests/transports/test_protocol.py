"""Heads of requests that dribble, never end or are too large, and connections that are too many."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.live import TOKEN, LiveServer, eventually, fake_models


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    place: Path = tmp_path_factory.mktemp("protocol")
    with LiveServer(place, extra=fake_models(), head_s=1) as live:
        yield live


def connect(server: LiveServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.gateway.port), 10)


def read(connection: socket.socket) -> bytes:
    """Everything until the server hangs up."""
    heard = b""
    with suppress(ConnectionResetError):
        while data := connection.recv(65536):
            heard += data
    return heard


def problem(heard: bytes) -> tuple[int, str]:
    """(status, slug) of an answer."""
    head, _, body = heard.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    assert b"connection: close" in head.lower()
    document = json.loads(body)
    status = int(head.split()[1])
    assert document["status"] == status
    return status, document["code"]


def head(server: LiveServer, *lines: str, target: str = "/health") -> bytes:
    first = [f"GET {target} HTTP/1.1", f"Host: 127.0.0.1:{server.gateway.port}"]
    return "\r\n".join([*first, *lines]).encode() + b"\r\n\r\n"


def test_headers_that_dribble_are_ended_in_time(server: LiveServer) -> None:
    with connect(server) as connection:
        began = time.monotonic()
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        connection.settimeout(0.3)
        heard = b""
        while not heard and time.monotonic() - began < 5:
            connection.sendall(b"X-Slow: 1\r\n")
            with suppress(TimeoutError):
                heard = connection.recv(65536)
        assert problem(heard) == (408, "request-timeout")
        assert time.monotonic() - began < 3.5


def test_who_says_nothing_is_hung_up_on(server: LiveServer) -> None:
    with connect(server) as connection:
        began = time.monotonic()
        assert read(connection) == b""
        assert time.monotonic() - began < 3.5


def test_a_second_request_has_as_long_as_the_first(server: LiveServer) -> None:
    with connect(server) as connection:
        connection.sendall(head(server))
        assert b" 200 " in connection.recv(65536)
        connection.sendall(b"GET /hea")
        assert problem(read(connection)) == (408, "request-timeout")


def test_an_answer_that_takes_longer_is_not_ended(server: LiveServer) -> None:
    answer = server.chat("50 sleep")
    assert answer.status_code == 200
    assert answer.elapsed.total_seconds() > 2


def test_a_connection_that_is_kept_may_rest(server: LiveServer) -> None:
    with connect(server) as connection:
        for _ in range(3):
            connection.sendall(head(server))
            assert b" 200 " in connection.recv(65536)
            time.sleep(1.2)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([f"X-{n}: 1" for n in range(65)], (431, "headers-too-large")),
        (["X-Long: " + "x" * 17_000], (431, "headers-too-large")),
        ([f"X-{n}: " + "x" * 1000 for n in range(17)], (431, "headers-too-large")),
        (["Content-Length: 1", "Transfer-Encoding: chunked"], (400, "malformed-request")),
        (["Content-Length: 1", "Content-Length: 2"], (400, "malformed-request")),
        (["Bad Header: 1"], (400, "malformed-request")),
    ],
    ids=["65 headers", "one of 17 KiB", "17 KiB in all", "two framings", "two lengths", "a space"],
)
def test_a_head_beyond_bounds_is_refused(
    server: LiveServer, lines: list[str], expected: tuple[int, str]
) -> None:
    with connect(server) as connection:
        connection.sendall(head(server, *lines))
        assert problem(read(connection)) == expected


def test_a_head_within_bounds_is_not(server: LiveServer) -> None:
    with connect(server) as connection:
        lines = [f"X-{n}: " + "x" * 200 for n in range(60)]
        connection.sendall(head(server, *lines, "Connection: close"))
        assert b" 200 " in read(connection)


@pytest.mark.parametrize("length", [8300, 70_000, 300_000])
def test_a_target_that_is_too_long_is_refused(server: LiveServer, length: int) -> None:
    with connect(server) as connection:
        connection.sendall(head(server, target="/v1/models?" + "x" * length))
        status, slug = problem(read(connection))
        assert (status, slug) in ((414, "uri-too-long"), (431, "headers-too-large"))
        assert length > 10_000 or status == 414


def test_a_header_without_end_is_ended(server: LiveServer) -> None:
    with connect(server) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nX: ")
        sent = 0
        with suppress(OSError):
            while sent < 2**24:
                sent += connection.send(b"x" * 4096)
        assert sent < 2**22


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00\x01", b"HELLO\r\n\r\n", b"\x00" * 99])
def test_what_is_not_http_is_refused(server: LiveServer, garbage: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(garbage)
        assert problem(read(connection)) == (400, "malformed-request")


def test_connections_are_counted_and_given_back(tmp_path: Path) -> None:
    with LiveServer(tmp_path, connections=8) as server:
        held = [connect(server) for _ in range(8)]
        with connect(server) as ninth:
            assert problem(read(ninth)) == (429, "queue-full")
        for one in held:
            one.close()
        eventually(lambda: httpx.get(f"{server.url}/health", trust_env=False).status_code == 200)


def test_one_address_has_its_share_where_everybody_may_connect(tmp_path: Path) -> None:
    with LiveServer(tmp_path, host="0.0.0.0", token=TOKEN, peer_connections=4) as server:
        held = [connect(server) for _ in range(4)]
        with connect(server) as fifth:
            assert problem(read(fifth)) == (429, "queue-full")
        for one in held:
            one.close()
        eventually(lambda: httpx.get(f"{server.url}/health", trust_env=False).status_code == 200)
