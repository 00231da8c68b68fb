"""This server as a WebRTC peer: a data channel that carries the messages of the native socket.

aiortc is imported when the first offer comes, and only then.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from tabagent import errors
from tabagent.config import Settings
from tabagent.conversation import Conversation
from tabagent.dispatcher import Dispatcher
from tabagent.operation import Access, Caller
from tabagent.parameters.sdp import Description
from tabagent.presence import Presence
from tabagent.services.webrtc import State

if TYPE_CHECKING:
    from aiortc import RTCCertificate

    from tabagent.transports.rtc_link import Link

log = structlog.get_logger(__name__)

MOST_PEERS: Final = 8
SILENT: Final = 2.5  # heartbeats until a peer is given up
PING: Final = b'{"request_id":null,"success":true,"event":"ping"}'
SLACK: Final = 1024  # bytes under the peer's own limit
NOBODY: Final = Caller("", Access.PUBLIC)

Identify = Callable[[str], Caller | None]
"""Whose a token is."""
Tell = Callable[[str, State], Awaitable[None]]
"""What became of a session."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that a peer has, before its place is another's."""

    open_s: float = 30
    authenticate_s: float = 5


def available() -> bool:
    """Whether aiortc is there, without importing it."""
    return find_spec("aiortc") is not None


class Token(msgspec.Struct):
    token: str


class Introduction(msgspec.Struct):
    """The first message of a channel."""

    request_id: str
    route: str
    payload: Token


class Peers:
    """Those that are connected, or about to be."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        settings: Settings,
        presence: Presence,
        identify: Identify,
        tell: Tell,
        patience: Patience = Patience(),
    ) -> None:
        self._dispatcher, self._settings, self._presence = dispatcher, settings, presence
        self._identify, self._tell = identify, tell
        self.patience = patience
        self._places: dict[str, asyncio.Task[None] | None] = {}  # by session
        self._certificate: RTCCertificate | None = None
        self._loading = asyncio.Lock()
        self._stopped = False

    @property
    def count(self) -> int:
        return len(self._places)

    async def answer(self, session_id: str, offer: Description) -> str:
        """The answer to an offer, whose peer is then waited for.

        Raises QueueFull, NotAvailableHere, ShuttingDown.
        """
        if len(self._places) >= MOST_PEERS:
            raise errors.QueueFull(
                f"{MOST_PEERS} peers are connected: one has to leave first",
                queue_length=MOST_PEERS,
                retry_after=10,
            )
        self._places[session_id] = None
        link: Link | None = None
        try:
            certificate = await self._ready()
            from tabagent.transports.rtc_link import Link

            link = Link(certificate, offer, self._settings.write_stall_s)
            answer = await link.answer()
            if self._stopped:
                raise errors.ShuttingDown
        except BaseException as error:
            del self._places[session_id]
            if link:
                await link.close()
            if isinstance(error, OSError):
                raise errors.NotAvailableHere(
                    "no socket for a peer could be had", what="webrtc", why="no socket"
                ) from error
            raise
        self._places[session_id] = asyncio.create_task(self._serve(session_id, link))
        return answer

    async def stop(self) -> None:
        """Close every one."""
        self._stopped = True
        tasks = [task for task in self._places.values() if task]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _ready(self) -> RTCCertificate:
        """aiortc, and a certificate that is valid for a while. Raises NotAvailableHere."""
        async with self._loading:
            try:
                # A second of imports, which nobody else has to wait for.
                await asyncio.to_thread(import_module, "tabagent.transports.rtc_link")
            except ImportError:
                raise errors.NotAvailableHere(
                    "aiortc is not installed: pip install tabagent[webrtc]",
                    what="webrtc",
                    why="aiortc is not installed",
                ) from None
            from aiortc import RTCCertificate

            soon = datetime.now(UTC) + timedelta(days=1)
            if self._certificate is None or self._certificate.expires < soon:
                self._certificate = RTCCertificate.generateCertificate()
            return self._certificate

    async def _serve(self, session_id: str, link: Link) -> None:
        """One peer, from the first packet to the last."""
        state: State = "failed"
        try:
            async with asyncio.timeout(self.patience.open_s):
                await link.connect()
            state = "closed"
            await self._tell(session_id, "connected")
            await self._talk(link)
        except (TimeoutError, ConnectionError):
            pass
        except Exception as error:
            log.error("webrtc_peer_failed", exc_info=error)
        finally:
            try:
                await link.close()
            finally:
                del self._places[session_id]
                await self._tell(session_id, state)

    async def _talk(self, link: Link) -> None:
        token = await self._introduced(link)
        caller = self._identify(token) if token is not None else None
        if token is None or caller is None:
            await link.close(politely=True)
            return
        conversation = Conversation(
            self._dispatcher,
            self._settings,
            lambda: self._identify(token) or NOBODY,
            link.send,
            transport="webrtc",
            most=link.most - SLACK,
        )
        with self._presence.here(caller.name, link.lose):
            pings = asyncio.create_task(self._ping(link))
            try:
                while True:
                    message = await link.receive()
                    if isinstance(message, bytes):
                        await conversation.receive(message)
                    else:
                        await link.send(_problem(None, message))
            finally:
                pings.cancel()
                await conversation.close()

    async def _introduced(self, link: Link) -> str | None:
        """The token that the peer shows, and answers to it. None where it is refused."""
        request_id: str | None = None
        try:
            async with asyncio.timeout(self.patience.authenticate_s):
                message = await link.receive()
            if not isinstance(message, bytes):
                raise message
            said = msgspec.json.decode(message, type=Introduction)
            if said.route != "auth" or not 0 < len(said.request_id) <= 64:
                raise errors.Unauthorized("the first message must be `auth`, with a token")
            request_id = said.request_id
            caller = self._identify(said.payload.token)
            if caller is None:
                raise errors.Unauthorized("this token is not known here")
        except TimeoutError:
            error: errors.TabAgentError = errors.Unauthorized("no token came in time")
        except (msgspec.DecodeError, UnicodeDecodeError):
            error = errors.Unauthorized("the first message must be `auth`, with a token")
        except errors.TabAgentError as refused:
            error = refused
        else:
            data = {"caller": caller.name, "access": caller.access.name.lower()}
            await link.send(_json({"request_id": request_id, "success": True, "data": data}))
            return said.payload.token
        await link.send(_problem(request_id, error))
        return None

    async def _ping(self, link: Link) -> None:
        """Ask the peer to say something, and end it when it does not.

        What it has not taken yet lies before a question: so none is asked meanwhile, and it lives
        as long as it takes some.
        """
        loop, every = asyncio.get_running_loop(), self._settings.heartbeat_s
        pinged_at = moved_at = loop.time()
        unanswered_at: float | None = None
        taken = 0
        with suppress(ConnectionError):
            while True:
                await asyncio.sleep(every / 4)
                now = loop.time()
                if unanswered_at is not None and link.heard_at >= unanswered_at:
                    unanswered_at = None
                if not link.unsent or link.taken > taken:
                    moved_at, taken = now, link.taken
                if now - moved_at >= SILENT * every or (
                    unanswered_at is not None and now - unanswered_at >= (SILENT - 1) * every
                ):
                    link.lose("it is silent")
                if not link.unsent and now - pinged_at >= every:
                    link.say(PING)
                    pinged_at = now
                    unanswered_at = unanswered_at or now


def _problem(request_id: str | None, error: errors.TabAgentError) -> bytes:
    document = errors.problem(error, str(uuid.uuid4()))
    return _json({"request_id": request_id, "success": False, "error": document})


def _json(message: dict[str, Any]) -> bytes:
    return json.dumps(message, ensure_ascii=False).encode(errors="replace")
