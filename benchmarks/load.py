"""The load generator: HTTP/1.1 over plain sockets, no more work than it takes to see a token.

It shares the machine with the servers it measures, so what it costs has to be small and the same
for both. Every time is in seconds of `time.perf_counter`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from time import perf_counter
from typing import Any, Final, cast

HOST: Final = "127.0.0.1"
ANSWER_S: Final = 300.0  # no answer takes longer
TEXT: Final = b'"content":"'
NO_TEXT: Final = b'"content":""'


class LoadError(Exception):
    """A server did not do what it was asked; the message quotes it."""


def post(port: int, path: str, body: dict[str, Any]) -> bytes:
    """A request as it goes over the wire."""
    data = json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    ).encode() + data


def get(port: int, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n".encode()


class Chat(asyncio.Protocol):
    """One streamed chat on a connection of its own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.sent = 0.0
        self.times: list[float] = []  # when each event with text arrived
        self.usage: dict[str, Any] = {}
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._raw = bytearray()  # chunks of HTTP not read yet
        self._events = bytearray()  # what was in them
        self._in_body = False

    @classmethod
    async def open(cls, port: int) -> Chat:
        loop = asyncio.get_running_loop()
        _, chat = await loop.create_connection(lambda: cls(port), HOST, port)
        return chat

    def send(self, body: dict[str, Any]) -> None:
        assert self._transport is not None
        self.sent = perf_counter()
        self._transport.write(post(self._port, "/v1/chat/completions", body))

    async def finished(self) -> None:
        """Wait for the end of the stream. Raises LoadError when it ends in another way."""
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._done
        finally:
            self.hang_up()

    async def has(self, tokens: int) -> None:
        """Wait for that many events with text."""
        async with asyncio.timeout(ANSWER_S):
            while len(self.times) < tokens:
                if self._done.done():
                    self._done.result()
                    raise LoadError(f"the answer ended after {len(self.times)} tokens")
                await asyncio.sleep(0.002)

    def hang_up(self) -> None:
        if self._transport:
            self._transport.abort()

    @property
    def first(self) -> float:
        """Seconds to the first text."""
        return self.times[0] - self.sent

    @property
    def tokens(self) -> int:
        """The server's own count."""
        return int(self.usage["completion_tokens"])

    # ---- asyncio's side -------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(LoadError("the server closed the connection"))
            self._done.exception()  # nobody may be waiting any more

    def data_received(self, data: bytes) -> None:
        now = perf_counter()
        self._raw += data
        try:
            if not self._in_body and not self._read_head():
                return
            self._read_chunks()
            self._read_events(now)
        except (LoadError, ValueError) as error:
            if not self._done.done():
                self._done.set_exception(LoadError(str(error)))
            self.hang_up()

    def _read_head(self) -> bool:
        end = self._raw.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._raw[:end])
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise LoadError(self._raw.decode(errors="replace"))
        if b"chunked" not in head.lower():
            raise LoadError("the answer is no stream")
        del self._raw[: end + 4]
        self._in_body = True
        return True

    def _read_chunks(self) -> None:
        """Take whole chunks out of what has arrived: length in hex, the data, and a line's end."""
        raw, at = self._raw, 0
        while (line := raw.find(b"\r\n", at)) >= 0:
            size = int(raw[at:line], 16)
            start = line + 2
            if len(raw) < start + size + 2:
                break
            self._events += raw[start : start + size]
            at = start + size + 2
        del raw[:at]

    def _read_events(self, now: float) -> None:
        *events, rest = self._events.split(b"\n\n")
        self._events = rest
        for event in events:
            if TEXT in event and NO_TEXT not in event:
                self.times.append(now)
            elif event.startswith(b"event: error") or b'"error":{' in event:
                raise LoadError(event.decode(errors="replace"))
            elif b'"usage":{' in event:
                self.usage = json.loads(event.removeprefix(b"data: "))["usage"]
            elif event == b"data: [DONE]" and not self._done.done():
                self._done.set_result(None)


async def run(port: int, bodies: Sequence[dict[str, Any]]) -> list[Chat]:
    """Send all at once, over connections that are open by then, and wait for the last answer.

    Raises LoadError when one has not the length that was asked for.
    """
    chats = [await Chat.open(port) for _ in bodies]
    for chat, body in zip(chats, bodies, strict=True):
        chat.send(body)
    await asyncio.gather(*(chat.finished() for chat in chats))
    for chat, body in zip(chats, bodies, strict=True):
        if not chat.times or chat.tokens != body["max_tokens"]:
            raise LoadError(f"asked for {body['max_tokens']} tokens, got {chat.usage}")
    return chats


class Caller(asyncio.Protocol):
    """Sends one request again and again over a connection, each when the last is answered.

    A server may close the connection after some number of answers; then it opens another.
    """

    def __init__(self, port: int, request: bytes, seconds: list[float]) -> None:
        self._port, self._request, self._seconds = port, request, seconds
        self._buffer = b""
        self._sent = 0.0
        self._transport: asyncio.Transport | None = None
        self._leaving = False
        self._opening: asyncio.Task[None] | None = None
        self.complaint = ""  # what came instead of an answer

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, HOST, self._port)

    def leave(self) -> None:
        self._leaving = True
        if self._transport:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        self._buffer = b""
        if self._leaving:
            self._transport.abort()
        else:
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._leaving:
            self._opening = asyncio.get_running_loop().create_task(self.open())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found or len(body) < _length(head):
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self.complaint = self._buffer.decode(errors="replace")
            self.leave()
            return
        self._seconds.append(perf_counter() - self._sent)
        self._buffer = b""
        if b"onnection: close" not in head:
            self._next()

    def _next(self) -> None:
        assert self._transport is not None
        self._sent = perf_counter()
        self._transport.write(self._request)


def _length(head: bytes) -> int:
    low = head.lower()
    at = low.index(b"content-length:") + len(b"content-length:")
    return int(low[at:].partition(b"\r\n")[0])


async def repeat(port: int, request: bytes, *, connections: int, seconds: float) -> list[float]:
    """How long each answer took, in seconds, while so many connections kept asking.

    Raises LoadError when an answer was not 200.
    """
    found: list[float] = []
    callers = [Caller(port, request, found) for _ in range(connections)]
    for caller in callers:
        await caller.open()
    await asyncio.sleep(seconds)
    for caller in callers:
        caller.leave()
        if caller.complaint or not found:
            raise LoadError(caller.complaint or "no answer came")
    return found
