"""What uvicorn leaves open: how long a request's head may take, how large it is, how many connect.

The bounds stand before the application: whoever dribbles or floods costs no task, and gets a
problem as everybody does. One look a second at all connections keeps the time; a timer for each
request would cost a twentieth of a small one.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tabagent import errors
from tabagent.config import Settings
from tabagent.transports.problem_response import send_problem

MOST_HEADERS: Final = 64
HEADER_BYTES: Final = 16 * 1024
TARGET_BYTES: Final = 8 * 1024


class Protocol(HttpToolsProtocol):
    """One connection, within bounds. `settings` and `peers` are those of its server."""

    settings: Settings
    peers: Counter[str]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._head_since: float | None = self.loop.time()
        self._head_bytes, self._begun = 0, False
        self._fault: errors.TabAgentError | None = None
        self._peer = self.client[0] if self.client else ""
        self.peers[self._peer] += 1
        settings = self.settings
        if len(self.connections) > settings.connections:
            self._refuse(errors.QueueFull("too many connections", retry_after=1))
        elif not settings.local_only and self.peers[self._peer] > settings.peer_connections:
            self._refuse(errors.QueueFull("too many connections from this address", retry_after=1))

    def connection_lost(self, exc: Exception | None) -> None:
        self.peers[self._peer] -= 1
        if self.peers[self._peer] <= 0:
            del self.peers[self._peer]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._head_since is not None and self._begun:
            # A head that goes on: the parser keeps a header until it is whole.
            self._head_bytes += len(data)
            if self._head_bytes > TARGET_BYTES + HEADER_BYTES:
                self._refuse(_headers_too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes, self._fault, self._begun = 0, None, True
        if self._head_since is None:
            self._head_since = self.loop.time()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > TARGET_BYTES:
            self._fault = errors.UriTooLong(f"the limit is {TARGET_BYTES} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._head_bytes += len(name) + len(value)
        if len(self.headers) > MOST_HEADERS or self._head_bytes > HEADER_BYTES:
            self._fault = self._fault or _headers_too_large()

    def on_headers_complete(self) -> None:
        self._head_since, self._begun = None, False
        fault = self._fault
        if fault is None:
            super().on_headers_complete()
            return
        app, self.app = self.app, _refusal(fault)
        try:
            super().on_headers_complete()
        finally:
            self.app = app

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._fault or errors.MalformedRequest("not an HTTP request"))

    def look(self, now: float) -> None:
        """End a request whose head takes too long."""
        if self._head_since is None or now - self._head_since < self.settings.head_s:
            return
        if self._answering:
            return  # the next one waits behind an answer
        if self._begun:
            self._refuse(errors.RequestTimeout("the headers took too long to arrive"))
        else:
            self.transport.close()  # it said nothing: there is nobody to tell

    @property
    def _answering(self) -> bool:
        cycle: Any = self.cycle  # None before the first request
        return cycle is not None and not cycle.response_complete

    def _refuse(self, error: errors.TabAgentError) -> None:
        """Answer outside of the application, and hang up."""
        if self.transport.is_closing():
            return
        self._head_since = None
        if self._answering:
            self.transport.close()  # in the middle of an answer there is no place for another
            return
        document = errors.problem(error, str(uuid.uuid4()))
        body = json.dumps(document).encode()
        head = [
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}",
            "content-type: application/problem+json",
            f"content-length: {len(body)}",
            "connection: close",
            f"x-should-retry: {json.dumps(error.retryable)}",
        ]
        self.transport.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        self.transport.close()


def protocol_of(settings: Settings) -> type[Protocol]:
    """The protocol of one server."""
    return type("BoundedProtocol", (Protocol,), {"settings": settings, "peers": Counter()})


def look_at(connections: Iterable[Any], now: float) -> None:
    """End requests whose heads take too long. `now` is the loop's time."""
    for connection in list(connections):
        if isinstance(connection, Protocol):
            connection.look(now)


def _headers_too_large() -> errors.HeadersTooLarge:
    return errors.HeadersTooLarge(
        f"at most {MOST_HEADERS} headers, and {HEADER_BYTES} bytes of them"
    )


def _refusal(error: errors.TabAgentError) -> Any:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await send_problem(send, error, str(uuid.uuid4()), [(b"connection", b"close")])

    return refuse
