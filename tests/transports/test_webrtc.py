"""This server as a peer: a real aiortc peer in this process, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aioice.ice
import pytest
from aiortc.rtcsctptransport import SCTP_DATA_FIRST_FRAG, DataChunk, tsn_plus_one
from playwright.sync_api import sync_playwright

from tabagent.transports.webrtc import MOST_PEERS, Patience
from tests.live import FAKE, TOKEN, LiveServer, chat_body, eventually, fake_models
from tests.transports.rtc_peer import Refused, RtcPeer, connected
from tests.transports.test_swagger import CHROMIUM, FLAGS

LARGEST = 262_144
EXTENSION = "chrome-extension://" + "b" * 32


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    place = tmp_path_factory.mktemp("rtc")
    with LiveServer(place, extra=fake_models(), heartbeat_s=0.8) as running:
        yield running
        assert running.gateway.peers.count == 0


@pytest.fixture(autouse=True)
def all_left(server: LiveServer) -> Iterator[None]:
    yield
    server.gateway.peers.patience = Patience()
    eventually(lambda: server.gateway.peers.count == 0, 8, "a peer kept its place")


@asynccontextmanager
async def impatient(server: LiveServer, **seconds: float) -> AsyncGenerator[None, None]:
    server.gateway.peers.patience = Patience(**seconds)
    try:
        yield
    finally:
        server.gateway.peers.patience = Patience()


async def becomes(server: LiveServer, peer: RtcPeer, state: str) -> None:
    def told() -> bool:
        reply = server.client.get(f"/v1/webrtc/session/{peer.session}").json()
        return bool(reply["state"] == state)

    await asyncio.to_thread(eventually, told)


async def left(server: LiveServer, timeout: float = 8) -> float:
    """Seconds until nobody is there."""
    started = time.monotonic()
    await asyncio.to_thread(eventually, lambda: server.gateway.peers.count == 0, timeout)
    return time.monotonic() - started


# ---- what a peer may do ------------------------------------------------------------------------
async def test_a_peer_shows_its_token_and_asks(server: LiveServer) -> None:
    async with connected(server, token=None) as peer:
        assert await peer.auth() == {"caller": "owner", "access": "admin"}
        assert (await peer.ask("health"))["status"] == "ok"
        await becomes(server, peer, "connected")
        with pytest.raises(Refused, match="not-found"):
            await peer.ask("auth", {"token": TOKEN})  # no operation: once is enough
        assert (await peer.ask("models"))["data"]
    await becomes(server, peer, "closed")


async def test_what_is_sent_right_behind_the_token_is_answered(server: LiveServer) -> None:
    async with connected(server, token=None) as peer:
        first = {"request_id": "1", "route": "auth", "payload": {"token": TOKEN}}
        peer.send(first)
        peer.send({"request_id": "2", "route": "health"})
        assert (await peer.last("2"))["data"]["status"] == "ok"
        assert [message["request_id"] for message in peer.said] == ["1", "2"]


async def test_a_chat_streams_in_numbered_chunks(server: LiveServer) -> None:
    async with connected(server) as peer:
        request = {"request_id": "c", "route": "chat", "payload": chat_body("5", stream=True)}
        peer.send(request)
        assert (await peer.last("c"))["event"] == "done"
        chunks = peer.chunks("c")
        assert [chunk["seq"] for chunk in chunks] == list(range(len(chunks)))
        texts = [c["data"]["choices"][0]["delta"].get("content") or "" for c in chunks]
        assert "".join(texts) == "1 2 3 4 5 "


async def test_a_cancelled_chat_frees_its_slot(server: LiveServer) -> None:
    async with connected(server) as peer:
        payload = chat_body("1000 sleep", stream=True)
        peer.send({"request_id": "c", "route": "chat", "payload": payload})
        await peer.until(lambda: len(peer.chunks("c")) > 1)
        peer.send({"request_id": "c", "route": "cancel"})
        assert (await peer.last("c"))["event"] == "cancelled"
        await asyncio.to_thread(eventually, lambda: server.idle())


async def test_large_messages_go_both_ways_in_parts(server: LiveServer) -> None:
    text = 'ä€ "quoted" \\ ' * 12_000
    async with connected(server) as peer:
        request = {"request_id": "t", "route": "tokenize", "payload": {"model": FAKE, "text": text}}
        whole = json.dumps(request)
        assert len(whole) > LARGEST
        pieces = [whole[at : at + 60_000] for at in range(0, len(whole), 60_000)]
        for seq, piece in enumerate(pieces):
            part = {"event": "part", "seq": seq, "more": seq < len(pieces) - 1, "text": piece}
            peer.send({"request_id": "t", **part})
        reply = await peer.last("t")
        direct = await asyncio.to_thread(
            server.client.post, "/v1/tokenize", json=request["payload"]
        )
        assert reply["data"] == direct.json()
        assert len(json.dumps(reply)) > 2 * LARGEST
        assert peer.largest < LARGEST
        assert (await peer.ask("health"))["status"] == "ok"


async def test_a_browser_with_smaller_messages_gets_smaller_parts(server: LiveServer) -> None:
    peer = RtcPeer()
    sdp = (await peer.offer()).replace("a=max-message-size:262144", "a=max-message-size:16384")
    assert "16384" in sdp
    await peer.connect(server, sdp)
    await peer.auth()
    reply = await peer.ask("tokenize", {"model": FAKE, "text": "a" * 20_000})
    assert len(reply["tokens"]) == 20_000
    assert peer.largest <= 16_384
    await peer.pc.close()


async def test_it_works_without_any_network_but_this_machine_s_own(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: [])
    async with connected(server) as peer:
        assert peer.pc.remoteDescription.sdp.count("a=candidate:") == 1
        assert (await peer.ask("health"))["status"] == "ok"


async def test_the_certificate_is_made_once(server: LiveServer) -> None:
    seen = set()
    for _ in range(2):
        async with connected(server) as peer:
            lines = peer.pc.remoteDescription.sdp.splitlines()
            seen |= {line for line in lines if line.startswith("a=fingerprint:")}
    assert len(seen) == 1


# ---- who is refused ----------------------------------------------------------------------------
async def test_a_wrong_token_is_told_and_closes_the_channel(server: LiveServer) -> None:
    async with connected(server, token=None) as peer:
        with pytest.raises(Refused, match="unauthorized"):
            await peer.auth("wrong" * 8)
        await peer.gone()
        assert await left(server) < 3


@pytest.mark.parametrize(
    "message",
    [
        '{"request_id": "1", "route": "health"}',
        '{"request_id": "1", "route": "auth"}',
        '{"request_id": "1", "route": "auth", "payload": {"token": 7}}',
        json.dumps({"request_id": "", "route": "auth", "payload": {"token": TOKEN}}),
        "not json",
        b"binary",
        "",
    ],
)
async def test_who_begins_with_something_else_is_refused(
    server: LiveServer, message: str | bytes
) -> None:
    async with connected(server, token=None) as peer:
        peer.channel.send(message)
        await peer.gone()
        (said,) = peer.said
        assert said["error"]["code"] in ("unauthorized", "malformed-request")


async def test_no_token_in_time_is_too_late(server: LiveServer) -> None:
    async with impatient(server, authenticate_s=0.4), connected(server, token=None) as peer:
        await peer.gone()
        (said,) = peer.said
        assert (said["request_id"], said["error"]["code"]) == (None, "unauthorized")


async def test_who_never_comes_frees_the_place(server: LiveServer) -> None:
    async with impatient(server, open_s=0.4):
        peer = RtcPeer()
        body = {"sdp": await peer.offer(), "peer": "server"}
        reply = await asyncio.to_thread(server.client.post, "/v1/webrtc/offer", json=body)
        peer.session = reply.json()["session_id"]
        assert server.gateway.peers.count == 1
        await left(server)
        await becomes(server, peer, "failed")
        await peer.pc.close()


async def test_a_ninth_peer_is_told_to_come_later(server: LiveServer) -> None:
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(connected(server)) for _ in range(MOST_PEERS)]
        ninth = RtcPeer()
        with pytest.raises(Refused, match="queue-full") as refused:
            await ninth.connect(server)
        assert refused.value.problem["queue_length"] == MOST_PEERS
        await ninth.pc.close()
        answers = await asyncio.gather(*(peer.ask("health") for peer in peers))
        assert {answer["status"] for answer in answers} == {"ok"}
        await peers[0].pc.close()
        await asyncio.to_thread(eventually, lambda: server.gateway.peers.count < MOST_PEERS)
        async with connected(server) as another:
            assert (await another.ask("health"))["status"] == "ok"


async def test_a_second_channel_is_closed_and_the_first_goes_on(server: LiveServer) -> None:
    async with connected(server) as peer:
        another = peer.another()
        await peer.until(lambda: another.readyState == "closed")
        assert (await peer.ask("health"))["status"] == "ok"


async def test_who_opens_one_channel_after_the_other_is_out(server: LiveServer) -> None:
    async with connected(server) as peer:
        for _ in range(20):
            peer.another()
        await peer.gone()


async def test_an_unreliable_channel_is_not_taken(server: LiveServer) -> None:
    peer = RtcPeer()
    lossy = peer.pc.createDataChannel("lossy", ordered=False, maxRetransmits=0)
    await peer.connect(server)
    await peer.until(lambda: lossy.readyState == "closed")
    await peer.auth()
    await peer.pc.close()


async def test_binary_and_oversize_messages_are_refused_and_the_rest_goes_on(
    server: LiveServer,
) -> None:
    async with connected(server) as peer:
        peer.channel.send(b"\x00\x01")
        peer.pc.sctp._remote_max_message_size = 0  # type: ignore[union-attr]  # as one that does not care
        peer.channel.send("x" * (LARGEST + 1))
        peer.channel.send("{")
        await peer.until(lambda: len(peer.said) == 4)  # the first is the token's
        assert [(m["request_id"], m["error"]["code"]) for m in peer.said[1:]] == [
            (None, "malformed-request"),
            (None, "payload-too-large"),
            (None, "malformed-request"),
        ]
        assert (await peer.ask("health"))["status"] == "ok"


async def test_a_message_without_end_is_cut_off(tmp_path: Path) -> None:
    with LiveServer(tmp_path) as running:
        async with connected(running) as peer:
            peer.pc.sctp._remote_max_message_size = 0  # type: ignore[union-attr]
            peer.channel.send("x" * (12 * 2**20))
            await peer.gone(9)  # before it could be called silent


async def test_pieces_without_bytes_are_counted_too(server: LiveServer) -> None:
    async with connected(server) as peer:
        sctp: Any = peer.pc.sctp
        for _ in range(5000):
            piece = DataChunk(flags=SCTP_DATA_FIRST_FRAG)
            piece.tsn, piece.stream_id = sctp._local_tsn, peer.channel.id
            piece.stream_seq, piece.protocol, piece.user_data = 9, 51, b""
            sctp._local_tsn = tsn_plus_one(sctp._local_tsn)
            await sctp._send_chunk(piece)
            await asyncio.sleep(0)
            if peer.closed.is_set():
                break
        await peer.gone()


async def test_many_streams_are_too_many(server: LiveServer) -> None:
    async with connected(server) as peer:
        sctp: Any = peer.pc.sctp
        for stream in range(100, 200):
            await sctp._send(stream, 51, b"x")
        await peer.gone()


async def test_text_that_is_not_utf_8_ends_the_peer_alone(server: LiveServer) -> None:
    async with connected(server) as peer, connected(server) as other:
        await peer.pc.sctp._send(peer.channel.id, 51, b"\xff\xfe")  # type: ignore[union-attr, arg-type]
        await peer.gone()
        assert (await other.ask("health"))["status"] == "ok"


# ---- where packets go --------------------------------------------------------------------------
@pytest.fixture
def canary() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.setblocking(False)
        yield made


async def test_no_address_that_a_candidate_names_gets_a_packet(
    server: LiveServer, canary: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[Any] = []

    async def look_up(subscriber: object) -> None:
        looked_up.append(subscriber)

    monkeypatch.setattr(aioice.ice, "get_or_create_mdns_protocol", look_up)
    port = canary.getsockname()[1]
    named = [
        f"candidate:1 1 udp 2122260223 127.0.0.1 {port} typ host",
        f"candidate:2 1 udp 1686052607 127.0.0.1 {port} typ srflx raddr 0.0.0.0 rport 0",
        f"candidate:3 1 udp 2122260223 0a0b0c0d-1111-4222-8333-444455556666.local {port} typ host",
    ]
    peer = RtcPeer()
    sdp = await peer.offer()
    lines = [line for line in sdp.splitlines() if not line.startswith(("a=candidate", "a=end-of"))]
    lines += [f"a={candidate}" for candidate in named]
    await peer.connect(server, "".join(f"{line}\r\n" for line in lines))
    for candidate in [*named, None]:
        body = {"session_id": peer.session, "candidate": candidate}
        reply = await asyncio.to_thread(server.client.post, "/v1/webrtc/ice", json=body)
        assert reply.status_code == 200
    await peer.auth()  # it has come by its own packets alone
    assert (await peer.ask("health"))["status"] == "ok"
    await asyncio.sleep(0.7)  # as long as an ICE agent takes to try again
    with pytest.raises(BlockingIOError):
        canary.recv(2000)
    assert looked_up == []
    await peer.pc.close()


async def test_a_peer_that_never_comes_causes_no_packet_either(
    server: LiveServer, canary: socket.socket
) -> None:
    async with impatient(server, open_s=0.7):
        peer = RtcPeer()
        port = canary.getsockname()[1]
        line = f"a=candidate:1 1 udp 2122260223 127.0.0.1 {port} typ host\r\n"
        sdp = (await peer.offer()).replace("c=IN IP4 0.0.0.0", "c=IN IP4 127.0.0.1") + line
        body = {"sdp": sdp, "peer": "server"}
        await asyncio.to_thread(server.client.post, "/v1/webrtc/offer", json=body)
        await left(server)
        with pytest.raises(BlockingIOError):
            canary.recv(2000)
        await peer.pc.close()


async def test_stray_datagrams_do_not_disturb_a_peer(server: LiveServer) -> None:
    """Empty ones, and ones of strangers: only the peer's own keys make sense of its bytes."""
    async with connected(server) as peer:
        pair = peer.ice._nominated[1]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for junk in (b"", b"\x16", b"\x80" * 40, bytes(range(256)), b"") * 20:
                stranger.sendto(junk, pair.remote_addr)
        assert (await peer.ask("health"))["status"] == "ok"


# ---- who is still there ------------------------------------------------------------------------
async def test_a_peer_that_answers_pings_stays(server: LiveServer) -> None:
    async with connected(server) as peer:
        await peer.until(lambda: peer.pings >= 4)
        assert (await peer.ask("health"))["status"] == "ok"


async def test_a_silent_peer_is_dropped(server: LiveServer) -> None:
    async with connected(server) as peer:
        peer.pongs = False
        started = time.monotonic()
        await peer.gone(10)
        assert 1.5 < time.monotonic() - started < 8  # 2.5 heartbeats
        assert peer.pings >= 1


async def test_a_peer_that_vanishes_is_noticed_and_its_generation_waits(
    server: LiveServer,
) -> None:
    async with connected(server) as peer:
        request_id = str(uuid.uuid4())
        payload = chat_body("40 sleep", stream=True)
        peer.send({"request_id": request_id, "route": "chat", "payload": payload})
        await peer.until(lambda: peer.chunks(request_id))
        peer.vanish()
        assert await left(server, 10) < 8
    async with connected(server) as again:
        payload = {"request_id": request_id, "from": 0, "stream": True}
        again.send({"request_id": "r", "route": "resume_generation", "payload": payload})
        assert (await again.last("r"))["event"] == "done"
        texts = [c["data"]["choices"][0]["delta"].get("content") or "" for c in again.chunks("r")]
        assert "".join(texts).split() == [str(n) for n in range(1, 41)]


CHILD = """
import asyncio, sys, types, httpx
from tests.transports.rtc_peer import RtcPeer
async def main():
    peer = RtcPeer()
    client = httpx.Client(base_url=sys.argv[1], trust_env=False)
    await peer.connect(types.SimpleNamespace(client=client))
    await peer.auth()
    print("here", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_a_peer_whose_process_is_killed_is_noticed(server: LiveServer) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, server.url],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert child.stdout is not None
    try:
        assert await asyncio.to_thread(child.stdout.readline) == b"here\n"
        assert server.gateway.peers.count == 1
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(5)
        child.stdout.close()
    assert await left(server, 10) < 8


async def deaf(data: bytes) -> None:
    await asyncio.sleep(60)


async def test_a_peer_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=fake_models(), write_stall_s=0.5) as running:
        async with connected(running) as peer:
            for number in range(4):  # more than may wait for it
                payload = {"model": FAKE, "text": "a" * 200_000}
                peer.send({"request_id": f"{number}", "route": "tokenize", "payload": payload})
            await peer.until(lambda: peer.largest > 1000)
            peer.pc.sctp._handle_data = deaf  # type: ignore[union-attr, method-assign]
            assert await left(running) < 5


async def test_a_peer_that_takes_nothing_is_dropped_though_nobody_waits_for_it(
    server: LiveServer,
) -> None:
    async with connected(server) as peer:
        payload = {"model": FAKE, "text": "a" * 250_000}  # less than makes a sender wait
        peer.send({"request_id": "1", "route": "tokenize", "payload": payload})
        await peer.until(lambda: peer.largest > 1000)
        peer.pc.sctp._handle_data = deaf  # type: ignore[union-attr, method-assign]
        assert await left(server) < 7


async def test_a_revoked_client_is_out_at_once(server: LiveServer) -> None:
    def pair(body: dict[str, Any]) -> dict[str, Any]:
        made = server.client.post("/v1/pair", json=body, headers={"Origin": EXTENSION})
        assert made.status_code == 200, made.text
        return dict(made.json())

    asked = await asyncio.to_thread(pair, {"name": "Notes"})
    body = {"code": asked["code"]}
    assert (await asyncio.to_thread(server.owner.post, "/v1/clients", json=body)).is_success
    paired = await asyncio.to_thread(pair, {"secret": asked["secret"]})
    async with connected(server, token=None) as peer, connected(server) as owner:
        assert await peer.auth(paired["token"]) == {
            "caller": paired["client_id"],
            "access": "user",
        }
        with pytest.raises(Refused, match="access-denied"):
            await peer.ask("load_model", {"model": FAKE})
        started = time.monotonic()
        path = f"/v1/clients/{paired['client_id']}"
        assert (await asyncio.to_thread(server.owner.delete, path)).is_success
        await peer.gone()
        assert time.monotonic() - started < 1
        assert (await owner.ask("health"))["status"] == "ok"
    async with connected(server, token=None) as peer:
        with pytest.raises(Refused, match="unauthorized"):
            await peer.auth(paired["token"])


async def test_peers_are_closed_when_the_server_stops(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=fake_models()) as running:
        async with connected(running) as peer, connected(running, token=None):
            waiting = RtcPeer()
            body = {"sdp": await waiting.offer(), "peer": "server"}
            await asyncio.to_thread(running.client.post, "/v1/webrtc/offer", json=body)
            assert running.gateway.peers.count == 3
            started = time.monotonic()
            await asyncio.to_thread(running.stop)
            assert time.monotonic() - started < 5
            assert running.gateway.peers.count == 0
            await peer.gone()
            await waiting.pc.close()
    with contextlib.suppress(OSError):
        running.stop()


# ---- a real browser ----------------------------------------------------------------------------
IN_A_PAGE = """async ([token, model]) => {
  const pc = new RTCPeerConnection({iceServers: []})
  const channel = pc.createDataChannel("tabagent")
  const said = [], waiting = []
  const parts = []
  channel.onmessage = ({data}) => {
    let message = JSON.parse(data)
    if (message.event === "part") {
      parts.push(message.text)
      if (message.more) return
      message = JSON.parse(parts.splice(0).join(""))
    }
    said.push(message)
    waiting.splice(0).forEach(go => go())
  }
  const last = async id => {
    for (;;) {
      const found = said.find(m => m.request_id === id && m.event !== "chunk")
      if (found) return found
      await new Promise(go => waiting.push(go))
    }
  }
  const ask = (request_id, route, payload) => {
    channel.send(JSON.stringify({request_id, route, payload}))
    return last(request_id)
  }
  const opened = new Promise(open => { channel.onopen = open })
  await pc.setLocalDescription()
  const response = await fetch("/v1/webrtc/offer", {
    method: "POST",
    headers: {"Content-Type": "application/json"},
    body: JSON.stringify({...pc.localDescription.toJSON(), peer: "server"}),
  })
  const reply = await response.json()
  if (!response.ok) return reply
  await pc.setRemoteDescription(reply.answer)
  const started = performance.now()
  await opened
  const opened_ms = performance.now() - started
  const auth = await ask("1", "auth", {token})
  const stream = {model, messages: [{role: "user", content: "3"}], stream: true}
  const done = await ask("2", "chat", stream)
  const text = said.filter(m => m.event === "chunk")
    .map(m => m.data.choices[0].delta.content ?? "").join("")
  const large = await ask("3", "tokenize", {model, text: "a".repeat(200000)})
  const closed = new Promise(close => { channel.onclose = close })
  channel.close()
  await closed
  pc.close()
  return {opened_ms, auth, done, text, tokens: large.data.tokens.length}
}"""


@pytest.mark.skipif(CHROMIUM is None, reason="NO BROWSER")
def test_chromium_connects_with_what_it_makes_by_itself(server: LiveServer) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*FLAGS, "--allow-loopback-in-peer-connection"]
        )
        page = browser.new_page()
        page.set_default_timeout(15_000)
        page.goto(server.url + "/swagger-ui/", wait_until="commit")
        told = page.evaluate(IN_A_PAGE, [TOKEN, FAKE])
        browser.close()
    assert told.get("auth", told) == {
        "request_id": "1",
        "success": True,
        "data": {"caller": "owner", "access": "admin"},
    }
    assert (told["done"]["event"], told["text"]) == ("done", "1 2 3 ")
    assert told["tokens"] == 200_000
