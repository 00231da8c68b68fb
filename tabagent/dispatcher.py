"""The only door to a handler: authorise, validate, run. Every transport comes through here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from typing import Any

import structlog
from pydantic import ValidationError

from tabagent.errors import (
    AccessDenied,
    InternalError,
    InvalidRequest,
    NotFound,
    ShuttingDown,
    TabAgentError,
    Unauthorized,
    UnsupportedParameter,
)
from tabagent.operation import UNSUPPORTED, Access, Call, Event, Operation, Reply, Request

log = structlog.get_logger(__name__)

Stream = AsyncGenerator[Reply | Event, None]
WORDS = {"extra_forbidden": "unknown field", "missing": "required"}
LOCAL = "local"
"""The caller on this machine that showed no token."""


class Dispatcher:
    """Runs operations by name.

    A failed operation raises a TabAgentError and nothing else: whatever a handler lets escape is
    logged with the request id and becomes an InternalError that shows that id only.
    """

    def __init__(self, operations: Iterable[Operation]) -> None:
        self.operations = {op.name: op for op in operations}
        self.draining = False
        self.active = 0

    async def call(self, route: str, payload: Mapping[str, Any], call: Call) -> Reply | Stream:
        """Run `route`. A streamed operation returns its events, which the caller must close."""
        operation = self.operations.get(route)
        if operation is None:
            raise NotFound(f"there is no operation named {route!r}")
        authorise(operation, call)
        if self.draining and operation.access is not Access.PUBLIC:
            raise ShuttingDown(retry_after=5)
        request = validate(operation, payload)
        work = operation.handler(request, call)
        if not operation.streams:
            return await self._guarded(operation, call, work)
        events = self._watched(operation, call, work)
        if getattr(request, "stream", False):
            return events
        assert operation.collect is not None, "Operation checks this when it is built"
        async with aclosing(events):
            return await operation.collect(events)

    async def _guarded(self, operation: Operation, call: Call, work: Any) -> Reply:
        self.active += 1
        try:
            return await work  # type: ignore[no-any-return]  # the handler's reply
        except Exception as error:
            raise _typed(error, operation, call) from error
        finally:
            self.active -= 1

    async def _watched(self, operation: Operation, call: Call, events: Stream) -> Stream:
        self.active += 1
        try:
            async with aclosing(events):
                async for event in events:
                    yield event
        except Exception as error:
            raise _typed(error, operation, call) from error
        finally:
            self.active -= 1


def authorise(operation: Operation, call: Call) -> None:
    """Raise Unauthorized without a token, AccessDenied with one that holds too little."""
    if call.access >= operation.access:
        return
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
