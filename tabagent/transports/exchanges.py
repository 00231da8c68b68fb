"""Outermost of HTTP, before the gate: makes an exchange of every request and ends it, once."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tabagent.errors import InternalError, Unauthorized
from tabagent.exchange import CANCELLED, NO_OPERATION, OK, Exchange
from tabagent.logs import audit
from tabagent.telemetry.requests import Requests
from tabagent.transports.gate import CALLER, REQUEST_ID


class Exchanges:
    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self._app, self._requests = app, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        one = self._requests.begin("http")

        def counting(
            message: Message,
        ) -> Awaitable[None]:  # no coroutine of its own: for every token
            if message["type"] == "http.response.body":
                one.sent += len(message.get("body", b""))
                one.answered = not message.get("more_body")
            else:
                one.status = message["status"]
            return send(message)

        try:
            await self._app(scope, receive, counting)
        except (CancelledError, TimeoutError):
            one.outcome = CANCELLED
            raise
        except BaseException:
            one.outcome = InternalError.slug
            raise
        finally:
            if not one.answered and one.outcome == OK:
                one.outcome = CANCELLED
            if one.operation == NO_OPERATION:
                self._tell_nameless(one, scope)
            if self._requests.trace:
                one.headers = scope["headers"]
            self._requests.end(one)

    def _tell_nameless(self, one: Exchange, scope: Scope) -> None:
        """It came to no operation: a page, or the gate refused it."""
        one.request_id = scope.get(REQUEST_ID, "")
        if caller := scope.get(CALLER):
            one.caller = caller.name
        elif one.outcome == Unauthorized.slug:
            address = (scope.get("client") or ("unknown", 0))[0]
            audit.warning("token_refused", request_id=one.request_id, address=address)
