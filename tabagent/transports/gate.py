"""What stands in front of HTTP: which host, whose page, what kind of body, whose token.

Pure ASGI and outermost: it decides on the raw request, before any routing, for every route there
is. It leaves its finding in `scope["tabagent.caller"]`.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import uuid
from collections.abc import Callable
from functools import lru_cache
from typing import Final, TypeAlias

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tabagent.config import Settings
from tabagent.dispatcher import LOCAL
from tabagent.errors import (
    HostNotAllowed,
    OriginNotAllowed,
    TabAgentError,
    Unauthorized,
    UnsupportedMediaType,
)
from tabagent.operation import Access, Caller
from tabagent.transports.problem_response import send_problem

OWN_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")
OWNER: Final = "owner"
CALLER: Final = "tabagent.caller"
REQUEST_ID: Final = "tabagent.request_id"
Headers: TypeAlias = dict[str, str]


class Gate:
    """Lets a request through to `app`, or answers it. `port` is the one really listened on."""

    def __init__(
        self, app: ASGIApp, settings: Settings, token: str, port: Callable[[], int]
    ) -> None:
        self._app, self._settings, self._port = app, settings, port
        self._local_only = settings.local_only
        self._digest = hashlib.sha256(token.encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        headers = _read(scope)
        request_id = scope[REQUEST_ID] = _request_id(headers)
        origin = headers.get("origin")
        try:
            self._check_host([value for name, value in scope["headers"] if name == b"host"])
            self._check_origin(origin, headers)
            self._check_browser(origin, headers, scope["path"])
            if origin in self._settings.allowed_origins and origin:
                if scope["method"] == "OPTIONS":
                    await _preflight(send, origin, headers)
                    return
                send = _with_cors(send, origin)
            self._check_body(headers)
            scope[CALLER] = self._identify(scope, origin, headers)
        except TabAgentError as error:
            await send_problem(send, error, request_id, [])
            return
        await self._app(scope, receive, send)

    def _check_host(self, raw: list[bytes]) -> None:
        """A page that rebinds its name to 127.0.0.1 still sends its own name."""
        hosts = [host.decode("latin-1") for host in raw]
        own = _own_hosts(self._port())
        allowed = self._settings.allowed_hosts
        if len(hosts) == 1 and (
            hosts[0] in own or hosts[0] in allowed or hosts[0].rpartition(":")[0] in allowed
        ):
            return
        raise HostNotAllowed("the Host header does not name this server")

    def _own_origin(self, headers: Headers) -> str:
        return f"http://{headers.get('host')}"  # checked before

    def _check_origin(self, origin: str | None, headers: Headers) -> None:
        if origin is None or origin == self._own_origin(headers):
            return
        if origin not in self._settings.allowed_origins:
            raise OriginNotAllowed("this origin is not approved")

    def _check_browser(self, origin: str | None, headers: Headers, path: str) -> None:
        """Fetch metadata is a reason to refuse, never to accept."""
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and (
            origin not in self._settings.allowed_origins
        ):
            raise OriginNotAllowed("a page of another site may not call")
        if path.startswith("/v1") and headers.get("sec-fetch-mode") in ("no-cors", "navigate"):
            raise OriginNotAllowed("the API is for programs; open /swagger-ui/ in a browser")

    def _check_body(self, headers: Headers) -> None:
        """JSON only: that makes every cross-site POST one that the browser asks about first."""
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if has_body and kind != "application/json":
            raise UnsupportedMediaType("send Content-Type: application/json")

    def _identify(self, scope: Scope, origin: str | None, headers: Headers) -> Caller:
        authorization = headers.get("authorization")
        if authorization is not None:
            scheme, _, token = authorization.partition(" ")
            digest = hashlib.sha256(token.strip().encode()).digest()
            if scheme.lower() == "bearer" and hmac.compare_digest(digest, self._digest):
                return Caller(OWNER, Access.ADMIN)
            if self._needs_token(scope, origin, headers):
                raise Unauthorized("this token is not known here")
            # SDKs always send some key; where none is needed, a wrong one grants nothing more.
        elif self._needs_token(scope, origin, headers):
            return Caller("", Access.PUBLIC)
        return Caller(LOCAL, Access.USER)

    def _needs_token(self, scope: Scope, origin: str | None, headers: Headers) -> bool:
        """Under `auth=auto`, programs on this machine and our own pages may call without one."""
        # Bound wide, a proxy on this machine makes everyone look local.
        if self._settings.auth == "always" or not self._local_only:
            return True
        client = scope.get("client")
        if client is None or not _is_loopback(client[0]):
            return True
        own_page = headers.get("sec-fetch-site") == "same-origin"
        from_browser = origin is not None or "sec-fetch-site" in headers
        return from_browser and not own_page


def _read(scope: Scope) -> Headers:
    """The headers by name, once: each look-up in the list that a server gives costs all of it.

    Names come in lower case; of a name that is given twice the first counts.
    """
    found: Headers = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1"), value.decode("latin-1"))
    return found


@lru_cache(maxsize=8)
def _own_hosts(port: int) -> frozenset[str]:
    names = {f"{name}:{port}" for name in OWN_NAMES}
    return frozenset(names | set(OWN_NAMES) if port == 80 else names)


@lru_cache(maxsize=1024)
def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _request_id(headers: Headers) -> str:
    """The caller's own, when it is a UUID; else a new one."""
    if given := headers.get("x-request-id"):
        with contextlib.suppress(ValueError):
            return str(uuid.UUID(given))
    return str(uuid.uuid4())


async def _preflight(send: Send, origin: str, headers: Headers) -> None:
    asked = headers.get("access-control-request-headers", "")
    answer = [
        (b"access-control-allow-origin", origin.encode()),
        (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
        (b"access-control-allow-headers", asked.encode("latin-1", "replace")),
        (b"access-control-max-age", b"600"),
        (b"vary", b"Origin"),
        (b"content-length", b"0"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": answer})
    await send({"type": "http.response.body", "body": b""})


def _with_cors(send: Send, origin: str) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message["headers"],
                (b"access-control-allow-origin", origin.encode()),
                (b"access-control-expose-headers", b"X-Request-Id, Retry-After"),
                (b"vary", b"Origin"),
            ]
        await send(message)

    return with_headers
