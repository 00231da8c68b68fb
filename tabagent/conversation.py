"""Messages of one client, as the native socket and the data channel carry them, as calls.

`{request_id, route, payload}` comes in; replies, numbered chunks, `done`, `cancelled` or a problem
go out. Many requests run at once and end in any order. No transport is known here: whoever owns the
connection hands messages in and is handed messages to send.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from typing import Any, Final

import msgspec
import structlog

from tabagent import errors
from tabagent.config import Settings
from tabagent.dispatcher import Dispatcher, Stream
from tabagent.exchange import EXCHANGE, failed
from tabagent.operation import Call, Caller, Reply
from tabagent.replays import Kept
from tabagent.strict_json import load_object
from tabagent.telemetry.requests import concerns

log = structlog.get_logger(__name__)

MOST_RUNNING: Final = 256  # requests of one connection
MOST_PARTED: Final = 4  # messages of which some parts have come
ID_LENGTH: Final = 64
ENVELOPE: Final = 96  # bytes of a part beside its text and its head
CANCELLED: Final = b'"event":"cancelled"}'


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """What a client sends: a request, a `cancel`, a `pong`, or a part of a message."""

    request_id: str = ""
    route: str = ""
    payload: msgspec.Raw = msgspec.Raw()
    event: str = ""
    seq: int = 0
    more: bool = False
    text: str = ""


decode: Final = msgspec.json.Decoder(Message).decode


class _Running:
    """`task` runs it; `call` is there once that has begun; `over`: the last message has gone out,
    or is the next to go.
    """

    __slots__ = ("call", "cancelled", "over", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.call: Call | None = None
        self.cancelled = self.over = False


class Conversation:
    """One connection's requests.

    `who` says who asks, now; `send` takes one message of at most `most` bytes to the client, and
    waits while the client does not read.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        settings: Settings,
        who: Callable[[], Caller],
        send: Callable[[bytes], Awaitable[None]],
        *,
        transport: str,
        most: int,
    ) -> None:
        self._dispatcher, self._settings = dispatcher, settings
        self._who, self._send = who, send
        self._transport, self._most = transport, most
        self._running: dict[str, _Running] = {}
        self._parts: dict[str, list[str]] = {}
        self._parted = 0  # characters in all parts that wait for more
        self._limit = settings.largest_body(upload=True)
        self._closed = False

    @property
    def running(self) -> int:
        """Requests that have no last message yet."""
        return len(self._running)

    async def receive(self, message: bytes) -> None:
        """Take one message on. Waits while the client does not read what it is told."""
        try:
            read = decode(message)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            detail = f"not a message: {str(error) or 'nested too deep'}"
            await self._fail(None, errors.MalformedRequest(detail))
            return
        if read.route == "pong":
            return
        if not 0 < len(read.request_id) <= ID_LENGTH:
            detail = f"a message needs a request_id of 1 to {ID_LENGTH} characters"
            await self._fail(None, errors.MalformedRequest(detail))
        elif read.event:
            await self._part(read)
        elif read.route == "cancel":
            await self._cancel(read.request_id)
        else:
            await self._begin(read)

    async def close(self) -> None:
        """The client is lost: its requests end, but for those that wait to be followed again."""
        self._closed = True
        self._parts.clear()
        tasks = [one.task for one in self._running.values() if one.task]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # ---- what comes in -------------------------------------------------------------------------
    async def _begin(self, message: Message) -> None:
        request_id = message.request_id
        if request_id in self._running:
            await self._fail(request_id, errors.Conflict("a request with this id is running"))
            return
        if len(self._running) >= MOST_RUNNING:
            error = errors.QueueFull(
                f"{MOST_RUNNING} requests of this connection are running",
                queue_length=len(self._running),
                retry_after=1,
            )
            await self._fail(request_id, error)
            return
        running = self._running[request_id] = _Running()
        running.task = asyncio.create_task(self._run(message, running))

    async def _cancel(self, request_id: str) -> None:
        running = self._running.get(request_id)
        if running is None:
            error = errors.RequestNotFound(f"no request {request_id} of this connection is running")
            await self._fail(request_id, error)
            return
        if running.over:
            return  # one last message is enough
        assert running.task is not None
        running.cancelled = True
        running.task.cancel()
        if running.call:
            self._dispatcher.cancel(running.call)
        else:  # a task that has not begun never will
            del self._running[request_id]
            await self._say(_head(request_id), CANCELLED)

    async def _part(self, message: Message) -> None:
        """A part of a message that is larger than the channel takes."""
        request_id = message.request_id
        parts = self._parts.get(request_id)
        if message.event != "part" or message.seq != len(parts or ()):
            self._drop(request_id)
            await self._fail(request_id, errors.MalformedRequest("parts come in order, from seq 0"))
            return
        if parts is None:
            if len(self._parts) >= MOST_PARTED:
                error = errors.QueueFull(f"{MOST_PARTED} messages are under way in parts")
                await self._fail(request_id, error)
                return
            parts = self._parts[request_id] = []
        self._parted += len(message.text)
        parts.append(message.text)
        if self._parted > self._limit:
            self._drop(request_id)
            await self._fail(request_id, _too_large(self._limit))
        elif not message.more:
            self._drop(request_id)
            await self.receive("".join(parts).encode(errors="surrogatepass"))

    def _drop(self, request_id: str) -> None:
        self._parted -= sum(map(len, self._parts.pop(request_id, ())))

    # ---- one request ---------------------------------------------------------------------------
    async def _run(self, message: Message, running: _Running) -> None:
        request_id, head = message.request_id, _head(message.request_id)
        one = self._dispatcher.requests.begin(self._transport)
        call = running.call = Call.of(self._who(), _uuid(request_id), self._transport)
        if operation := self._dispatcher.operations.get(message.route):
            concerns(operation, call)
        try:
            try:
                payload = self._payload(message)
                reply = await self._dispatcher.call(message.route, payload, call)
                if isinstance(reply, Reply):
                    await self._say(head, b'"data":' + reply.encode() + b"}", running)
                else:
                    await self._stream(head, reply, running)
            except errors.TabAgentError as error:
                await self._fail(request_id, error, call)
            except asyncio.CancelledError:
                one.left()
                if not running.cancelled or self._closed:
                    raise
                assert running.task is not None
                running.task.uncancel()
                await self._say(head, CANCELLED)
        except ConnectionError:
            one.left()  # the client is gone; the transport closes this conversation
        except Exception as error:
            log.error("internal_error", route=message.route, exc_info=error)
            await self._fail(request_id, errors.InternalError(), call)
        finally:
            del self._running[request_id]
            self._dispatcher.requests.end(one)

    def _payload(self, message: Message) -> dict[str, Any]:
        if not message.payload:
            return {}
        operation = self._dispatcher.operations.get(message.route)
        limit = self._settings.largest_body(upload=operation is not None and operation.upload)
        raw = bytes(message.payload)
        if len(raw) > limit:
            raise _too_large(limit)
        return load_object(raw)

    async def _stream(self, head: bytes, events: Stream, running: _Running) -> None:
        seq = 0
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Kept):
                    seq = event.seq
                chunk = b'"event":"chunk","seq":%d,"data":%b}' % (seq, event.encode())
                await self._say(head, chunk)
                seq += 1
        await self._say(head, b'"event":"done","seq":%d}' % seq, running)

    # ---- what goes out -------------------------------------------------------------------------
    async def _fail(
        self, request_id: str | None, error: errors.TabAgentError, call: Call | None = None
    ) -> None:
        if call:
            failed(error.slug)
        else:
            self._dispatcher.requests.refuse(error.slug, self._transport)
        document = errors.problem(error, call.request_id if call else str(uuid.uuid4()))
        body = json.dumps(document, ensure_ascii=False).encode(errors="replace")
        with suppress(ConnectionError):
            await self._say(_head(request_id, b"false"), b'"error":' + body + b"}")

    async def _say(self, head: bytes, rest: bytes, ends: _Running | None = None) -> None:
        message = head + rest
        if one := EXCHANGE.get():
            one.sent += len(message)
        if len(message) <= self._most:
            if ends:
                ends.over = True
            await self._send(message)
            return
        head = head.replace(b'"success":false,', b'"success":true,')  # a part fails nothing
        most = self._most - len(head) - ENVELOPE
        for number, (text, more) in enumerate(_pieces(message.decode(), most)):
            part = {"event": "part", "seq": number, "more": more, "text": text}
            await self._send(head + json.dumps(part, ensure_ascii=False).encode()[1:])


def _head(request_id: str | None, success: bytes = b"true") -> bytes:
    return b'{"request_id":%b,"success":%b,' % (json.dumps(request_id).encode(), success)


def _pieces(text: str, most: int) -> Iterator[tuple[str, bool]]:
    """Stretches of a JSON text that take at most `most` bytes as JSON strings, and whether more
    follow.
    """
    at = 0
    while at < len(text):
        end = min(at + most, len(text))
        while (size := _written(text[at:end])) > most:
            end = at + max(1, (end - at) * most // size)
        yield text[at:end], end < len(text)
        at = end


def _written(text: str) -> int:
    """Bytes of a JSON text in JSON: only its quotes and backslashes take another."""
    return len(text.encode()) + text.count('"') + text.count("\\")


def _too_large(limit: int) -> errors.PayloadTooLarge:
    return errors.PayloadTooLarge(f"the limit is {limit} bytes", limit_bytes=limit)


def _uuid(request_id: str) -> str:
    """The client's own id, when it is a UUID: then the request has that name everywhere."""
    with suppress(ValueError):
        return str(uuid.UUID(request_id))
    return str(uuid.uuid4())
