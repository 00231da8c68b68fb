"""HTTP as clients meet it: payloads, limits, hang-ups."""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live import FAKE, LiveServer, chat_body, eventually, fake_model


def raw(server: LiveServer, method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: 127.0.0.1:{server.gateway.port}",
        f"Content-Length: {len(body)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def connect(server: LiveServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.gateway.port), 10)


def start_chat(server: LiveServer, text: str, **more: Any) -> socket.socket:
    """A chat whose connection the test holds, with nothing read yet."""
    body = json.dumps(chat_body(text, **more)).encode()
    connection = connect(server)
    connection.sendall(
        raw(server, "POST", "/v1/chat/completions", body, Content_Type="application/json")
    )
    return connection


def test_path_query_and_body_are_one_request(counter: LiveServer) -> None:
    by_query = counter.client.post(
        "/v1/tokenize", params={"text": "abc"}, json={"model": FAKE}
    ).json()
    assert by_query["tokens"] == [97, 98, 99]
    slash = counter.client.get("/v1/models/fake/counter").json()
    encoded = counter.client.get("/v1/models/fake%2Fcounter").json()
    assert slash == encoded
    assert slash["id"] == FAKE


def test_a_name_given_twice_is_refused(counter: LiveServer) -> None:
    twice = counter.client.post("/v1/tokenize?text=a", json={"text": "b", "model": FAKE})
    assert twice.status_code == 400
    assert twice.json()["errors"] == [{"pointer": "/text", "detail": "given twice"}]
    assert counter.client.get("/v1/models/x?model_id=y").status_code == 400


def test_the_request_id_is_the_callers_when_it_is_a_uuid(counter: LiveServer) -> None:
    mine = str(uuid.uuid4())
    assert (
        counter.client.get("/health", headers={"X-Request-Id": mine}).headers["x-request-id"]
        == mine
    )
    other = counter.client.get("/health", headers={"X-Request-Id": "../../etc"})
    assert uuid.UUID(other.headers["x-request-id"]).version == 4
    error = counter.client.get("/v1/models/none", headers={"X-Request-Id": mine}).json()
    assert error["instance"] == f"urn:uuid:{mine}"


def test_a_path_says_which_methods_it_has(counter: LiveServer) -> None:
    response = counter.client.delete("/v1/chat/completions")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert response.json()["code"] == "method-not-allowed"
    both = counter.client.put("/v1/halt")
    assert {m.strip() for m in both.headers["allow"].split(",")} == {"GET", "POST"}
    page = counter.client.post("/swagger-ui/", json={})
    assert page.json()["code"] == "method-not-allowed"
    assert "GET" in page.headers["allow"]


def test_head_is_get_without_a_body(counter: LiveServer) -> None:
    response = counter.client.head("/health")
    assert response.status_code == 200
    assert response.content == b""


def test_an_unknown_path_is_a_problem(counter: LiveServer) -> None:
    response = counter.client.get("/v2/anything")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-should-retry"] == "false"
    assert response.json()["code"] == "not-found"


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_is_refused_before_it_is_read(
    counter: LiveServer, declared: bool
) -> None:
    limit = counter.settings.body_limit
    chunk = b"x" * 65536

    def body() -> Iterator[bytes]:
        for _ in range(limit // len(chunk) + 2):
            yield chunk

    headers = {"Content-Type": "application/json"}
    if declared:
        with connect(counter) as connection:
            request = raw(counter, "POST", "/v1/tokenize", Content_Type="application/json")
            connection.sendall(request.replace(b"Length: 0", f"Length: {limit + 1}".encode()))
            answer = connection.recv(65536)
        assert b" 413 " in answer
        assert str(limit).encode() in answer
        return
    try:
        response = counter.client.post("/v1/tokenize", content=body(), headers=headers)
    except httpx.TransportError:
        return  # answered and closed while we were still sending
    assert response.status_code == 413
    assert response.json()["limit_bytes"] == limit


def test_a_body_that_does_not_arrive_is_given_up(tmp_path: Path) -> None:
    with LiveServer(tmp_path, body_s=0.2) as server, connect(server) as connection:
        request = raw(server, "POST", "/v1/tokenize", b"{}", Content_Type="application/json")
        connection.sendall(request[:-1])
        answer = connection.recv(65536)
        assert b" 408 " in answer
        assert b"request-timeout" in answer


def test_a_long_prompt_with_a_typed_end_of_text_reaches_the_model(counter: LiveServer) -> None:
    reply = counter.client.post("/v1/tokenize", json={"model": FAKE, "text": "ü" * 1_000_000})
    assert reply.json()["count"] == 2_000_000


# ---- streams and hang-ups ------------------------------------------------------------------------
def test_a_stream_is_openais(counter: LiveServer) -> None:
    response = counter.chat("3", stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert len({(e["id"], e["created"], e["model"]) for e in events}) == 1
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [e["choices"][0]["delta"].get("role") for e in events[1:-1]] == [None] * 4
    assert events[-2]["choices"][0]["delta"] == {}
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["total_tokens"] == 4
    plain = counter.chat("3", stream=True).text
    assert '"usage"' not in plain


def test_an_error_before_the_first_event_has_its_own_status(counter: LiveServer) -> None:
    response = counter.chat("3", model="nobody/nothing", stream=True)
    assert response.status_code == 404
    assert response.json()["pull_hint"]
    assert response.json()["error"]["param"] == "model"


def test_hanging_up_on_a_stream_frees_the_slot(counter: LiveServer) -> None:
    with start_chat(counter, "1000 sleep", stream=True) as connection:
        assert b"data: " in connection.recv(65536)
        eventually(lambda: counter.loaded()["slots_used"] == 1)
    began = time.monotonic()
    eventually(lambda: counter.idle())
    assert time.monotonic() - began < 1


def test_hanging_up_on_a_plain_call_frees_the_slot(counter: LiveServer) -> None:
    counter.answer("1")
    with start_chat(counter, "1000 sleep"):
        eventually(lambda: counter.loaded()["slots_used"] == 1)
    began = time.monotonic()
    eventually(lambda: counter.idle())
    assert time.monotonic() - began < 1
    assert counter.client.get("/v1/halt").json()["active"] == []


def test_hanging_up_before_the_headers_frees_the_slot(tmp_path: Path) -> None:
    models = [fake_model(), fake_model("fake/slow", "/slow")]
    with LiveServer(tmp_path, extra=models) as server:
        start_chat(server, "1000 sleep", model="fake/slow", stream=True).close()
        eventually(lambda: server.loaded("fake/slow").get("state") == "ready")
        eventually(lambda: server.idle("fake/slow"))
        assert server.answer("2", model="fake/slow") == "1 2 "


def test_silence_is_filled_with_comments_and_headers_come_in_time(tmp_path: Path) -> None:
    with (
        LiveServer(tmp_path, extra=[fake_model(path="/slow")], heartbeat_s=0.1) as server,
        server.client.stream(
            "POST", "/v1/chat/completions", json=chat_body("3", stream=True)
        ) as response,
    ):
        text = "".join(response.iter_text())
    assert text.startswith(": ")
    assert text.endswith("data: [DONE]\n\n")


def test_a_client_that_does_not_read_is_cut(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=[fake_model()], write_stall_s=0.5) as server:
        server.answer("1")
        with start_chat(server, "900000", stream=True) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            eventually(lambda: server.loaded()["slots_used"] == 1)
            eventually(lambda: server.idle(), 15)


def test_eight_chats_stream_side_by_side(counter: LiveServer) -> None:
    connections = [start_chat(counter, f"{8 + n} sleep", stream=True) for n in range(8)]
    eventually(lambda: counter.loaded()["slots_used"] == 8)
    for connection in connections:
        with connection:
            text = b""
            while not text.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") and (
                data := connection.recv(65536)
            ):
                text += data
                if b"[DONE]" in text:
                    break
            assert b'"finish_reason":"stop"' in text
