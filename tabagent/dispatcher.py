"""The only door to a handler: authorise, validate, run. Every transport comes through here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Self, TypeVar

import structlog
from pydantic import ValidationError

from tabagent.errors import (
    AccessDenied,
    InternalError,
    InvalidRequest,
    NotFound,
    PairingRequired,
    ShuttingDown,
    TabAgentError,
    Unauthorized,
    UnsupportedParameter,
)
from tabagent.operation import UNSUPPORTED, Access, Call, Event, Operation, Reply, Request
from tabagent.parameters.lasting import LastingParameters
from tabagent.presence import Presence
from tabagent.replays import Replays
from tabagent.telemetry.requests import Requests, about

log = structlog.get_logger(__name__)

Stream = AsyncGenerator[Reply | Event, None]
Value = TypeVar("Value")
WORDS = {"extra_forbidden": "unknown field", "missing": "required"}
LOCAL = "local"
"""The caller on this machine that showed no token."""


class Dispatcher:
    """Runs operations by name.

    A failed operation raises a TabAgentError and nothing else: whatever a handler lets escape is
    logged with the request id and becomes an InternalError that shows that id only.
    """

    def __init__(
        self,
        operations: Iterable[Operation],
        *,
        presence: Presence | None = None,
        replays: Replays | None = None,
        resume_ttl_s: float = 60,
        requests: Requests | None = None,
    ) -> None:
        self.requests = requests or Requests()
        self.operations = {op.name: op for op in operations}
        self.draining = False
        self.active = 0
        self._presence = presence or Presence()
        self._replays = replays
        self._resume_ttl_s = resume_ttl_s

    async def call(self, route: str, payload: Mapping[str, Any], call: Call) -> Reply | Stream:
        """Run `route`. A streamed operation returns its events, which the caller must close."""
        operation = self.operations.get(route)
        if operation is None:
            raise NotFound(f"there is no operation named {route!r}")
        authorise(operation, call)
        if self.draining and operation.access is not Access.PUBLIC:
            raise ShuttingDown(retry_after=5)
        request = validate(operation, payload)
        if operation.access is Access.ADMIN:
            about(request)
        if not operation.streams:
            return await self._guarded(operation, call, operation.handler(request, call))
        streamed = bool(getattr(request, "stream", False))
        events = self._watched(operation, call, operation.handler(request, call))
        if isinstance(request, LastingParameters) and self._replays:
            return await self._lasting(operation, request, call, events, streamed)
        return events if streamed else await _folded(operation, events)

    def cancel(self, call: Call) -> None:
        """The caller does not want the answer any more, also when that would outlive it."""
        if self._replays:
            self._replays.cancel(call)

    async def _lasting(
        self,
        operation: Operation,
        request: LastingParameters,
        call: Call,
        events: Stream,
        streamed: bool,
    ) -> Reply | Stream:
        """Where a connection may be lost without being given up, the answer waits for its client."""
        assert self._replays is not None and operation.collect is not None
        unset = 0.0 if call.transport == "http" else self._resume_ttl_s
        ttl_s = unset if request.resume_ttl is None else request.resume_ttl
        alone = request.detach or ttl_s > 0
        if not (streamed or alone):
            return await _folded(operation, events)
        replay = self._replays.begin(
            call, operation.collect, streamed=streamed, detach=request.detach, ttl_s=ttl_s
        )
        if not alone:
            return replay.driven(events)
        replay.run(events, float("inf") if request.detach else ttl_s)
        return self._followed(replay.follow(0)) if streamed else await replay.whole()

    async def _followed(self, events: Stream) -> Stream:
        """Active until its client has all of it, which may be long after it was written."""
        self.active += 1
        try:
            async with aclosing(events):
                async for event in events:
                    yield event
        finally:
            self.active -= 1

    async def _guarded(self, operation: Operation, call: Call, work: Awaitable[Reply]) -> Reply:
        self.active += 1
        try:
            if not call.origin:
                return await work
            with _Stay(self._presence, call) as stay:
                return await stay.wait(work)
        except Exception as error:
            raise _typed(error, operation, call) from error
        finally:
            self.active -= 1

    async def _watched(self, operation: Operation, call: Call, events: Stream) -> Stream:
        self.active += 1
        try:
            async with aclosing(events):
                if not call.origin:
                    async for event in events:
                        yield event
                    return
                with _Stay(self._presence, call) as stay:
                    while (event_ := await stay.wait(anext(events, None))) is not None:
                        yield event_
                        stay.check()
        except Exception as error:
            raise _typed(error, operation, call) from error
        finally:
            self.active -= 1


class _Stay:
    """A call of an extension, which ends when the extension is revoked."""

    def __init__(self, presence: Presence, call: Call) -> None:
        self._here = presence.here(call.caller, self._leave)
        self._expelled = False
        self._waiting: asyncio.Task[Any] | None = None

    def __enter__(self) -> Self:
        self._here.__enter__()
        return self

    def __exit__(self, *why: Any) -> None:
        self._here.__exit__(None, None, None)

    def _leave(self) -> None:
        self._expelled = True
        if self._waiting and self._waiting is not asyncio.current_task():
            self._waiting.cancel()  # who revokes itself is told that it did

    def check(self) -> None:
        """Raises Unauthorized where the extension was revoked while nobody waited."""
        if self._expelled:
            raise Unauthorized("this client has been revoked")

    async def wait(self, work: Awaitable[Value]) -> Value:
        """Wait for a part of it. Raises Unauthorized once the extension has been revoked."""
        me = self._waiting = asyncio.current_task()
        assert me is not None
        try:
            return await work
        except asyncio.CancelledError:
            if not self._expelled:
                raise
            me.uncancel()
            raise Unauthorized("this client has been revoked") from None
        finally:
            self._waiting = None


async def _folded(operation: Operation, events: Stream) -> Reply:
    assert operation.collect is not None, "Operation checks this when it is built"
    async with aclosing(events):
        return await operation.collect(events)


def authorise(operation: Operation, call: Call) -> None:
    """Raise Unauthorized without a token, AccessDenied with one that holds too little, and
    PairingRequired to an extension that the owner does not know.
    """
    if call.access >= operation.access:
        return
    if call.vouched and not call.caller:
        raise PairingRequired(f"{operation.name} needs an approved extension")
    if call.access is Access.PUBLIC or call.caller == LOCAL:
        raise Unauthorized(f"{operation.name} needs a token")
    raise AccessDenied(f"{operation.name} needs {operation.access.name} access")


def validate(operation: Operation, payload: Mapping[str, Any]) -> Request:
    """The request as its type. Raises UnsupportedParameter or InvalidRequest with pointers."""
    try:
        return operation.request.model_validate(payload)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=True)
    for fault in faults:
        if fault["type"] == UNSUPPORTED:
            pointer = _pointer(fault, payload)
            raise UnsupportedParameter(
                f"{pointer.lstrip('/')}: {fault['msg']}", param=_first_step(pointer)
            )
    errors = [
        {
            "pointer": _pointer(fault, payload),
            "detail": WORDS.get(fault["type"]) or fault["msg"].removeprefix("Value error, "),
        }
        for fault in faults
    ]
    first = errors[0]
    raise InvalidRequest(
        f"{first['pointer'] or 'the request'}: {first['detail']}"
        + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""),
        param=_first_step(first["pointer"]),
        errors=errors,
    )


def _first_step(pointer: str) -> str | None:
    """The parameter that a pointer leads into."""
    return pointer.lstrip("/").partition("/")[0] or None


def _pointer(fault: Mapping[str, Any], payload: Any) -> str:
    """RFC 6901 pointer of a pydantic error, without the union tags pydantic puts between."""
    location = fault["loc"]
    # The last step of what is missing is not in the payload, and is no tag.
    known = len(location) - (fault["type"] == "missing")
    parts: list[str] = []
    here = payload
    for step in location[:known]:
        named = isinstance(here, Mapping) and step in here
        if named or (isinstance(here, list) and isinstance(step, int) and step < len(here)):
            here = here[step]
            parts.append(str(step))
    parts += map(str, location[known:])
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


def _typed(error: Exception, operation: Operation, call: Call) -> TabAgentError:
    if isinstance(error, TabAgentError):
        return error
    log.error(
        "internal_error", operation=operation.name, request_id=call.request_id, exc_info=error
    )
    return InternalError(f"internal error {call.request_id}; the server's log has the cause")
