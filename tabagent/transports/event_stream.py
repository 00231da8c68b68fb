"""Server-sent events over ASGI, with an end for every case.

Starlette's StreamingResponse never closes a body generator and sends headers before the first
event; here the first event comes first, so "no such model" is a 404, and closing is `aclosing`'s.
Source of the format: the HTML standard, "Server-sent events".
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from starlette.types import Send

from tabagent.errors import TabAgentError
from tabagent.exchange import failed
from tabagent.operation import Event, Reply


def frame(event: Reply | Event) -> bytes:
    """One event as bytes; its name and id stand in lines of their own, where it has them."""
    data = b"data: " + event.encode() + b"\n\n"
    if not isinstance(event, Event):
        return data
    name = b"event: " + event.name.encode() + b"\n" if event.name else b""
    id_ = b"id: " + event.id.encode() + b"\n" if event.id else b""
    return name + id_ + data


class EventStream:
    """Sends `events`, then with `done` also `data: [DONE]`.

    A comment is sent after every `heartbeat_s` of silence, also before the first event: by then a
    browser's service worker would give up on headers that do not come. `fail` turns an error after
    the headers into the object of `event: error`.
    """

    def __init__(
        self,
        events: AsyncGenerator[Reply | Event, None],
        *,
        done: bool,
        headers: list[tuple[bytes, bytes]],
        fail: Callable[[TabAgentError], dict[str, Any]],
        heartbeat_s: float,
        write_stall_s: float,
    ) -> None:
        self._events, self._done, self._fail = events, done, fail
        self._headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
            *headers,
        ]
        self._heartbeat_s, self._write_stall_s = heartbeat_s, write_stall_s
        self._started = False
        self._last = 0.0
        self._lock = asyncio.Lock()
        self._writing_since: float | None = None
        self._unread = False

    async def run(self, send: Send) -> None:
        """Send everything. Raises TabAgentError only while no header has been sent, and
        TimeoutError when the client does not read.
        """
        me = asyncio.current_task()
        assert me is not None
        self._last = asyncio.get_running_loop().time()
        beside = [asyncio.create_task(self._beat(send)), asyncio.create_task(self._watch(me))]
        try:
            async with aclosing(self._events) as events:
                async for event in events:
                    await self._write(send, frame(event))
            await self._write(send, b"data: [DONE]\n\n" if self._done else b"", more=False)
        except TabAgentError as error:
            if not self._started:
                raise
            failed(error.slug)
            document = json.dumps(self._fail(error), ensure_ascii=False)
            await self._write(send, f"event: error\ndata: {document}\n\n".encode(), more=False)
        except asyncio.CancelledError:
            if not self._unread:
                raise
            me.uncancel()
            raise TimeoutError("the client did not read") from None
        finally:
            for task in beside:
                task.cancel()

    async def _beat(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._last + self._heartbeat_s - loop.time())
            if loop.time() - self._last >= self._heartbeat_s:
                await self._write(send, b": still here\n\n")

    async def _watch(self, writer: asyncio.Task[Any]) -> None:
        """Cut off a client that does not read: it fills the socket's buffer, and `send` waits.

        One look now and then costs a stream nothing; a timeout around each write would cost a
        tenth of what a token costs.
        """
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._write_stall_s / 4)
            since = self._writing_since
            if since is not None and loop.time() - since > self._write_stall_s:
                self._unread = True
                writer.cancel()
                return

    async def _write(self, send: Send, data: bytes, *, more: bool = True) -> None:
        loop = asyncio.get_running_loop()
        async with self._lock:
            self._writing_since = loop.time()
            if not self._started:
                self._started = True
                await send({"type": "http.response.start", "status": 200, "headers": self._headers})
            await send({"type": "http.response.body", "body": data, "more_body": more})
            self._writing_since = None
            self._last = loop.time()
