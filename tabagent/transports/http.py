"""HTTP: routes made from the table, one merged payload per request, and hang-up as cancellation."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tabagent import errors
from tabagent.config import Settings
from tabagent.dispatcher import Dispatcher
from tabagent.operation import Call, Operation, Reply
from tabagent.presence import Presence
from tabagent.strict_json import load_object
from tabagent.telemetry.requests import concerns
from tabagent.transports.event_stream import EventStream
from tabagent.transports.gate import CALLER, REQUEST_ID
from tabagent.transports.problem_response import send_problem

CUT_AFTER_S: Final = 0.5  # that a revoked client's call has to end in a way that says why
WATCH_AFTER_S: Final = 0.05  # most calls are over by then and need nobody to watch for a hang-up


class PathEndpoint:
    """The operations of one path, by method: an ASGI app."""

    def __init__(
        self,
        operations: dict[str, Operation],
        dispatcher: Dispatcher,
        settings: Settings,
        presence: Presence,
    ) -> None:
        self._operations, self._dispatcher, self._settings = operations, dispatcher, settings
        self._presence = presence

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = scope[REQUEST_ID]
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        operation = self._operations.get(method)
        if operation is None:
            allow = (b"allow", ", ".join(self._operations).encode())
            error = errors.MethodNotAllowed(f"this path answers {', '.join(self._operations)}")
            await send_problem(send, error, request_id, [allow])
            return
        call = Call.of(scope[CALLER], request_id, "http")
        concerns(operation, call)
        if call.origin and call.caller:
            async with until_revoked(self._presence, call, send) as (send, check):
                await self._answer(operation, call, scope, receive, send, check)
        else:
            await self._answer(operation, call, scope, receive, send)

    async def _answer(
        self,
        operation: Operation,
        call: Call,
        scope: Scope,
        receive: Receive,
        send: Send,
        check: Callable[[], None] | None = None,
    ) -> None:
        request_id = call.request_id
        identity = [(b"x-request-id", request_id.encode())]
        try:
            payload = await self._payload(operation, scope, receive)
            if check:
                check()
            if "last_event_id" in operation.request.model_fields:
                _resume(payload, scope)
            async with until_hang_up(receive):
                reply = await self._dispatcher.call(operation.name, payload, call)
                if isinstance(reply, Reply):
                    await _send_json(send, reply, identity)
                else:
                    await EventStream(
                        reply,
                        done=operation.done,
                        headers=identity,
                        fail=lambda error: errors.problem(error, request_id),
                        heartbeat_s=self._settings.heartbeat_s,
                        write_stall_s=self._settings.write_stall_s,
                    ).run(send)
        except errors.TabAgentError as error:
            await send_problem(send, error, request_id, [])

    async def _payload(
        self, operation: Operation, scope: Scope, receive: Receive
    ) -> dict[str, Any]:
        """Path, query and body as one object; a name given twice is refused."""
        payload: dict[str, Any] = {}
        if not (scope["query_string"] or scope.get("path_params") or _has_body(scope)):
            return payload
        request = HttpRequest(scope)
        limit = self._settings.largest_body(upload=operation.upload)
        body = await read_body(receive, request, self._settings, limit)
        parts: list[Iterable[tuple[str, Any]]] = [
            load_object(body).items() if body else (),
            request.query_params.multi_items(),
            request.path_params.items(),
        ]
        for part in parts:
            for name, value in part:
                if name in payload:
                    raise errors.InvalidRequest(
                        f"{name} is given twice",
                        param=name,
                        errors=[{"pointer": f"/{name}", "detail": "given twice"}],
                    )
                payload[name] = value
        return payload


def _resume(payload: dict[str, Any], scope: Scope) -> None:
    """What a browser's EventSource says when it connects again."""
    seen = next((value for name, value in scope["headers"] if name == b"last-event-id"), b"")
    if seen:
        payload["last_event_id"] = seen.decode("latin-1")


def _has_body(scope: Scope) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])


async def read_body(
    receive: Receive, request: HttpRequest, settings: Settings, limit: int
) -> bytes:
    """The whole body. Raises PayloadTooLarge as soon as it must be, RequestTimeout when too slow."""
    if not _has_body(request.scope):
        return b""
    declared = request.headers.get("content-length", "0")
    too_large = errors.PayloadTooLarge(f"the limit is {limit} bytes", limit_bytes=limit)
    expected = int(declared) if declared.isdigit() else 0
    if expected > limit:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.body_s + expected / 65536):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise errors.RequestTimeout("the client left before its body ended")
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > limit:
                    raise too_large
                chunks.append(chunk)
                if not message.get("more_body"):
                    return b"".join(chunks)
    except TimeoutError:
        raise errors.RequestTimeout("the body took too long to arrive") from None


@asynccontextmanager
async def until_hang_up(receive: Receive) -> AsyncGenerator[None, None]:
    """Cancel the body of the `async with` when the client hangs up, and swallow that.

    Starlette does this for streams only; a plain call that still waits for a model has to end too.
    """
    me = asyncio.current_task()
    assert me is not None
    gone = False
    watcher: asyncio.Task[None] | None = None

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        me.cancel()

    def start() -> None:
        nonlocal watcher
        watcher = asyncio.create_task(watch())

    timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, start)
    try:
        yield
    except asyncio.CancelledError:
        if not gone:
            raise
        me.uncancel()
    finally:
        timer.cancel()
        if watcher:
            watcher.cancel()


@asynccontextmanager
async def until_revoked(
    presence: Presence, call: Call, send: Send
) -> AsyncGenerator[tuple[Send, Callable[[], None]], None]:
    """Cut a call off whose client is revoked, where the dispatcher's end of it does not get through:
    a body that still comes, an answer that is not read.

    Gives what to send with, and a check for when the body is there: it raises Unauthorized.
    """
    me = asyncio.current_task()
    assert me is not None
    revoked = cut = begun = False
    timer: asyncio.TimerHandle | None = None

    def leave() -> None:
        nonlocal revoked, timer
        revoked = True
        if me is not asyncio.current_task():  # who revokes itself is told that it did
            timer = asyncio.get_running_loop().call_later(CUT_AFTER_S, end)

    def end() -> None:
        nonlocal cut
        cut = True
        me.cancel()

    def check() -> None:
        if revoked:
            raise errors.Unauthorized("this client has been revoked")

    async def noting(message: Message) -> None:
        nonlocal begun
        begun = True
        await send(message)

    with presence.here(call.caller, leave):
        try:
            yield noting, check
        except asyncio.CancelledError:
            if not cut:
                raise
            me.uncancel()
            if not begun:
                error = errors.Unauthorized("this client has been revoked")
                await send_problem(send, error, call.request_id, [])
            # else the answer stays without its end, and the server closes the connection
        finally:
            if timer:
                timer.cancel()


async def _send_json(send: Send, reply: Reply, extra: list[tuple[bytes, bytes]]) -> None:
    body = reply.encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *extra,
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def operation_routes(dispatcher: Dispatcher, settings: Settings, presence: Presence) -> list[Route]:
    """One route per path of the table, in the table's order."""
    paths: dict[str, dict[str, Operation]] = {}
    for operation in dispatcher.operations.values():
        for method, path in operation.routes:
            paths.setdefault(path, {})[method] = operation
    # Ids hold slashes, which servers hand over decoded: a parameter takes the rest of the path.
    return [
        Route(
            re.sub(r"\{(\w+)\}", r"{\1:path}", path),
            PathEndpoint(by_method, dispatcher, settings, presence),
        )
        for path, by_method in paths.items()
    ]


def build(operations: list[Route], pages: list[BaseRoute]) -> ASGIApp:
    """The application behind the gate; what it has no route for is a problem, not a page."""
    # Most paths are plain: found at once, without a pattern for each row of the table.
    plain = {route.path: route.app for route in operations if not route.param_convertors}

    async def no_route(request: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        found = errors.MethodNotAllowed if error.status_code == 405 else errors.NotFound
        allow = (error.headers or {}).get("Allow")
        return ProblemResponse(found(), [(b"allow", allow.encode())] if allow else [])

    rest = Starlette(routes=[*operations, *pages], exception_handlers={HTTPException: no_route})

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        found = plain.get(scope["path"]) if scope["type"] == "http" else None
        await (found or rest)(scope, receive, send)

    return application


class ProblemResponse(Response):
    """An error as a Starlette response."""

    def __init__(
        self, error: errors.TabAgentError, extra: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        self._error, self._extra = error, extra or []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_problem(send, self._error, scope[REQUEST_ID], self._extra)
