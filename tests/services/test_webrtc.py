"""Signalling over HTTP: a relay between two callers, and what no description may be."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tabagent.parameters.sdp import LARGEST, read_description
from tabagent.services.webrtc import EXAMPLE
from tabagent.stores.signals import LIVES_S
from tests.live import LiveServer, eventually, fake_models

ANSWER = EXAMPLE.replace("a=setup:actpass", "a=setup:active")
HOST = "candidate:1 1 udp 2122260223 192.0.2.1 54321 typ host generation 0 ufrag EsAw"
MDNS = "candidate:2 1 udp 2122260223 3f0c1a2b-aaaa-4bbb-8ccc-123456789abc.local 54321 typ host"
FINGERPRINT = next(line for line in EXAMPLE.splitlines() if "fingerprint" in line)
PASSWORD = next(line for line in EXAMPLE.splitlines() if "ice-pwd" in line)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with LiveServer(tmp_path_factory.mktemp("webrtc"), extra=fake_models()) as running:
        yield running


@pytest.fixture(scope="module")
def session(server: LiveServer) -> str:
    """One that is offered."""
    return str(ok(offer(server.owner))["session_id"])


def ok(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()


def refused(response: httpx.Response, status: int, code: str) -> Any:
    body = response.json()
    assert (response.status_code, body["code"]) == (status, code), body
    return body


def offer(client: httpx.Client, sdp: str = EXAMPLE, **more: Any) -> httpx.Response:
    return client.post("/v1/webrtc/offer", json={"sdp": sdp, **more})


def answer(client: httpx.Client, session: str, sdp: str = ANSWER) -> httpx.Response:
    return client.post("/v1/webrtc/answer", json={"session_id": session, "sdp": sdp})


def ice(client: httpx.Client, session: str, candidate: Any, **more: Any) -> httpx.Response:
    body = {"session_id": session, "candidate": candidate, **more}
    return client.post("/v1/webrtc/ice", json=body)


def look(client: httpx.Client, session: str, **asked: Any) -> httpx.Response:
    return client.get(f"/v1/webrtc/session/{session}", params=asked)


def test_two_callers_find_each_other(server: LiveServer) -> None:
    one, other = server.client, server.owner
    begun = ok(offer(one, type="offer"))
    session = begun["session_id"]
    assert (begun["state"], begun["peer"], begun["answer"]) == ("offered", "relay", None)
    assert begun["offer"] == {"type": "offer", "sdp": EXAMPLE}
    assert ok(look(other, session))["offer"]["sdp"] == EXAMPLE
    told = {"candidate": HOST, "sdpMid": "0", "sdpMLineIndex": 0, "usernameFragment": "EsAw"}
    ok(ice(one, session, told))
    answered = ok(answer(other, session))
    assert (answered["state"], answered["answer"]) == (
        "answered",
        {"type": "answer", "sdp": ANSWER},
    )
    ok(ice(other, session, MDNS))  # as a browser has it, and its text alone
    ok(ice(other, session, None))
    seen = ok(look(one, session, since=begun["seq"]))
    assert [(c["side"], c["candidate"]) for c in seen["candidates"]] == [
        ("offer", told),
        ("answer", told | dict.fromkeys(told) | {"candidate": MDNS}),
        ("answer", None),
    ]
    assert seen["answer"]["sdp"] == ANSWER
    assert ok(look(one, session, since=seen["seq"]))["candidates"] == []
    refused(answer(one, session), 409, "conflict")
    refused(look(one, "rtc_none"), 404, "peer-not-found")


def test_a_long_poll_ends_with_what_is_new_or_with_its_time(server: LiveServer) -> None:
    session = ok(offer(server.client))["session_id"]
    started = time.monotonic()
    assert ok(look(server.client, session, since=1, wait_s=0.4))["seq"] == 1
    assert 0.4 <= time.monotonic() - started < 3
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(look, server.client, session, since=1, wait_s=20)
        time.sleep(0.1)
        ok(answer(server.owner, session))
        assert ok(waiting.result(5))["state"] == "answered"


def test_a_session_is_over_after_minutes_also_for_who_waits(server: LiveServer) -> None:
    session = ok(offer(server.client))["session_id"]
    signals = server.gateway.records.signals
    clock = signals.clock
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(look, server.client, session, since=1, wait_s=20)
        try:
            signals.clock = lambda: clock() + LIVES_S
            refused(waiting.result(5), 404, "peer-not-found")
            refused(answer(server.owner, session), 404, "peer-not-found")
        finally:
            signals.clock = clock


def test_a_session_begun_at_one_server_goes_on_at_another(tmp_path: Path) -> None:
    place = str(tmp_path / "shared.db")
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    with (
        LiveServer(tmp_path / "one", database_url=place) as one,
        LiveServer(tmp_path / "other", database_url=place) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        session = ok(offer(one.client))["session_id"]
        waiting = pool.submit(look, one.client, session, since=1, wait_s=20)
        assert ok(look(other.owner, session))["offer"]["sdp"] == EXAMPLE
        ok(answer(other.owner, session))
        assert ok(waiting.result(5))["answer"]["sdp"] == ANSWER
        # With a server as the peer, any may be asked what became of it, and takes candidates.
        served = ok(offer(one.client, peer="server"))
        assert ok(look(other.client, served["session_id"]))["answer"] == served["answer"]
        assert ok(ice(other.client, served["session_id"], HOST))["state"] == "answered"


def test_who_waits_does_not_hold_up_the_end_of_the_server(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool, LiveServer(tmp_path, drain_s=20) as server:
        session = ok(offer(server.client))["session_id"]
        waiting = pool.submit(look, server.client, session, since=1, wait_s=30)
        eventually(lambda: server.gateway.dispatcher.active == 1)
        started = time.monotonic()
        server.server.should_exit = True
        assert ok(waiting.result(5))["seq"] == 1
        server.stop()
        assert time.monotonic() - started < 5


def test_the_server_s_answer_is_whole_and_names_no_address_of_the_peer(server: LiveServer) -> None:
    lines = EXAMPLE.replace("c=IN IP4 0.0.0.0", "c=IN IP4 192.0.2.1") + f"a={HOST}\r\na={MDNS}\r\n"
    begun = ok(offer(server.client, lines, peer="server"))
    assert begun["state"] == "answered"
    text = begun["answer"]["sdp"]
    read = read_description(text, "answer")
    assert (read.mid, read.max_message_size, read.algorithm) == ("0", 262_144, "sha-256")
    assert " 127.0.0.1 " in text
    assert "a=end-of-candidates" in text
    assert "192.0.2.1" not in str(begun)
    assert ".local" not in str(begun)
    session = begun["session_id"]
    for candidate in (HOST, MDNS, None):
        assert ok(ice(server.client, session, candidate))["state"] == "answered"
    assert "192.0.2.1" not in look(server.client, session).text
    refused(look(server.owner, session), 404, "peer-not-found")  # another caller


def test_without_aiortc_this_server_is_no_peer(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tabagent.transports.rtc_link", None)
    count = server.gateway.peers.count
    body = refused(offer(server.client, peer="server"), 501, "not-available-here")
    assert "pip install tabagent[webrtc]" in body["detail"]
    assert body["what"] == "webrtc"
    assert server.gateway.peers.count == count
    ok(offer(server.client))  # the relay needs none


def without(name: str) -> str:
    return "".join(f"{line}\r\n" for line in EXAMPLE.splitlines() if not line.startswith(name))


def change(old: str, new: str) -> str:
    assert old in EXAMPLE
    return EXAMPLE.replace(old, new)


SECTION = EXAMPLE[EXAMPLE.index("m=") :]
ABUSIVE = {
    "empty": "",
    "too-large": EXAMPLE + "a=x:" + "x" * LARGEST + "\r\n",
    "not-sdp": "hello\r\n",
    "two-channels": EXAMPLE + SECTION,
    "audio": EXAMPLE + "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=rtpmap:111 opus/48000/2\r\n",
    "video-alone": change("m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "m=video 9 RTP 96"),
    "no-section": without("m="),
    "no-fingerprint": without("a=fingerprint"),
    "two-fingerprints": EXAMPLE + FINGERPRINT + "\r\n",
    "two-fingerprints-of-two-kinds": EXAMPLE + "a=fingerprint:sha-512 " + ":".join(["AB"] * 64),
    "sha-1": change(FINGERPRINT, "a=fingerprint:sha-1 " + ":".join(["D2"] * 20)),
    "garbage-fingerprint": change(FINGERPRINT, "a=fingerprint:sha-256 zz:zz"),
    "short-fingerprint": change(":D2\r\n", "\r\n"),
    "empty-fingerprint": change(FINGERPRINT, "a=fingerprint:"),
    "lone-carriage-return": change("a=mid:0", "a=mid:0\ra=candidate:1 1 udp 1 10.0.0.1 9 typ host"),
    "line-separator": change("a=mid:0", "a=mid:0\u2028a=ice-lite"),
    "vertical-tab": change("a=mid:0", "a=mid:0\x0ba=ice-lite"),
    "injected-ufrag": change("a=ice-ufrag:EsAw", "a=ice-ufrag:EsAw\r\na=ice-ufrag:Other"),
    "injected-mid": change("a=mid:0", "a=mid:0 a=candidate:x"),
    "injected-protocol": change("UDP/DTLS/SCTP", "UDP/DTLS/SCTP\tx"),
    "nul": change("a=mid:0", "a=mid:\0"),
    "lone-surrogate": change("a=mid:0", "a=mid:\ud800"),
    "not-ascii": change("s=-", "s=Grüße"),
    "no-ufrag": without("a=ice-ufrag"),
    "short-ufrag": change("EsAw", "Es"),
    "no-password": without("a=ice-pwd"),
    "odd-password": change(PASSWORD, "a=ice-pwd:" + "\N{SNOWMAN}" * 22),
    "too-many-candidates": EXAMPLE + f"a={HOST}\r\n" * 65,
    "absurd-port": change("m=application 9 ", "m=application 99999 "),
    "port-0": change("m=application 9 ", "m=application 0 "),
    "absurd-address": change("c=IN IP4 0.0.0.0", "c=IN IP4 999.1.1.1"),
    "named-address": change("c=IN IP4 0.0.0.0", "c=IN IP4 inside.example"),
    "absurd-candidate-port": EXAMPLE + f"a={HOST.replace('54321', '70000')}\r\n",
    "absurd-candidate-address": EXAMPLE + f"a={HOST.replace('192.0.2.1', '1.2.3.4/8')}\r\n",
    "short-candidate": EXAMPLE + "a=candidate:1 1 udp\r\n",
    "absurd-sctp-port": change("a=sctp-port:5000", "a=sctp-port:70000"),
    "huge-number": change("a=sctp-port:5000", "a=sctp-port:" + "9" * 5000),
    "other-digits": change("a=sctp-port:5000", "a=sctp-port:٥٠٠٠"),
    "tiny-messages": change("262144", "12"),
    "an-answer": ANSWER,
    "ice-lite": EXAMPLE + "a=ice-lite\r\n",
    "cut-off": EXAMPLE[:-5],
}


@pytest.mark.parametrize("peer", ["server", "relay"])
@pytest.mark.parametrize("name", ABUSIVE)
def test_an_abusive_offer_is_refused_and_the_server_is_fine(
    server: LiveServer, name: str, peer: str
) -> None:
    count = server.gateway.peers.count
    # A lone surrogate is no UTF-8, but JSON can say it.
    body = json.dumps({"peer": peer, "sdp": ABUSIVE[name]})
    headers = {"Content-Type": "application/json"}
    response = server.client.post("/v1/webrtc/offer", content=body, headers=headers)
    if name == "too-large":
        assert refused(response, 413, "payload-too-large")["limit_bytes"] == LARGEST
    elif name == "lone-surrogate":
        assert response.status_code == 400
    else:
        found = refused(response, 400, "invalid-request")
        assert [error["pointer"] for error in found["errors"]] == ["/sdp"]
    assert server.gateway.peers.count == count
    assert server.client.get("/health").json()["status"] == "ok"


def test_what_is_not_utf_8_or_not_an_offer_is_refused(server: LiveServer) -> None:
    headers = {"Content-Type": "application/json"}
    body = b'{"sdp": "v=0\xff\xfe"}'
    refused(
        server.client.post("/v1/webrtc/offer", content=body, headers=headers),
        400,
        "malformed-request",
    )
    refused(offer(server.client, type="answer"), 400, "invalid-request")
    refused(offer(server.client, peer="elsewhere"), 400, "invalid-request")
    session = ok(offer(server.client))["session_id"]
    refused(answer(server.owner, session, EXAMPLE), 400, "invalid-request")
    refused(answer(server.owner, session, "x"), 400, "invalid-request")


@pytest.mark.parametrize(
    "candidate",
    [
        "candidate:1",
        "x" * 1025,
        HOST + "\r\na=candidate:2",
        HOST.replace("54321", "65536"),
        HOST.replace("192.0.2.1", "a..b"),
        HOST.replace("udp", "sctp"),
        HOST.replace("typ host", "typ other"),
        {"candidate": HOST, "sdpMid": "0" * 33},
        {"candidate": HOST, "more": 1},
        7,
    ],
)
def test_what_is_no_candidate_is_refused(server: LiveServer, session: str, candidate: Any) -> None:
    refused(ice(server.client, session, candidate), 400, "invalid-request")


def test_a_caller_has_so_many_sessions(tmp_path: Path) -> None:
    with LiveServer(tmp_path) as server:
        last: Callable[[], httpx.Response] = lambda: offer(server.client)  # noqa: E731
        for _ in range(16):
            ok(last())
        response = last()
        assert refused(response, 429, "queue-full")["queue_length"] == 16
        assert response.headers["retry-after"]
        ok(offer(server.owner))
