"""An extension asks, its owner approves, it has a token; and with a word all of that is over."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any, Self

import httpx
import pytest
from structlog.testing import capture_logs

from tabagent.app import Gateway
from tabagent.config import Settings
from tabagent.dispatcher import LOCAL
from tabagent.errors import (
    InvalidRequest,
    NotFound,
    OriginNotAllowed,
    PairingRequired,
    RateLimited,
)
from tabagent.operation import Access, Call, Reply
from tabagent.services.clients import pairings
from tabagent.services.clients.pairings import ALPHABET, LIFE_S, MOST, PACE, PACE_S, Pairings
from tabagent.services.clients.shapes import PairReply, PairRequest
from tabagent.transports.event_stream import EventStream
from tests.bridge import client_of
from tests.live import FAKE, TOKEN, LiveServer, chat_body, eventually, fake_models
from tests.services.test_events import Follower

FOX_ID = "abcdefghijklmnopabcdefghijklmnop"
FOX = f"chrome-extension://{FOX_ID}"
CAT = "chrome-extension://ponmlkjihgfedcbaponmlkjihgfedcba"
OWL = "moz-extension-id:owl@birds.example"
OWL_PAGE = "moz-extension://0a1b2c3d-0000-4000-8000-00000000000f"


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveServer]:
    with LiveServer(tmp_path, extra=fake_models()) as server:
        yield server


class Extension:
    """One that calls over HTTP, as a browser sends it."""

    def __init__(self, server: LiveServer, origin: str = FOX) -> None:
        self.http = httpx.Client(
            base_url=server.url, timeout=30, trust_env=False, headers={"Origin": origin}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def pair(self, **asked: Any) -> dict[str, Any]:
        answer = self.http.post("/v1/pair", json=asked)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def approved_by(self, server: LiveServer, **said: Any) -> dict[str, Any]:
        first = self.pair(name="Fox")
        approve(server, code=first["code"], **said)
        paired = self.pair(secret=first["secret"])
        assert paired["state"] == "paired", paired
        self.http.headers["Authorization"] = f"Bearer {paired['token']}"
        return paired


@pytest.fixture
def fox(live: LiveServer) -> Iterator[Extension]:
    with Extension(live) as extension:
        yield extension


def approve(server: LiveServer, **said: Any) -> dict[str, Any]:
    answer = server.owner.post("/v1/clients", json=said)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def revoke(server: LiveServer, client: str) -> None:
    answer = server.owner.delete(f"/v1/clients/{client}")
    assert answer.status_code == 200, answer.text


def listed(server: LiveServer) -> dict[str, Any]:
    return dict(server.owner.get("/v1/clients").json())


# ---- over HTTP ----------------------------------------------------------------------------------


def test_an_extension_shows_a_code_is_approved_and_works(live: LiveServer, fox: Extension) -> None:
    first = fox.pair(name="Fox")
    assert first["state"] == "pending" and first["token"] is None
    head, tail = first["code"].split("-")
    assert len(head) == len(tail) == 4 and set(head + tail) <= set(ALPHABET)
    assert not set("01ILO") & set(ALPHABET)
    assert fox.http.get("/v1/models").status_code == 403  # it may ask, and that is all
    [pending] = listed(live)["pending"]
    assert (pending["code"], pending["origin"], pending["name"], pending["vouched"]) == (
        first["code"], FOX, "Fox", False,
    )  # fmt: skip
    assert fox.pair(secret=first["secret"])["code"] == first["code"]
    made = approve(live, code=first["code"].lower().replace("-", " "))
    assert (made["origin"], made["name"], made["access"]) == (FOX, "Fox", "user")
    paired = fox.pair(secret=first["secret"])
    assert (paired["state"], paired["client_id"], paired["access"]) == (
        "paired",
        made["id"],
        "user",
    )
    assert paired["url"] == live.url
    assert listed(live)["pending"] == []
    fox.http.headers["Authorization"] = f"Bearer {paired['token']}"
    hello = fox.http.get("/v1/hello").json()
    assert (hello["state"], hello["caller"], hello["client_id"], hello["access"], hello["origin"]) == (
        "paired", made["id"], made["id"], "user", FOX,
    )  # fmt: skip
    assert fox.http.post("/v1/chat/completions", json=chat_body("3")).status_code == 200
    refused = fox.http.post("/v1/models/load", json={"model": FAKE})
    assert (refused.status_code, refused.json()["code"]) == (403, "access-denied")
    [row] = listed(live)["data"]
    assert row["last_used_at"] and row["tokens"] == 1


def test_an_extension_that_may_administer_may(live: LiveServer, fox: Extension) -> None:
    assert fox.approved_by(live, access="admin")["access"] == "admin"
    assert fox.http.post("/v1/models/load", json={"model": FAKE}).status_code == 200
    approve(live, extension_id=FOX_ID)  # from now on it may not
    assert fox.http.post("/v1/models/unload", json={"model": FAKE}).status_code == 403


def test_who_waits_is_told_at_once_when_the_owner_approves(
    live: LiveServer, fox: Extension
) -> None:
    first = fox.pair()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(fox.pair, secret=first["secret"], wait_s=30)
        eventually(lambda: live.gateway.dispatcher.active == 1)
        begun = monotonic()
        approve(live, code=first["code"])
        assert waiting.result(5)["state"] == "paired"
        assert monotonic() - begun < 1


def test_who_waits_for_nothing_is_told_so_when_the_time_is_over(
    live: LiveServer, fox: Extension
) -> None:
    first = fox.pair(wait_s=30)  # the code has to be shown before there is anything to wait for
    begun = monotonic()
    assert fox.pair(secret=first["secret"], wait_s=0.3)["state"] == "pending"
    assert 0.3 <= monotonic() - begun < 5


def test_who_waits_does_not_hold_up_the_end_of_the_server(tmp_path: Path) -> None:
    with LiveServer(tmp_path, drain_s=20) as server, Extension(server) as fox:
        first = fox.pair()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(fox.pair, secret=first["secret"], wait_s=30)
            eventually(lambda: server.gateway.dispatcher.active == 1)
            begun = monotonic()
            server.stop()
            assert monotonic() - begun < 5
            assert waiting.result(5)["state"] == "pending"


def test_another_extension_that_writes_the_same_origin_gets_nothing(
    live: LiveServer, fox: Extension
) -> None:
    """Over HTTP an approved origin is worth nothing: each asker needs its own code approved."""
    fox.approved_by(live, access="admin")
    forger = fox
    del forger.http.headers["Authorization"]
    begun = forger.pair(name="Fox")
    assert begun["state"] == "pending"
    approve(live, extension_id=FOX_ID)  # the extension is known; that is not this asker
    assert forger.pair(secret=begun["secret"])["state"] == "pending"
    guess = forger.pair(secret="x" * 43)
    assert guess["state"] == "pending" and guess["code"] != begun["code"]
    with Extension(live, CAT) as other:
        assert other.pair(secret=begun["secret"])["code"] != begun["code"]


def test_a_web_page_and_a_program_cannot_pair(live: LiveServer) -> None:
    for headers in ({}, {"Origin": live.url, "Sec-Fetch-Site": "same-origin"}):
        answer = live.client.post("/v1/pair", json={}, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "origin-not-allowed")
    assert listed(live)["pending"] == []


def test_hello_says_who_one_is(live: LiveServer) -> None:
    mine = live.client.get("/v1/hello").json()
    assert (mine["state"], mine["caller"], mine["access"], mine["code"]) == (
        "open", LOCAL, "user", None,
    )  # fmt: skip
    assert mine["url"] == live.url and "http" in mine["transports"]
    owner = live.owner.get("/v1/hello").json()
    assert (owner["state"], owner["caller"], owner["access"]) == ("open", "owner", "admin")
    # As an extension with the host's permission asks: no Origin, and no page either.
    unknown = live.client.get("/v1/hello", headers={"Sec-Fetch-Site": "none"}).json()
    assert (unknown["state"], unknown["access"], unknown["code"]) == (
        "pairing-required", "public", None,
    )  # fmt: skip
    assert listed(live)["pending"] == []


def test_the_owner_is_told_where_the_server_runs(
    live: LiveServer, fox: Extension, capsys: pytest.CaptureFixture[str]
) -> None:
    with capture_logs() as lines:
        code = fox.pair(name="Fox")["code"]
    said = capsys.readouterr().out
    assert f"extension {FOX_ID} asks to be approved: tabagent clients approve {code}" in said
    [line] = [line for line in lines if line["event"] == "client_asks"]
    assert (line["log_level"], line["origin"], line["code"]) == ("warning", FOX, code)


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "\x1b[31mred", "x" * 65, "a\u202eb"])
def test_a_name_that_would_command_a_terminal_is_refused(fox: Extension, name: str) -> None:
    assert fox.http.post("/v1/pair", json={"name": name}).status_code == 400


def test_no_token_and_no_secret_is_logged_or_told_to_others(
    live: LiveServer, fox: Extension, capsys: pytest.CaptureFixture[str]
) -> None:
    with capture_logs() as lines:
        first = fox.pair(name="Fox")
        approve(live, code=first["code"])
        paired = fox.pair(secret=first["secret"])
        events = live.client.get("/v1/events", params={"from": 1, "stream": "false"}).text
        wrong = fox.http.get("/v1/models", headers={"Authorization": f"Bearer {paired['token']}x"})
    captured = capsys.readouterr()
    told = f"{lines}{captured.out}{captured.err}{events}{wrong.text}{listed(live)}"
    for secret in (paired["token"], first["secret"]):
        assert secret not in told
    assert first["code"] not in events
    for reply in (first, paired):
        shown = repr(PairReply.model_validate(reply))
        assert paired["token"] not in shown and first["secret"] not in shown
    assert first["secret"] not in repr(PairRequest(secret=first["secret"]))


def test_clients_are_told_of_in_the_events(live: LiveServer, fox: Extension) -> None:
    made = fox.approved_by(live)
    approve(live, origin=FOX, name="Vixen", access="admin")
    revoke(live, made["client_id"])
    rows = live.client.get("/v1/events", params={"from": 1, "stream": "false"}).json()["data"]
    told = [row["data"] for row in rows if row["type"] == "client"]
    assert [(t["state"], t["name"], t["access"]) for t in told] == [
        ("approved", "Fox", "user"), ("changed", "Vixen", "admin"), ("revoked", "Vixen", "admin"),
    ]  # fmt: skip
    assert {t["client"] for t in told} == {made["client_id"]}


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"code": "ABCD-2345", "extension_id": FOX_ID},
        {"extension_id": "https://x.example"},
        {"origin": "chrome-extension://abc"},
        {"origin": "null"},
        {"extension_id": FOX_ID, "access": "public"},
    ],
)
def test_what_is_no_extension_is_not_approved(live: LiveServer, said: dict[str, Any]) -> None:
    assert live.owner.post("/v1/clients", json=said).status_code == 400
    assert listed(live)["data"] == []


def test_a_code_that_nobody_shows_approves_nobody(live: LiveServer, fox: Extension) -> None:
    code = fox.pair()["code"]
    assert live.owner.post("/v1/clients", json={"code": "2222-2222"}).status_code == 404
    approve(live, code=code)
    assert live.owner.post("/v1/clients", json={"code": code}).status_code == 404  # once
    assert live.owner.delete("/v1/clients/cl_none").status_code == 404


# ---- revoked ------------------------------------------------------------------------------------


def test_a_revoked_client_is_out_on_its_next_request(live: LiveServer, fox: Extension) -> None:
    made = fox.approved_by(live)
    assert fox.http.get("/v1/models").status_code == 200
    revoke(live, FOX_ID)
    assert fox.http.get("/v1/models").status_code == 403  # its origin is nobody's any more
    token = {"Authorization": f"Bearer {made['token']}", "Sec-Fetch-Site": "none"}
    for _ in range(30):  # it has not heard yet: that is no guessing
        assert live.client.get("/v1/models", headers=token).status_code == 401
    assert listed(live)["data"] == []


def test_a_revoked_clients_answer_ends_at_once_and_frees_its_slot(
    live: LiveServer, fox: Extension
) -> None:
    made = fox.approved_by(live)
    live.answer("3")
    body = chat_body("1000 sleep", stream=True)
    with fox.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        assert listed(live)["data"][0]["connected"] is True
        begun = monotonic()
        revoke(live, made["client_id"])
        rest = list(lines)
        assert monotonic() - begun < 1
    at = rest.index("event: error")
    assert json.loads(rest[at + 1].removeprefix("data: "))["code"] == "unauthorized"
    assert "data: [DONE]" not in rest
    eventually(lambda: live.idle(), 1)


def test_a_revoked_clients_plain_call_ends_at_once(live: LiveServer, fox: Extension) -> None:
    made = fox.approved_by(live)
    live.answer("3")
    with ThreadPoolExecutor(1) as pool:
        body = chat_body("1000 sleep")
        asked = pool.submit(fox.http.post, "/v1/chat/completions", json=body)
        eventually(lambda: live.loaded().get("slots_used") == 1)
        begun = monotonic()
        revoke(live, made["client_id"])
        answer = asked.result(5)
        assert monotonic() - begun < 1
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    eventually(lambda: live.idle(), 1)


def test_a_revoked_clients_events_end(live: LiveServer, fox: Extension) -> None:
    made = fox.approved_by(live)
    with fox.http.stream("GET", "/v1/events") as answer:
        lines = answer.iter_lines()
        assert Follower(lines).next()["type"] == "start"
        begun = monotonic()
        revoke(live, made["client_id"])
        rest = "\n".join(lines)
        assert monotonic() - begun < 1
    assert "event: error" in rest and "unauthorized" in rest


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_revoked_clients_unfinished_body_is_not_waited_for_and_does_nothing(
    live: LiveServer, fox: Extension, goes_on: bool
) -> None:
    made = fox.approved_by(live)
    with socket.create_connection(("127.0.0.1", live.gateway.port), timeout=5) as sent:
        body = {"id": "sess_late", "title": "late"}
        whole = raw_post(live, "/v1/sessions", made["token"], body)
        sent.sendall(whole[:-5])
        eventually(lambda: listed(live)["data"][0]["connected"])
        begun = monotonic()
        revoke(live, made["client_id"])
        if goes_on:
            sent.sendall(whole[-5:])
        answer = sent.recv(65536).decode()
        assert monotonic() - begun < 1
        assert answer.startswith("HTTP/1.1 401 ")
    assert live.client.get("/v1/sessions/sess_late").status_code == 404


def raw_post(server: LiveServer, path: str, token: str, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.gateway.port}\r\nOrigin: {FOX}\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def test_a_revoked_client_that_does_not_read_is_cut_off(live: LiveServer, fox: Extension) -> None:
    made = fox.approved_by(live)
    live.answer("3")
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        deaf.connect(("127.0.0.1", live.gateway.port))
        body = chat_body("900000", stream=True)
        deaf.sendall(raw_post(live, "/v1/chat/completions", made["token"], body))
        eventually(lambda: (since := writing_since()) and monotonic() - since > 0.3, 15)
        revoke(live, made["client_id"])
        eventually(lambda: live.gateway.dispatcher.active == 0, 1.5)
        eventually(lambda: live.idle(), 1.5)


def writing_since() -> float:
    """Since when a stream waits for its client to read; the loop's clock is the monotonic one."""
    found = [each for each in gc.get_objects() if isinstance(each, EventStream)]
    return next((since for each in found if (since := each._writing_since)), 0.0)


def test_a_client_that_revokes_itself_is_told_so(live: LiveServer, fox: Extension) -> None:
    made = fox.approved_by(live, access="admin")
    answer = fox.http.delete(f"/v1/clients/{made['client_id']}")
    assert answer.status_code == 200 and answer.json()["revoked"] is True
    assert listed(live)["data"] == []


def test_a_client_is_known_after_a_start_and_a_revoked_one_is_not(tmp_path: Path) -> None:
    with LiveServer(tmp_path) as server, Extension(server) as fox, Extension(server, CAT) as cat:
        kept, gone = fox.approved_by(server), cat.approved_by(server)
        revoke(server, gone["client_id"])
    with LiveServer(tmp_path) as server:
        headers = {"Authorization": f"Bearer {kept['token']}", "Origin": FOX}
        assert server.client.get("/v1/models", headers=headers).status_code == 200
        headers = {"Authorization": f"Bearer {gone['token']}", "Sec-Fetch-Site": "none"}
        assert server.client.get("/v1/models", headers=headers).status_code == 401
        assert listed(server)["data"][0]["last_used_at"]  # written when the first one ended


# ---- whom the browser vouches for ---------------------------------------------------------------


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    made = Gateway(Settings(data_dir=tmp_path, port=1, drain_s=0), TOKEN)
    await asyncio.to_thread(made.start)
    yield made
    await made.stop()


async def ask(gateway: Gateway, route: str, call: Call | None = None, **payload: Any) -> Any:
    if call is None:
        call = Call(str(uuid.uuid4()), Access.ADMIN, "owner", "http")
    reply = await gateway.dispatcher.call(route, payload, call)
    assert isinstance(reply, Reply)
    return reply


def native(gateway: Gateway, origin: str = FOX) -> Call:
    return Call.of(gateway._vouched_for(origin), str(uuid.uuid4()), "native")


async def test_over_native_hello_asks_and_an_approved_extension_gets_its_token(
    gateway: Gateway,
) -> None:
    hello = await ask(gateway, "hello", native(gateway))
    assert (hello.state, hello.access, hello.origin) == ("pairing-required", "public", FOX)
    assert (await ask(gateway, "hello", native(gateway))).code == hello.code  # one asker, one code
    asked = await ask(gateway, "pair", native(gateway), name="Fox")
    assert (asked.state, asked.code) == ("pending", hello.code)
    [pending] = (await ask(gateway, "list_clients")).pending
    assert (pending.name, pending.vouched) == ("Fox", True)
    with pytest.raises(PairingRequired):
        await ask(gateway, "models", native(gateway))
    made = await ask(gateway, "approve_client", extension_id=FOX_ID)
    assert (made.name, made.access) == ("Fox", "user")
    hello = await ask(gateway, "hello", native(gateway))
    assert (hello.state, hello.code, hello.client_id) == ("paired", None, made.id)
    first = await ask(gateway, "pair", native(gateway))
    second = await ask(gateway, "pair", native(gateway))
    assert first.state == second.state == "paired" and first.token != second.token
    for token in (first.token, second.token):
        assert client_of(gateway.clients, token) == gateway.clients.of_origin(FOX)


async def test_over_native_who_waits_is_told_at_once(gateway: Gateway) -> None:
    asked = await ask(gateway, "pair", native(gateway))
    waiting = asyncio.create_task(ask(gateway, "pair", native(gateway), wait_s=30))
    async with asyncio.timeout(5):
        while gateway.dispatcher.active == 0:
            await asyncio.sleep(0)
        await ask(gateway, "approve_client", code=asked.code)
        assert (await waiting).state == "paired"


async def test_who_revokes_and_leaves_has_revoked_all_the_same(gateway: Gateway) -> None:
    made = await ask(gateway, "approve_client", extension_id=FOX_ID)
    left = asyncio.Event()
    with gateway.presence.here(made.id, left.set):
        async with gateway.clients._turn:  # as long as the disk takes
            revoking = asyncio.create_task(ask(gateway, "revoke_client", client_id=made.id))
            while gateway.dispatcher.active == 0:
                await asyncio.sleep(0)
            revoking.cancel()
            await asyncio.wait([revoking], timeout=5)
            assert revoking.cancelled()
        async with asyncio.timeout(5):
            await left.wait()
    assert gateway.clients.get(made.id) is None


async def test_an_add_on_of_firefox_says_where_its_pages_are(gateway: Gateway) -> None:
    await ask(gateway, "approve_client", extension_id="owl@birds.example")
    paired = await ask(gateway, "pair", native(gateway, OWL), http_origin=OWL_PAGE)
    client = gateway.clients.of_origin(OWL)
    assert gateway.clients.holder(paired.token) == (client, OWL_PAGE)
    assert set(gateway.clients.origins()) == {OWL_PAGE}
    for wrong in (FOX, "https://x.example", "moz-extension://x", OWL_PAGE + "/"):
        with pytest.raises(InvalidRequest):
            await ask(gateway, "pair", native(gateway, OWL), http_origin=wrong)
    with pytest.raises(InvalidRequest):  # no extension of Chromium has another origin
        await ask(gateway, "pair", native(gateway, CAT), http_origin=OWL_PAGE)


@pytest.mark.parametrize("origin", ["", "https://x.example", "null", "chrome-extension://x", LOCAL])
async def test_a_host_that_names_no_extension_pairs_nobody(gateway: Gateway, origin: str) -> None:
    hello = await ask(gateway, "hello", native(gateway, origin))
    assert (hello.state, hello.code) == ("pairing-required", None)
    with pytest.raises(OriginNotAllowed):
        await ask(gateway, "pair", native(gateway, origin))
    assert (await ask(gateway, "list_clients")).pending == []


async def test_a_flood_over_http_pushes_nobody_out_and_does_not_reach_native(
    gateway: Gateway,
) -> None:
    def forged(number: int) -> Call:
        origin = "chrome-extension://" + chr(ord("a") + number) * 32
        return Call(str(uuid.uuid4()), Access.PUBLIC, "", "http", origin)

    genuine = await ask(gateway, "pair", forged(0))
    for number in range(1, MOST):
        await ask(gateway, "pair", forged(number))
    with pytest.raises(RateLimited) as refused:
        await ask(gateway, "pair", forged(MOST))
    assert 0 < (refused.value.retry_after or 0) <= LIFE_S
    assert (await ask(gateway, "hello", native(gateway, CAT))).code
    assert (await ask(gateway, "pair", forged(0), secret=genuine.secret)).code == genuine.code
    await ask(gateway, "approve_client", code=genuine.code)
    assert (await ask(gateway, "pair", forged(0), secret=genuine.secret)).state == "paired"
    await ask(gateway, "pair", forged(MOST))  # there is room again


async def test_hello_does_not_fail_where_nobody_else_may_ask(gateway: Gateway) -> None:
    for number in range(MOST):
        await ask(
            gateway, "hello", native(gateway, "chrome-extension://" + "abcdefgh"[number] * 32)
        )
    hello = await ask(gateway, "hello", native(gateway))
    assert (hello.state, hello.code) == ("pairing-required", None)
    with pytest.raises(RateLimited):
        await ask(gateway, "pair", native(gateway))


async def test_a_revoked_extension_has_to_ask_again(gateway: Gateway) -> None:
    await ask(gateway, "approve_client", extension_id=FOX_ID)
    token = (await ask(gateway, "pair", native(gateway))).token
    stale = native(gateway)
    await ask(gateway, "revoke_client", client_id=FOX)
    assert client_of(gateway.clients, token) is None
    assert (await ask(gateway, "pair", native(gateway))).state == "pending"
    with pytest.raises(NotFound):
        await ask(gateway, "revoke_client", client_id=FOX)
    assert (await ask(gateway, "pair", stale)).state == "pending"


# ---- the room there is --------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_asking_is_forgotten_after_a_while_and_may_not_be_repeated_fast() -> None:
    clock = Clock()
    room = Pairings(clock)
    first = room.begin(FOX, "Fox", vouched=False)
    for _ in range(PACE - 1):
        room.begin(FOX, "Fox", vouched=False)
    with pytest.raises(RateLimited) as refused:
        room.begin(FOX, "Fox", vouched=False)
    assert refused.value.retry_after == PACE_S
    room.begin(CAT, "Cat", vouched=False)
    clock.now += PACE_S + 1
    room.begin(FOX, "Fox", vouched=False)
    assert len(room.pending()) == PACE + 2
    clock.now += LIFE_S - PACE_S
    assert room.again(FOX, first.secret) is None
    assert first.answered.is_set()
    assert [pairing.origin for pairing in room.pending()] == [FOX]
    clock.now += LIFE_S
    assert room.pending() == []


async def test_what_is_remembered_of_askers_is_bounded() -> None:
    clock = Clock()
    room = Pairings(clock)
    for number in range(2 * pairings.MOST_ORIGINS):
        pairing = room.begin(f"moz-extension://{uuid.UUID(int=number)}", "x", vouched=False)
        room.end(pairing)
    assert len(room._begun) <= pairings.MOST_ORIGINS
    assert room.pending() == []


async def test_no_secret_is_in_what_is_shown_of_an_asker() -> None:
    pairing = Pairings().begin(FOX, "Fox", vouched=True)
    assert pairing.secret not in repr(pairing)
    assert len(pairing.secret) >= 43
