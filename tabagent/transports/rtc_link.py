"""ICE, DTLS and SCTP with one peer, by aiortc, which is imported with this module: late.

The description of the peer is read by us and never by aiortc, and nothing in it that names an
address goes any further: the ICE agent here waits for the peer's own check and answers to where that
came from (a peer-reflexive candidate, RFC 8445 section 7.3.1.3). What reaches into aiortc and aioice
is all in this file.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import Final

import structlog
from aioice import Candidate, Connection
from aiortc import InvalidStateError
from aiortc.rtcdatachannel import RTCDataChannel
from aiortc.rtcdtlstransport import (
    RTCCertificate,
    RTCDtlsFingerprint,
    RTCDtlsParameters,
    RTCDtlsTransport,
)
from aiortc.rtcicetransport import RTCIceGatherer, RTCIceParameters, RTCIceTransport
from aiortc.rtcsctptransport import RTCSctpCapabilities, RTCSctpTransport

from tabagent.errors import MalformedRequest, PayloadTooLarge, TabAgentError
from tabagent.parameters.sdp import Description

log = structlog.get_logger(__name__)

LARGEST: Final = 262_144
"""Bytes of a message, either way; what aiortc takes, and browsers take at least."""
UNSENT: Final = 2**20  # bytes that wait for the peer before a sender waits too
WINDOW: Final = 2**20  # bytes that aiortc lets a peer send ahead
UNREAD: Final = 8 * 2**20  # bytes of whole messages: no peer that keeps to the window gets there
UNFINISHED: Final = WINDOW + LARGEST  # bytes of others: aiortc reads all again with each packet
PIECES: Final = 4096  # of them, in packets
STREAMS: Final = 64  # one is a channel's
MESSAGE_COST: Final = 64  # bytes of a message that waits, beside its own
DATAGRAMS: Final = 2048  # that wait for DTLS; more are lost, as they may be on the way
MORE_CHANNELS: Final = 16  # that are closed again before the peer is
GOODBYE_S: Final = 1.0
LOOPBACK: Final = "127.0.0.1"


class Waiting(Connection):
    """An ICE agent that is told of no candidate, and so sends to nobody who has not sent first."""

    async def add_remote_candidate(self, remote_candidate: Candidate | None) -> None:
        """Nothing: neither dialled nor looked up. Without an end of candidates it waits on."""

    async def get_component_candidates(
        self, component: int, addresses: list[str], timeout: int = 5
    ) -> list[Candidate]:
        """Also on this machine itself, where a browser may be that has no other network."""
        return await super().get_component_candidates(component, [*addresses, LOOPBACK], timeout)

    def data_received(self, data: bytes, component: int) -> None:
        """Datagrams come from anybody: an empty one must not end the peer, nor many the memory."""
        if data and self._queue.qsize() < DATAGRAMS:
            super().data_received(data, component)


class Gatherer(RTCIceGatherer):
    """Own addresses alone: no server is asked for more."""

    def __init__(self) -> None:
        super().__init__(iceServers=[])
        self._connection = Waiting(ice_controlling=False)


class Association(RTCSctpTransport):
    """SCTP that survives what a peer makes up, and says so. `lose` is told why."""

    def __init__(self, transport: RTCDtlsTransport, lose: Callable[[str], None]) -> None:
        super().__init__(transport)
        self.lose = lose
        self._unread = 0

    async def _handle_data(self, data: bytes) -> None:
        try:
            await super()._handle_data(data)
        except ConnectionError:
            raise
        except Exception as error:  # aiortc asserts and unpacks what the peer wrote
            log.warning("webrtc_protocol_broken", kind=type(error).__name__)
            self.lose("it broke the protocol")
        if self._overfull():
            self.lose("it sent more than its window")

    def _overfull(self) -> bool:
        """Whether more is kept for the peer than one that keeps to the rules could cause."""
        streams = self._inbound_streams.values()
        return (
            self._unread > UNREAD
            or WINDOW - self._advertised_rwnd - self._unread > UNFINISHED
            or len(streams) > STREAMS
            or len(self._sack_misordered) > PIECES
            or any(len(stream.reassembly) > PIECES for stream in streams)
        )

    def take(self, size: int) -> None:
        """So many bytes wait to be read: the peer may send so many less."""
        self._unread += size
        self._advertised_rwnd -= size

    async def give(self, size: int) -> None:
        """They were read. A peer that may hardly have sent is told."""
        self._unread -= size
        before = self._advertised_rwnd
        self._advertised_rwnd += size
        if before < WINDOW // 2 <= self._advertised_rwnd:
            with suppress(ConnectionError):
                await self._send_sack()

    async def stop(self) -> None:
        """End it, and what it would still have sent: no timer may want to."""
        for queue in (self._data_channel_queue, self._outbound_queue, self._sent_queue):
            queue.clear()
        await super().stop()


class Link:
    """One peer's connection: made from its offer, and then one channel of text."""

    def __init__(
        self, certificate: RTCCertificate, offer: Description, write_stall_s: float
    ) -> None:
        self._certificate, self._offer, self._write_stall_s = certificate, offer, write_stall_s
        self._gatherer = Gatherer()
        self._ice = RTCIceTransport(self._gatherer)
        self._dtls = RTCDtlsTransport(self._ice, [certificate])
        self._sctp = Association(self._dtls, self.lose)
        self._channel: RTCDataChannel | None = None
        self._others = 0
        self._said = 0
        self._inbox: deque[bytes | TabAgentError] = deque()
        self._opened, self._arrived, self._drained = (asyncio.Event() for _ in range(3))
        self._lost = asyncio.Event()
        self._closed = asyncio.Event()  # the channel, by both sides
        self.heard_at = asyncio.get_running_loop().time()
        self._sctp.on("datachannel", self._on_channel)
        self._dtls.on("statechange", self._on_state)
        self._ice.on("statechange", self._on_state)

    @property
    def most(self) -> int:
        """Bytes of a message that the peer takes."""
        return min(self._offer.max_message_size or LARGEST, LARGEST)

    @property
    def unsent(self) -> int:
        """Bytes that the peer has not taken yet."""
        return self._channel.bufferedAmount if self._channel else 0

    @property
    def taken(self) -> int:
        """Bytes that it has taken so far."""
        return self._said - self.unsent

    async def answer(self) -> str:
        """The description that is whole: every candidate is in it."""
        await self._gatherer.gather()
        if not self._gatherer.getLocalCandidates():
            raise ConnectionError("no socket could be had")
        offer, ice = self._offer, self._gatherer.getLocalParameters()
        found = self._gatherer.getLocalCandidates()
        first = found[0]
        lines = [
            "v=0",
            f"o=- {secrets.randbits(62)} 2 IN IP4 127.0.0.1",
            "s=-",
            "t=0 0",
            f"a=group:BUNDLE {offer.mid}",
            f"m=application {first.port} {offer.protocol} webrtc-datachannel",
            f"c=IN IP{ip_address(first.ip).version} {first.ip}",
            *(
                f"a=candidate:{one.foundation} {one.component} {one.protocol} {one.priority} "
                f"{one.ip} {one.port} typ {one.type}"
                for one in found
            ),
            "a=end-of-candidates",
            f"a=ice-ufrag:{ice.usernameFragment}",
            f"a=ice-pwd:{ice.password}",
            *(
                f"a=fingerprint:{one.algorithm} {one.value}"
                for one in self._certificate.getFingerprints()
                if one.algorithm == "sha-256"
            ),
            "a=setup:active",
            f"a=mid:{offer.mid}",
            f"a=sctp-port:{self._sctp.port}",
            f"a=max-message-size:{LARGEST}",
        ]
        return "".join(line + "\r\n" for line in lines)

    async def connect(self) -> None:
        """Until the peer has opened its channel. Raises ConnectionError."""
        offer = self._offer
        await self._ice.start(RTCIceParameters(offer.ufrag, offer.password))
        self._check(self._ice.state == "completed")
        fingerprint = RTCDtlsFingerprint(offer.algorithm, offer.fingerprint)
        await self._dtls.start(RTCDtlsParameters([fingerprint]))
        self._check(self._dtls.state == "connected")
        # At once: what the peer says meanwhile would be lost.
        await self._sctp.start(RTCSctpCapabilities(offer.max_message_size), offer.sctp_port)
        await self._opened.wait()
        self._check(self._channel is not None)

    async def receive(self) -> bytes | TabAgentError:
        """The next message, or what is wrong with it. Raises ConnectionError at the end."""
        while True:
            self._check()
            if self._inbox:
                break
            self._arrived.clear()
            await self._arrived.wait()
        message = self._inbox.popleft()
        await self._sctp.give(_cost(message))
        return message

    async def send(self, message: bytes) -> None:
        """Waits while the peer does not read. Raises ConnectionError."""
        while self.unsent > UNSENT:
            self._check()
            before = self.unsent
            self._drained.clear()
            try:
                async with asyncio.timeout(self._write_stall_s):
                    await self._drained.wait()
            except TimeoutError:
                if self.unsent >= before:
                    self.lose("it does not read")
        self.say(message)

    def say(self, message: bytes) -> None:
        """Send without waiting. Raises ConnectionError."""
        self._check()
        assert self._channel is not None
        try:
            self._channel.send(message.decode())
        except (InvalidStateError, ValueError) as error:
            self.lose("it closed its channel")
            raise ConnectionResetError("the channel is closed") from error
        self._said += len(message)

    def lose(self, why: str = "it was told to leave") -> None:
        """Whoever waits for the peer waits no more."""
        if not self._lost.is_set():
            log.debug("webrtc_peer_lost", why=why)
        for event in (self._lost, self._opened, self._arrived, self._drained):
            event.set()

    async def close(self, *, politely: bool = False) -> None:
        """End it. Politely: what was said is heard before that, within a second."""
        if politely and self._channel is not None and not self._lost.is_set():
            self._channel.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await self._closed.wait()
        self.lose("it was closed")
        await self._sctp.stop()
        await self._dtls.stop()
        await self._ice.stop()

    def _check(self, holds: bool = True) -> None:
        if self._lost.is_set() or not holds:
            raise ConnectionResetError("the peer is gone")

    def _on_state(self) -> None:
        if self._ice.state in ("failed", "closed") or self._dtls.state in ("failed", "closed"):
            self.lose("its connection ended")

    def _on_channel(self, channel: RTCDataChannel) -> None:
        """The first reliable one is the one."""
        reliable = (
            channel.ordered and channel.maxRetransmits is None and channel.maxPacketLifeTime is None
        )
        if self._channel is not None or not reliable:
            self._others += 1
            channel.close()
            if self._others > MORE_CHANNELS:
                self.lose("it opens one channel after the other")
            return
        self._channel = channel
        channel.bufferedAmountLowThreshold = UNSENT // 2
        channel.on("message", self._on_message)
        channel.on("bufferedamountlow", self._drained.set)
        channel.on("close", self._on_close)
        self._opened.set()

    def _on_close(self) -> None:
        self._closed.set()
        self.lose("it closed its channel")

    def _on_message(self, message: str | bytes) -> None:
        self.heard_at = asyncio.get_running_loop().time()
        read = _read(message)
        self._sctp.take(_cost(read))
        self._inbox.append(read)
        self._arrived.set()


def _read(message: str | bytes) -> bytes | TabAgentError:
    if isinstance(message, bytes):
        return MalformedRequest("messages are text, not binary")
    read = message.encode()
    if len(read) > LARGEST:
        return PayloadTooLarge(f"a message has at most {LARGEST} bytes", limit_bytes=LARGEST)
    return read


def _cost(message: bytes | TabAgentError) -> int:
    return MESSAGE_COST + (len(message) if isinstance(message, bytes) else 0)
