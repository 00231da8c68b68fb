"""`/metrics`, for Prometheus: a raw route, since what it answers is no JSON."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tabagent.errors import OriginNotAllowed, Unauthorized
from tabagent.exchange import EXCHANGE
from tabagent.operation import Access, Caller
from tabagent.transports.gate import CALLER, REQUEST_ID
from tabagent.transports.http import ProblemResponse

METRICS: Final = "/metrics"
BROWSERS: Final = ("origin", "sec-fetch-site", "sec-fetch-mode")

Expose = Callable[[str], Awaitable[tuple[bytes, str]]]
"""The text in the format that an Accept header asks for, and its content type."""


def metrics_route(expose: Expose) -> BaseRoute:
    """Who may use USER operations may read it, but for browsers: no page has any use for it."""

    async def metrics(request: Request) -> Response:
        caller: Caller = request.scope[CALLER]
        if one := EXCHANGE.get():
            one.concerns("metrics", f"GET {METRICS}", request.scope[REQUEST_ID], caller.name)
        if any(name in request.headers for name in BROWSERS):
            return ProblemResponse(OriginNotAllowed("metrics are for programs, not for pages"))
        if caller.access < Access.USER:
            return ProblemResponse(Unauthorized("metrics need a token"))
        text, content_type = await expose(request.headers.get("accept", ""))
        headers = {"Content-Type": content_type, "Cache-Control": "no-store"}
        return Response(text, headers=headers)

    return Route(METRICS, metrics)
