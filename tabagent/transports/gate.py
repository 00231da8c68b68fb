"""What stands in front of HTTP: which host, whose page, what kind of body, whose token.

Pure ASGI and outermost: it decides on the raw request, before any routing, for every route there
is. It leaves its finding in `scope["tabagent.caller"]`.

A token is the identity. Origin is a reason to refuse and never to accept, since an extension can
write what it wants there; the one thing that an extension which nobody approved may do is to ask
for that, at PAIR.
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
    RateLimited,
    TabAgentError,
    Unauthorized,
    UnsupportedMediaType,
)
from tabagent.operation import Access, Caller
from tabagent.parameters.extensions import is_web_extension
from tabagent.stores.clients import ClientStore
from tabagent.transports.problem_response import send_problem
from tabagent.transports.wrong_tokens import WrongTokens

OWN_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")
OWNER: Final = "owner"
PAIR: Final = "/v1/pair"
CALLER: Final = "tabagent.caller"
REQUEST_ID: Final = "tabagent.request_id"
EXPOSED: Final = b"X-Request-Id, X-Should-Retry, Retry-After, WWW-Authenticate, Allow"
Headers: TypeAlias = dict[str, str]


class Gate:
    """Lets a request through to `app`, or answers it. `port` is the one really listened on."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        token: str,
        port: Callable[[], int],
        clients: ClientStore,
    ) -> None:
        self._app, self._settings, self._port, self._clients = app, settings, port, clients
        self._local_only = settings.local_only
        self._digest = hashlib.sha256(token.encode()).digest()
        self._wrong_tokens = WrongTokens()

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
            elsewhere = origin is not None and origin != self._own_origin(headers)
            if elsewhere and not self._lets_in(origin or "", scope, headers):
                raise OriginNotAllowed("this origin is not approved")
            self._check_browser(elsewhere, headers, scope["path"])
            if elsewhere and origin:
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

    def _lets_in(self, origin: str, scope: Scope, headers: Headers) -> bool:
        """Whether requests from there are looked at any further."""
        if origin in self._settings.allowed_origins or origin in self._clients.origins():
            return True
        method = scope["method"]
        if method == "OPTIONS":
            method = headers.get("access-control-request-method")
        return scope["path"] == PAIR and method == "POST" and is_web_extension(origin)

    def _check_browser(self, approved: bool, headers: Headers, path: str) -> None:
        """Fetch metadata is a reason to refuse, never to accept."""
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not approved:
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
        said = origin if origin and is_web_extension(origin) else ""
        if authorization is None:
            if self._needs_token(scope, origin, headers):
                return Caller("", Access.PUBLIC, said)
            return Caller(LOCAL, Access.USER)
        needed = self._needs_token(scope, origin, headers)
        address = (scope.get("client") or ("", 0))[0]
        # Over the limit no token is looked at, or a right guess would tell itself apart. Programs
        # that need none are not held up by what a browser on this machine has tried.
        if needed and (wait_s := self._wrong_tokens.wait_s(address)):
            raise RateLimited("too many wrong tokens from here", retry_after=wait_s)
        scheme, _, token = authorization.partition(" ")
        caller = self.holder(token.strip(), said) if scheme.lower() == "bearer" else None
        if caller is not None:
            return caller
        if needed:
            self._wrong_tokens.note(address, token.strip())
            raise Unauthorized("this token is not known here")
        # SDKs always send some key; where none is needed, a wrong one grants nothing more.
        return Caller(LOCAL, Access.USER)

    def holder(self, token: str, origin: str = "") -> Caller | None:
        """Whose token this is, on any transport. `origin` is the extension whose Origin came with it,
        where there is one. Raises OriginNotAllowed when that is not the token's.
        """
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        if hmac.compare_digest(digest, self._digest):
            return Caller(OWNER, Access.ADMIN, origin)
        found = self._clients.holder(token)
        if found is None:
            return None
        client, home = found
        if origin and origin != home:
            raise OriginNotAllowed("this token is another extension's")
        self._clients.used(client.id)
        return Caller(client.id, client.access, client.origin)

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
                (b"access-control-expose-headers", EXPOSED),
                (b"vary", b"Origin"),
            ]
        await send(message)

    return with_headers
