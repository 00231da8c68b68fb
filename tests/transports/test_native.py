"""The native socket, as the browser's host meets it: many requests on one connection."""

from __future__ import annotations

import json
import random
import socket
import stat
import struct
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tabagent.conversation import MOST_RUNNING
from tabagent.transports.native import MOST
from tests.bridge import ORIGIN, NativeClient, approve, chat, text_of
from tests.live import FAKE, LiveServer, eventually, fake_models

ANY = str(uuid.UUID(int=7))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with LiveServer(
        tmp_path_factory.mktemp("native"), extra=fake_models(), model=FAKE, resume_ttl_s=1.5
    ) as live:
        approve(live, access="admin")
        live.owner.post("/v1/models/load", json={"model": FAKE})
        yield live


@pytest.fixture
def extension(server: LiveServer) -> Iterator[NativeClient]:
    with NativeClient(server) as client:
        yield client


def running(server: LiveServer) -> int:
    return server.gateway.dispatcher.active


# ---- requests and replies ----------------------------------------------------------------------
def test_a_reply_is_that_of_http(server: LiveServer, extension: NativeClient) -> None:
    mine = extension.reply("tokenize", {"text": "abc", "model": FAKE})
    theirs = server.client.post("/v1/tokenize", json={"text": "abc", "model": FAKE})
    assert mine["success"] is True
    assert mine["data"] == theirs.json()


def test_a_stream_is_numbered_and_ends(extension: NativeClient) -> None:
    request_id = extension.ask("chat", chat("5"))
    heard = [extension.hear()]
    while heard[-1].get("event") == "chunk":
        heard.append(extension.hear())
    *chunks, done = heard
    assert [chunk["seq"] for chunk in chunks] == list(range(len(chunks)))
    assert done == {
        "request_id": request_id, "success": True, "event": "done", "seq": len(chunks),
    }  # fmt: skip
    assert "".join(map(text_of, chunks)).split() == ["1", "2", "3", "4", "5"]
    assert chunks[0]["data"]["id"] == f"chatcmpl-{request_id.replace('-', '')}"


def test_a_problem_is_that_of_http(server: LiveServer, extension: NativeClient) -> None:
    mine = extension.reply("chat", {"messages": [], "nonsense": 1})
    theirs = server.client.post("/v1/chat/completions", json={"messages": [], "nonsense": 1}).json()
    assert mine["success"] is False
    mine["error"].pop("instance"), theirs.pop("instance")
    assert mine["error"] == theirs


def test_a_problem_in_mid_stream_is_the_last_message(extension: NativeClient) -> None:
    request_id = extension.ask("chat", chat("9 exit"))
    last = extension.last(request_id)
    assert last["error"]["code"] == "worker-crashed"
    assert last["error"]["instance"] == f"urn:uuid:{request_id}"
    assert extension.reply("health")["success"], "and nothing follows it"


def test_sixty_four_at_once_end_in_any_order(extension: NativeClient) -> None:
    slow = extension.ask("chat", chat("8 sleep"))
    quick = {extension.ask("tokenize", {"text": "a" * n, "model": FAKE}): n for n in range(1, 64)}
    order: list[str] = []
    counts: dict[str, int] = {}
    while len(order) < 64:
        message = extension.hear()
        if message.get("event") == "chunk":
            continue
        order.append(message["request_id"])
        if message["request_id"] in quick:
            counts[message["request_id"]] = len(message["data"]["tokens"])
    assert counts == quick
    assert order[-1] == slow


def test_an_id_that_is_running_is_a_conflict_and_disturbs_nothing(extension: NativeClient) -> None:
    request_id = extension.ask("chat", chat("5 sleep"), "mine")
    extension.ask("health", request_id=request_id)
    heard = [extension.hear() for _ in range(2)]
    assert any(m.get("error", {}).get("code") == "conflict" for m in heard)
    assert extension.last(request_id)["event"] == "done"


def test_more_than_so_many_requests_are_refused_by_name(extension: NativeClient) -> None:
    ids = [extension.ask("events", {}) for _ in range(MOST_RUNNING + 1)]
    refused = eventually(
        lambda: next((m for m in [extension.hear()] if not m["success"]), None), 10
    )
    assert refused["request_id"] == ids[-1]
    assert refused["error"]["code"] == "queue-full"
    for request_id in ids[:-1]:
        extension.say(request_id=request_id, route="cancel")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"1", b"\xff\xfe", b"\x00" * 100, b'{"request_id":1,"route":"health"}',
        b'{"request_id":"a","route":"health","extra":1}', b'{"route":"health"}',
        b'{"request_id":"","route":"health"}', b'{"request_id":"' + b"a" * 65 + b'"}',
        b"[" * 100_000, b'{"a":' * 100_000, b'{"request_id":"a","payload":"\\ud800"}',
    ],
    ids=lambda body: str(body[:24]),
)  # fmt: skip
def test_what_is_no_message_is_told_so_and_the_rest_goes_on(
    extension: NativeClient, body: bytes
) -> None:
    extension.frame(body)
    heard = extension.hear()
    assert heard["request_id"] is None
    assert heard["error"]["code"] == "malformed-request"
    assert extension.reply("health")["success"]


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ('{"a":1,"a":2}', "twice"), ("[1]", "object"), ('{"a":1e999}', "too large"),
        ('{"a":' * 70 + "1" + "}" * 70, "deeper"),
    ],
)  # fmt: skip
def test_a_payload_is_read_as_strictly_as_a_body(
    extension: NativeClient, payload: str, says: str
) -> None:
    extension.frame(b'{"request_id":"x","route":"tokenize","payload":%b}' % payload.encode())
    heard = extension.hear()
    assert heard["request_id"] == "x"
    assert heard["error"]["code"] == "malformed-request"
    assert says in heard["error"]["detail"]


def test_an_operation_that_is_not_there_is_not_found(extension: NativeClient) -> None:
    assert extension.reply("nothing")["error"]["code"] == "not-found"
    assert extension.reply("cancelled")["error"]["code"] == "not-found"


# ---- cancel ------------------------------------------------------------------------------------
def test_cancel_ends_a_request_and_frees_its_slot(
    server: LiveServer, extension: NativeClient
) -> None:
    request_id = extension.ask("chat", chat("1000 sleep"))
    assert extension.hear()["event"] == "chunk"
    extension.say(request_id=request_id, route="cancel")
    assert extension.last(request_id)["event"] == "cancelled"
    eventually(lambda: server.idle(), 1)


def test_cancel_at_once_is_answered_too(server: LiveServer, extension: NativeClient) -> None:
    for _ in range(20):
        request_id = str(uuid.uuid4())
        both = [
            json.dumps({"request_id": request_id, "route": "chat", "payload": chat("99 sleep")}),
            json.dumps({"request_id": request_id, "route": "cancel"}),
        ]
        frames = b"".join(struct.pack("=I", len(m)) + m.encode() for m in both)
        extension.socket.sendall(frames)
        assert extension.last(request_id)["event"] == "cancelled"
    eventually(lambda: server.idle() and running(server) == 0, 2)


def test_cancel_of_what_does_not_run_says_so(extension: NativeClient) -> None:
    extension.say(request_id="none", route="cancel")
    heard = extension.hear()
    assert heard["request_id"] == "none"
    assert heard["error"]["code"] == "request-not-found"


# ---- large messages ----------------------------------------------------------------------------
def test_a_large_reply_comes_in_parts_that_fit(extension: NativeClient) -> None:
    request_id = extension.ask("detokenize", {"model": FAKE, "tokens": [34, 92, 10] * 100_000})
    sizes = []
    parts: list[str] = []
    while True:
        message = extension.raw()
        assert message is not None
        sizes.append(len(json.dumps(message, ensure_ascii=False).encode()))
        if message.get("event") != "part":
            break
        assert message["request_id"] == request_id
        assert message["seq"] == len(parts)
        parts.append(message["text"])
        if not message["more"]:
            break
    assert max(sizes) <= MOST + 64  # spaces that our own writing adds
    whole = json.loads("".join(parts))
    assert whole["data"]["text"] == '"\\\n' * 100_000


def test_twenty_mebibytes_come_out_and_sixty_go_in(
    server: LiveServer, extension: NativeClient
) -> None:
    said = [{"role": "user", "content": "é" * 1_000_000} for _ in range(10)]
    session = {"tabagent_session": 1, "session": {"title": "é"}, "messages": said}
    made = extension.reply("import_session", {"data": session})
    assert made["success"], made
    shown = extension.reply("export_session", {"session_id": made["data"]["id"]})
    assert len(json.dumps(shown, ensure_ascii=False).encode()) > 20_000_000
    largest = 64 * 2**20 - 100
    whole = {"request_id": "in", "route": "import_session", "payload": {"data": {}, "text": ""}}
    whole["payload"] = {"data": {}, "text": "y" * (largest - len(json.dumps(whole)))}
    extension.frame(json.dumps(whole).encode())
    assert extension.last("in")["error"]["code"] == "invalid-request"
    server.client.delete(f"/v1/sessions/{made['data']['id']}")


def test_a_payload_over_the_limit_is_refused_by_name(extension: NativeClient) -> None:
    heard = extension.reply("tokenize", {"model": FAKE, "text": "x" * (8 * 2**20)})
    assert heard["error"]["code"] == "payload-too-large"
    assert heard["error"]["limit_bytes"] == 8 * 2**20
    assert extension.reply("health")["success"]


def test_a_message_in_parts_is_one_message(extension: NativeClient) -> None:
    whole = json.dumps(
        {"request_id": "w", "route": "tokenize", "payload": {"text": "abc", "model": FAKE}}
    )
    middle = len(whole) // 2
    extension.say(request_id="w", event="part", seq=0, more=True, text=whole[:middle])
    extension.say(request_id="w", event="part", seq=1, more=False, text=whole[middle:])
    assert extension.last("w")["data"]["tokens"] == [97, 98, 99]


@pytest.mark.parametrize(
    "parts",
    [
        [{"seq": 1, "more": True, "text": "a"}],
        [{"seq": 0, "more": True, "text": "a"}, {"seq": 0, "more": False, "text": "b"}],
        [{"seq": 0, "more": True, "text": "a"}, {"seq": 2, "more": False, "text": "b"}],
    ],
)
def test_parts_out_of_order_are_refused(extension: NativeClient, parts: list[Any]) -> None:
    for part in parts:
        extension.say(request_id="p", event="part", **part)
    assert extension.hear()["error"]["code"] == "malformed-request"
    assert extension.reply("health")["success"]


def test_parts_without_end_are_bounded(server: LiveServer, extension: NativeClient) -> None:
    for name in "abcde":
        extension.say(request_id=name, event="part", seq=0, more=True, text="{")
    heard = extension.hear()
    assert (heard["request_id"], heard["error"]["code"]) == ("e", "queue-full")
    piece = "x" * (16 * 2**20)
    for number in range(1, 8):
        extension.say(request_id="a", event="part", seq=number, more=True, text=piece)
    assert extension.hear()["error"]["code"] == "payload-too-large"


# ---- a reader that is slow, and a client that is lost ------------------------------------------
def test_a_slow_reader_holds_up_its_streams_and_nobody_else(server: LiveServer) -> None:
    with NativeClient(server) as slow, NativeClient(server) as other:
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ids = [slow.ask("chat", chat("2000")) for _ in range(4)]
        assert other.reply("health")["success"]
        time.sleep(0.5)
        counts = dict.fromkeys(ids, 0)
        over = 0
        while over < 4:
            message = slow.hear()
            assert message["success"], message
            if message["event"] == "chunk":
                assert message["seq"] == counts[message["request_id"]], "nothing lost or doubled"
                counts[message["request_id"]] += 1
            else:
                over += 1


def test_what_waits_for_a_host_is_bounded_however_many_requests_run(
    server: LiveServer, extension: NativeClient
) -> None:
    said = [{"role": "user", "content": "x" * 200_000}]
    session = {"tabagent_session": 1, "session": {"title": "x"}, "messages": said}
    made = extension.reply("import_session", {"data": session})["data"]
    with NativeClient(server) as slow:
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(100):
            slow.ask("export_session", {"session_id": made["id"]})
        eventually(lambda: running(server) == 0 and unread(server), 10)
        assert max(unread(server)) < 3 * MOST
        assert all(slow.hear()["success"] for _ in range(100))
    server.client.delete(f"/v1/sessions/{made['id']}")


def unread(server: LiveServer) -> list[int]:
    """Bytes that wait for each host."""
    writers = list(server.gateway.native._open.values())
    return [size for writer in writers if (size := writer.transport.get_write_buffer_size())]


def test_who_does_not_read_at_all_is_cut_off(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=fake_models(), write_stall_s=0.5, resume_ttl_s=0) as server:
        approve(server)
        with NativeClient(server) as client:
            for _ in range(8):
                client.ask("chat", chat("4000"))
            eventually(lambda: server.idle() and running(server) == 0, 15)


def test_a_lost_client_finds_its_answer_again(server: LiveServer) -> None:
    with NativeClient(server) as first:
        request_id = first.ask("chat", chat("30 sleep"))
        before = [first.hear() for _ in range(8)]
    with NativeClient(server) as second:
        again = second.ask(
            "resume_generation", {"request_id": request_id, "from": 8, "stream": True}
        )
        after = [second.hear()]
        while after[-1].get("event") == "chunk":
            after.append(second.hear())
    assert {message["request_id"] for message in after} == {again}
    chunks = [*before, *after[:-1]]
    assert [chunk["seq"] for chunk in chunks] == list(range(len(chunks)))
    assert after[-1]["event"] == "done"
    assert after[-1]["seq"] == len(chunks)
    words = "".join(map(text_of, chunks)).split()
    assert words == [str(n) for n in range(1, 31)]


def test_an_answer_that_nobody_comes_back_for_ends(server: LiveServer) -> None:
    with NativeClient(server) as lost:
        lost.ask("chat", chat("1000 sleep"))
        lost.hear()
    time.sleep(0.7)
    assert not server.idle(), "it waits"
    eventually(lambda: server.idle(), 3)


def test_cancel_ends_an_answer_that_could_be_followed_again(
    server: LiveServer, extension: NativeClient
) -> None:
    request_id = extension.ask("chat", chat("1000 sleep", detach=True))
    extension.hear()
    extension.say(request_id=request_id, route="cancel")
    assert extension.last(request_id)["event"] == "cancelled"
    eventually(lambda: server.idle(), 1)


def test_the_end_of_the_server_waits_for_what_has_not_been_read(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=fake_models(), drain_s=20) as server:
        approve(server)
        with NativeClient(server) as client, ThreadPoolExecutor(1) as pool:
            client.ask("chat", chat("900"))
            eventually(lambda: running(server) > 0, 15)
            eventually(lambda: running(server) == 0, 15)  # written, and most of it not yet read
            ended = pool.submit(server.stop)
            time.sleep(0.3)
            heard = [client.hear()]
            while heard[-1].get("event") == "chunk":
                heard.append(client.hear())
            assert heard[-1]["event"] == "done"
            began = time.monotonic()
            ended.result(20)
            assert time.monotonic() - began < 5


# ---- who may ----------------------------------------------------------------------------------
def test_an_unknown_extension_is_told_to_pair_and_nothing_happens(server: LiveServer) -> None:
    with NativeClient(server, "chrome-extension://ponmlkjihgfedcbaponmlkjihgfedcba/") as stranger:
        assert stranger.reply("health")["success"]
        for route in ("models", "chat", "load_model", "list_clients", "create_session"):
            assert stranger.reply(route)["error"]["code"] == "pairing-required"


def test_an_extension_pairs_once_and_works(server: LiveServer) -> None:
    other = "ponmlkjihgfedcbaponmlkjihgfedcba"
    with NativeClient(server, f"chrome-extension://{other}/") as client:
        hello = client.reply("hello")["data"]
        assert hello["state"] == "pairing-required"
        waiting = client.ask("pair", {"wait_s": 10})
        approved = server.owner.post("/v1/clients", json={"code": hello["code"]})
        assert approved.status_code == 200, approved.text
        paired = client.last(waiting)["data"]
        assert paired["state"] == "paired"
        assert client.reply("models")["success"]
        assert client.reply("load_model", {"model": FAKE})["error"]["code"] == "access-denied"
        with_token = {"Authorization": f"Bearer {paired['token']}"}
        assert server.client.get("/v1/models", headers=with_token).status_code == 200
        assert client.reply("hello")["data"]["state"] == "paired"
        server.owner.delete(f"/v1/clients/{paired['client_id']}")
        assert client.reply("models")["error"]["code"] == "pairing-required"
        assert server.client.get("/v1/models", headers=with_token).status_code in (200, 401)


def test_a_revoked_extension_is_out_at_once(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=fake_models()) as server:
        client_id = approve(server)
        with NativeClient(server) as client:
            request_id = client.ask("chat", chat("1000 sleep", detach=True))
            watching = client.ask("events", {})
            for _ in range(3):
                client.hear()
            server.owner.delete(f"/v1/clients/{client_id}")
            began = time.monotonic()
            ended: dict[str, str] = {}
            while len(ended) < 2:
                message = client.hear()
                if not message["success"]:
                    ended[message["request_id"]] = message["error"]["code"]
            assert time.monotonic() - began < 1
            assert ended == {request_id: "unauthorized", watching: "unauthorized"}
            eventually(lambda: server.idle(), 1)
            gone = client.reply("resume_generation", {"request_id": request_id})
            assert gone["error"]["code"] == "pairing-required"


def test_an_answer_belongs_to_who_asked_for_it(server: LiveServer, extension: NativeClient) -> None:
    request_id = extension.ask("chat", chat("3"))
    extension.last(request_id)
    path = f"/v1/generation/{request_id}/events"
    assert server.client.get(path).json()["code"] == "request-not-found"
    again = extension.ask("resume_generation", {"request_id": request_id})
    assert extension.last(again)["event"] == "done"


def test_nobody_cancels_the_answer_of_another_by_its_id(
    server: LiveServer, extension: NativeClient
) -> None:
    request_id = extension.ask("chat", chat("30 sleep"))
    extension.hear()
    with NativeClient(server, f"chrome-extension://{'c' * 32}/") as stranger:
        assert stranger.reply("hello")["success"]
        stranger.ask("pair", {"wait_s": 20}, request_id)
        assert stranger.reply("health")["success"]  # by now it has begun
        stranger.say(request_id=request_id, route="cancel")
        assert stranger.last(request_id)["event"] == "cancelled"
    assert extension.last(request_id)["event"] == "done"


# ---- the socket itself --------------------------------------------------------------------------
def test_only_this_user_reaches_the_socket(server: LiveServer) -> None:
    address = server.gateway.native.address
    assert address is not None
    path = Path(address["path"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "preface", [[], "x", {}, {"origin": 1}, {"origin": "a" * 70_000}], ids=lambda p: str(p)[:12]
)
def test_a_connection_without_a_preface_is_closed(server: LiveServer, preface: Any) -> None:
    with NativeClient(server, preface=preface) as client:
        assert client.raw() is None


@pytest.mark.parametrize(
    "body",
    [b'{"origin":"\xff"}', b'{"origin":"\\ud800"}', b'{"x":' + b"[" * 60_000],
    ids=lambda body: str(body[:16]),
)
def test_a_preface_that_cannot_be_read_is_no_internal_error(
    server: LiveServer, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    address = server.gateway.native.address
    assert address is not None
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(address["path"])
        connection.sendall(struct.pack("=I", len(body)) + body)
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    eventually(lambda: not server.gateway.native.connections)
    assert [record for record in caplog.records if record.name == "asyncio"] == []


def test_a_frame_over_the_limit_closes_the_connection(server: LiveServer) -> None:
    with NativeClient(server) as client:
        client.socket.sendall(struct.pack("=I", 2**26 + 1))
        assert client.raw() is None


def test_without_unix_sockets_a_loopback_port_wants_its_token(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=fake_models(), native_socket="tcp") as server:
        approve(server)
        with NativeClient(server) as client:
            assert client.reply("models")["success"]
        for token in ("", "0" * 64):
            said = {"origin": ORIGIN + "/", "token": token}
            with NativeClient(server, preface=said) as stranger:
                assert stranger.raw() is None


def test_the_socket_goes_with_the_server(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=fake_models()) as server:
        address = server.gateway.native.address
        assert address is not None
        path = Path(address["path"])
        assert path.exists()
    assert not path.exists()


def test_a_thousand_hostile_connections_leave_the_server_as_it_was(server: LiveServer) -> None:
    """Frames that are cut, too long, of the wrong order of bytes, deep, binary, or no JSON."""
    chance = random.Random(7)
    good = json.dumps({"request_id": ANY, "route": "health"}).encode()
    kinds = (
        lambda: struct.pack("=I", len(good)) + good,
        lambda: (struct.pack("=I", len(good)) + good)[: chance.randrange(len(good) + 4)],
        lambda: struct.pack(">I", len(good)) + good,
        lambda: struct.pack("=I", chance.randrange(2**26, 2**32)) + b"x" * chance.randrange(99),
        lambda: struct.pack("=I", 40) + chance.randbytes(40),
        lambda: struct.pack("=I", 6000) + b"[" * 6000,
        lambda: struct.pack("=I", 0),
        lambda: chance.randbytes(chance.randrange(200)),
    )
    for _ in range(1000):
        eventually(lambda: server.gateway.native.connections < 32)
        with NativeClient(server) as client, suppress(OSError):  # it may have hung up already
            for _ in range(chance.randrange(1, 6)):
                client.socket.sendall(chance.choice(kinds)())
    eventually(lambda: not server.gateway.native.connections, 5)
    with NativeClient(server) as client:
        assert client.reply("health")["success"]
    eventually(lambda: running(server) == 0, 5)
