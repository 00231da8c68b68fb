"""Signalling for WebRTC: how two peers find each other, or how one finds this server.

A session is an offer, its answer and both sides' candidates. It lives five minutes and belongs to
who made the offer and who answered it; before there is an answer, whoever knows its id may.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import structlog
from pydantic import BeforeValidator, Field, WithJsonSchema

from tabagent.errors import NotAvailableHere, TabAgentError
from tabagent.operation import Call, Reply, Request
from tabagent.parameters import invalid
from tabagent.parameters.sdp import (
    LARGEST_CANDIDATE,
    Description,
    Kind,
    check_candidate,
    read_description,
)
from tabagent.stores.records import Records

if TYPE_CHECKING:
    from tabagent.stores.signals import Signal, SignalCandidate

log = structlog.get_logger(__name__)

Peer = Literal["relay", "server"]
State = Literal["offered", "answered", "connected", "failed", "closed"]
AnswerOffer = Callable[[str, Description], Awaitable[str]]

AGAIN_S: Final = 0.3  # another server may have written
EXAMPLE: Final = "\r\n".join(
    [
        "v=0",
        "o=- 4611731400430051336 2 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
        "c=IN IP4 0.0.0.0",
        "a=ice-ufrag:EsAw",
        "a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1",
        "a=fingerprint:sha-256 " + ":".join(["D2"] * 32),
        "a=setup:actpass",
        "a=mid:0",
        "a=sctp-port:5000",
        "a=max-message-size:262144",
        "",
    ]
)
EXAMPLE_ANSWER: Final = EXAMPLE.replace("actpass", "active")
SESSION: Final = "rtc_3f0c1a2b4d5e6f708192a3b4c5d6e7f8"


def _candidate(value: Any) -> Any:
    """A browser gives an object; many hand on only its text. None and "" say that it was the last."""
    return {"candidate": value} if isinstance(value, str) else value


class Candidate(Request):
    """Where a peer may be reached: what `RTCIceCandidate.toJSON()` makes."""

    candidate: str = Field(max_length=LARGEST_CANDIDATE)
    sdpMid: str | None = Field(None, max_length=32)  # noqa: N815  # the browser's names
    sdpMLineIndex: int | None = Field(None, ge=0, le=64)  # noqa: N815
    usernameFragment: str | None = Field(None, max_length=256)  # noqa: N815


SessionId = Annotated[str, Field(min_length=1, max_length=64, description="As the offer gave it.")]
Sdp = Annotated[
    str, Field(description="The session description, at most 16 KiB: one data channel, no media.")
]


class OfferRequest(Request):
    """An offer: `{...pc.localDescription.toJSON(), peer: "server"}` is one."""

    model_config = {"json_schema_extra": {"examples": [{"sdp": EXAMPLE, "peer": "relay"}]}}

    sdp: Sdp
    type: Literal["offer"] = "offer"
    peer: Peer = Field(
        "relay", description="Who answers: another caller (`relay`), or this server (`server`)."
    )


class AnswerRequest(Request):
    """The answer to an offer."""

    model_config = {
        "json_schema_extra": {"examples": [{"session_id": SESSION, "sdp": EXAMPLE_ANSWER}]}
    }

    session_id: SessionId
    sdp: Sdp
    type: Literal["answer"] = "answer"


class IceRequest(Request):
    """A candidate of one side."""

    model_config = {
        "json_schema_extra": {
            "examples": [
                {
                    "session_id": SESSION,
                    "candidate": {
                        "candidate": "candidate:1 1 udp 2122260223 192.0.2.1 54321 typ host",
                        "sdpMid": "0",
                        "sdpMLineIndex": 0,
                    },
                }
            ]
        }
    }

    session_id: SessionId
    candidate: Annotated[
        Candidate | None,
        BeforeValidator(_candidate),
        WithJsonSchema(
            {"anyOf": [Candidate.model_json_schema(), {"type": "string"}, {"type": "null"}]}
        ),
    ] = Field(description="As `RTCIceCandidate.toJSON()`, or its text alone; null after the last.")
    side: Kind | None = Field(
        None, description="Whose it is, where one caller is both peers; else the caller tells."
    )


class SessionRequest(Request):
    """Which session, and what is known of it already."""

    model_config = {"json_schema_extra": {"examples": [{"session_id": SESSION}]}}

    session_id: SessionId
    since: int = Field(0, ge=0, le=10**6, description="The `seq` that was seen last.")
    wait_s: float = Field(
        0, ge=0, le=30, description="Seconds to wait for something newer than `since`."
    )


class SessionDescription(Reply):
    """What a browser's `setRemoteDescription` takes."""

    type: Kind
    sdp: str


class NewCandidate(Reply):
    """A candidate of a side; null says that it has no more."""

    seq: int
    side: Kind
    candidate: Candidate | None


class SignallingSession(Reply):
    """A session as it is now."""

    object: Literal["webrtc.session"] = "webrtc.session"
    session_id: str
    peer: Peer
    state: State = Field(
        description="`offered`, then `answered`; with this server as the peer then `connected`, and "
        "`closed` or `failed` at its end. A session that has expired is not found."
    )
    offer: SessionDescription
    answer: SessionDescription | None
    candidates: list[NewCandidate] = Field(description="Those that came after `since`.")
    seq: int = Field(description="Grows with all that changes; ask again `since` this.")
    expires_at: datetime


class Webrtc:
    """`answer_offer` makes this server's answer; `app.py` sets it once there is a peer."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self.answer_offer: AnswerOffer | None = None
        self._stopped = asyncio.Event()

    async def offer(self, request: OfferRequest, call: Call) -> SignallingSession:
        """Begin a session with an offer, to another peer or to this server.

        This server answers at once and wholly. It never sends to an address that an offer or a
        candidate names, but waits for the peer's own first packet; so none need be sent to it.
        """
        description = read_description(request.sdp, "offer")
        signals = self._records.signals
        if request.peer == "relay":
            return _told(await signals.create(call.caller, "relay", request.sdp))
        if self.answer_offer is None:
            raise NotAvailableHere("this server is no peer", what="webrtc", why="not started")
        stripped = description.without_candidates()
        signal = await signals.create(call.caller, "server", stripped)
        try:
            answer = await self.answer_offer(signal.id, description)
        except TabAgentError:
            await signals.forget(signal.id)
            raise
        return _told(await signals.answer(signal.id, call.caller, answer))

    async def answer(self, request: AnswerRequest, call: Call) -> SignallingSession:
        """Answer another peer's offer. From then on the session is these two callers' alone."""
        read_description(request.sdp, "answer")
        signals = self._records.signals
        return _told(await signals.answer(request.session_id, call.caller, request.sdp))

    async def ice(self, request: IceRequest, call: Call) -> SignallingSession:
        """Tell the other peer of a candidate. This server as the peer takes it and uses none."""
        given = request.candidate
        if given is not None and given.candidate:
            try:
                check_candidate(given.candidate)
            except ValueError as error:
                raise invalid("/candidate", str(error)) from None
        kept = given.model_dump() if given is not None and given.candidate else None
        signals = self._records.signals
        return _told(
            await signals.add_candidate(request.session_id, call.caller, request.side, kept)
        )

    async def session(self, request: SessionRequest, call: Call) -> SignallingSession:
        """Read a session, at once or as soon as there is something newer than `since`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + request.wait_s
        while True:
            signal, candidates = await self._records.signals.read(
                request.session_id, call.caller, request.since
            )
            left = deadline - loop.time()
            if signal.seq > request.since or left <= 0 or self._stopped.is_set():
                return _told(signal, candidates)
            try:
                await asyncio.wait_for(self._stopped.wait(), min(left, AGAIN_S))
            except TimeoutError:
                continue

    async def note(self, session_id: str, state: State) -> None:
        """What became of this server's connection to a peer. Raises nothing."""
        try:
            await self._records.signals.note(session_id, state)
        except TabAgentError as error:
            log.warning("webrtc_state_not_saved", state=state, why=error.slug)

    def stop(self) -> None:
        """End every wait, so that none of them holds up the end of the server."""
        self._stopped.set()


def _told(signal: Signal, candidates: list[SignalCandidate] | None = None) -> SignallingSession:
    answer = signal.answer
    return SignallingSession.model_validate(
        {
            "session_id": signal.id,
            "peer": signal.peer,
            "state": signal.state,
            "offer": {"type": "offer", "sdp": signal.offer},
            "answer": None if answer is None else {"type": "answer", "sdp": answer},
            "candidates": [
                {"seq": one.seq, "side": one.side, "candidate": one.candidate}
                for one in candidates or ()
            ],
            "seq": signal.seq,
            "expires_at": datetime.fromtimestamp(signal.expires_at, UTC),
        }
    )
