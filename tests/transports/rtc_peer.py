"""A real peer for tests: aiortc with a data channel, which speaks as an extension does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription

from tests.live import TOKEN, LiveServer


class Refused(Exception):
    """The server answered with a problem."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(problem["code"])
        self.problem = problem


class RtcPeer:
    """One connection. It answers pings as long as `pongs` says so."""

    def __init__(self) -> None:
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.channel = self.pc.createDataChannel("tabagent")
        self.session = ""
        self.pongs = True
        self.pings = 0
        self.said: list[dict[str, Any]] = []  # by the server, joined from parts
        self.largest = 0  # of what came
        self._parts: list[str] = []
        self._open, self.closed = asyncio.Event(), asyncio.Event()
        self._news = asyncio.Event()
        self.channel.on("open", self._open.set)
        self.channel.on("close", self.closed.set)
        self.channel.on("message", self._hear)
        ice = self.ice = self.pc.sctp.transport.transport._connection  # type: ignore[union-attr]  # there is a channel
        gather = ice.get_component_candidates
        ice.get_component_candidates = lambda component, addresses, timeout=5: gather(  # type: ignore[method-assign]  # a machine without a network
            component, ["127.0.0.1"], timeout
        )

    async def offer(self) -> str:
        """With one fingerprint, as browsers have it."""
        await self.pc.setLocalDescription()
        lines = self.pc.localDescription.sdp.splitlines()
        others = ("a=fingerprint:sha-384", "a=fingerprint:sha-512")
        return "".join(line + "\r\n" for line in lines if not line.startswith(others))

    async def connect(self, server: LiveServer, sdp: str | None = None) -> None:
        body = {"type": "offer", "sdp": sdp or await self.offer(), "peer": "server"}
        response = await asyncio.to_thread(server.client.post, "/v1/webrtc/offer", json=body)
        if response.status_code != 200:
            raise Refused(response.json())
        self.session = response.json()["session_id"]
        await self.pc.setRemoteDescription(RTCSessionDescription(**response.json()["answer"]))
        async with asyncio.timeout(10):
            await self._open.wait()

    def send(self, message: dict[str, Any]) -> None:
        self.channel.send(json.dumps(message))

    async def ask(self, route: str, payload: dict[str, Any] | None = None) -> Any:
        """The data of a plain reply. Raises Refused."""
        request_id = str(uuid.uuid4())
        self.send({"request_id": request_id, "route": route, "payload": payload or {}})
        return (await self.last(request_id)).get("data")

    async def auth(self, token: str = TOKEN) -> Any:
        return await self.ask("auth", {"token": token})

    async def last(self, request_id: str | None) -> dict[str, Any]:
        """The last message of a request. Raises Refused."""
        final = lambda m: m["request_id"] == request_id and m.get("event") != "chunk"  # noqa: E731
        message = await self.until(lambda: next(filter(final, self.said), None))
        if not message["success"]:
            raise Refused(message["error"])
        found: dict[str, Any] = message
        return found

    def chunks(self, request_id: str) -> list[dict[str, Any]]:
        return [m for m in self.said if m["request_id"] == request_id and m.get("event") == "chunk"]

    async def until(self, condition: Callable[[], Any], timeout: float = 10) -> Any:
        async with asyncio.timeout(timeout):
            while not (value := condition()):
                self._news.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), 0.05)
        return value

    async def gone(self, timeout: float = 5) -> None:
        async with asyncio.timeout(timeout):
            await self.closed.wait()

    def vanish(self) -> None:
        """As a process that is killed: no more packets, and no word of it."""
        for protocol in self.ice._protocols:
            protocol.transport.abort()

    def another(self) -> RTCDataChannel:
        return self.pc.createDataChannel("another")

    def _hear(self, text: str) -> None:
        self.largest = max(self.largest, len(text.encode()))
        message = json.loads(text)
        if message.get("event") == "ping":
            self.pings += 1
            if self.pongs:
                self.send({"route": "pong"})
            return
        if message.get("event") == "part":
            assert message["seq"] == len(self._parts)
            self._parts.append(message["text"])
            if message["more"]:
                return
            message, self._parts = json.loads("".join(self._parts)), []
        self.said.append(message)
        self._news.set()


@asynccontextmanager
async def connected(server: LiveServer, token: str | None = TOKEN) -> AsyncGenerator[RtcPeer, None]:
    """A peer that has shown its token, unless that is None."""
    peer = RtcPeer()
    try:
        await peer.connect(server)
        if token is not None:
            await peer.auth(token)
        yield peer
    finally:
        await peer.pc.close()
