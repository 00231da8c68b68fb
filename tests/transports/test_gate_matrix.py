"""Every route there is against every kind of request that may not pass, as the app itself lists them.

A new route is in it without being named, and each step of the gate is taken out once, to see that
its requests are then let through: a matrix that could not fail would prove nothing.
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from tabagent.transports import gate as gate_module
from tabagent.transports.gate import Gate
from tests.live import TOKEN, LiveServer, fake_models

EXTENSION = "chrome-extension://abcdefghijklmnopabcdefghijklmnop"
STRANGER = "chrome-extension://ponmlkjihgfedcbaponmlkjihgfedcba"
JSON = {"Content-Type": "application/json"}
HOST, ORIGIN, SITE, MODE, KIND = (
    "Host",
    "Origin",
    "Sec-Fetch-Site",
    "Sec-Fetch-Mode",
    "Content-Type",
)
NOBODY, OTHER, PORT = "host-not-allowed", "origin-not-allowed", "{port}"


@dataclass(frozen=True)
class Variant:
    """A request that may not pass, and the problem that says so. `step`: of the gate, that does."""

    step: str
    problem: str
    headers: dict[str, str]
    body: bytes = b""
    only: Callable[[str, str], bool] = field(default=lambda method, path: True)


def api(method: str, path: str) -> bool:
    return path.startswith("/v1")


def pairs(method: str, path: str) -> bool:
    return (method, path) == ("POST", "/v1/pair")


def host(name: str) -> Variant:
    return Variant("_check_host", NOBODY, {HOST: name})


def origin(name: str, **more: str) -> Variant:
    return Variant("_lets_in", OTHER, {ORIGIN: name, **more})


def site(value: str, **more: str) -> Variant:
    return Variant("_check_browser", OTHER, {SITE: value, **more})


def mode(value: str, **more: str) -> Variant:
    headers = {MODE: value, SITE: "same-origin", **more}
    return Variant("_check_browser", OTHER, headers, only=api)


def kind(value: str) -> Variant:
    return Variant("_check_body", "unsupported-media-type", {KIND: value}, b"a=1")


VARIANTS: dict[str, Variant] = {
    "a page that rebinds its name": host("evil.example"),
    "the same with our port": host("evil.example:{port}"),
    "our address without the port": host("127.0.0.1"),
    "another port": host("127.0.0.1:1"),
    "our name as a label": host("localhost.evil.example:{port}"),
    "another loopback address": host("127.0.0.2:{port}"),
    "any address": host("0.0.0.0:{port}"),
    "another case": host("LOCALHOST:{port}"),
    "a name with a user in it": host("localhost@evil.example:{port}"),
    "no name": host(""),
    "a page": origin("https://evil.example"),
    "a page beside us": origin("http://127.0.0.1:1"),
    "a page of our name without the port": origin("http://localhost"),
    "our page by https": origin("https://127.0.0.1:{port}"),
    "a sandboxed page": origin("null"),
    "a file": origin("file://"),
    "no origin but a header": origin(""),
    "an unknown extension": Variant(
        "_lets_in", OTHER, {ORIGIN: STRANGER}, only=lambda m, p: not pairs(m, p)
    ),
    "an approved one with a tail": origin(EXTENSION + ".evil.example"),
    "an approved one with a slash": origin(EXTENSION + "/"),
    "an approved one in capitals": origin(EXTENSION.upper()),
    "two origins in one": origin(f"{EXTENSION} https://evil.example"),
    "another browser's scheme": origin(EXTENSION.replace("chrome", "safari-web")),
    "a content script": origin("https://page.example", **{SITE: "cross-site"}),
    "an image or a form of another site": site("cross-site"),
    "a page of our site": site("same-site"),
    "a page that asks without cors": mode("no-cors"),
    "a page that goes there": mode("navigate"),
    "a form": kind("application/x-www-form-urlencoded"),
    "a text": kind("text/plain"),
    "a file that is uploaded": kind("multipart/form-data; boundary=x"),
    "a text that names json": kind("text/plain; application/json"),
    "no kind of body": Variant("_check_body", "unsupported-media-type", {}, b"a=1"),
    "a wrong token": Variant(
        "_identify", "unauthorized",
        {"Authorization": "Bearer " + "w" * 32, ORIGIN: EXTENSION},
    ),
    "a token of another scheme": Variant(
        "_identify", "unauthorized",
        {"Authorization": f"Basic {TOKEN}", ORIGIN: EXTENSION},
    ),
    "an approved extension without a token": Variant(
        "_needs_token", "unauthorized", {ORIGIN: EXTENSION}, only=lambda m, p: False
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    place: Path = tmp_path_factory.mktemp("matrix")
    with LiveServer(place, extra=fake_models(), allowed_origins=[EXTENSION]) as live:
        yield live


def routes(server: LiveServer) -> list[tuple[str, str]]:
    """(method, path) of each route of the app: operations with their aliases, and pages."""
    found: dict[tuple[str, str], None] = {}
    for operation in server.gateway.dispatcher.operations.values():
        found |= dict.fromkeys(operation.routes)
    for route in server.gateway.pages:
        assert isinstance(route, Route)
        found |= {(method, route.path): None for method in route.methods or ()}
    filled = re.compile(r"{(\w+)(:\w+)?}")
    return [(method, filled.sub("none", path)) for method, path in found]


class Line:
    """One connection that is kept, and opened again where the server has closed it."""

    def __init__(self, server: LiveServer) -> None:
        self._port = server.gateway.port
        self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)

    def ask(self, method: str, path: str, variant: Variant) -> tuple[int, str]:
        headers = {
            name: value.replace(PORT, str(self._port)) for name, value in variant.headers.items()
        }
        connection = self._connection
        connection.putrequest(method, path, skip_host=HOST in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        if variant.body:
            connection.putheader("Content-Length", str(len(variant.body)))
        connection.endheaders(variant.body or None)
        response = connection.getresponse()
        body = response.read()
        if response.will_close:
            connection.close()
        code = ""
        if response.getheader("content-type") == "application/problem+json" and body:
            code = json.loads(body)["code"]
        return response.status, code

    def close(self) -> None:
        self._connection.close()


def state(server: LiveServer) -> Any:
    """What a request that was let through could have changed."""
    ask = server.owner.get
    return [
        ask(path).json()
        for path in ("/v1/models/loaded", "/v1/sessions", "/v1/params", "/v1/rag/collections",
                     "/v1/clients", "/v1/pulls", "/v1/rag/folders", "/v1/hf/token/status")
    ]  # fmt: skip


def test_there_are_enough_kinds_of_requests(server: LiveServer) -> None:
    assert len(VARIANTS) >= 29
    assert len(routes(server)) > 110


@pytest.mark.parametrize("name", [n for n, v in VARIANTS.items() if v.step != "_identify"])
def test_no_route_lets_it_through(server: LiveServer, name: str) -> None:
    variant = VARIANTS[name]
    before = state(server)
    line = Line(server)
    for method, path in routes(server):
        if not variant.only(method, path):
            continue
        status, code = line.ask(method, path, variant)
        if method == "HEAD":
            assert status in (400, 401, 403, 415, 421), (method, path)
        else:
            assert code == variant.problem, (method, path, status, code)
    line.close()
    assert state(server) == before


@pytest.mark.parametrize("name", [n for n, v in VARIANTS.items() if v.step == "_identify"])
def test_no_route_takes_a_token_that_is_none(server: LiveServer, name: str) -> None:
    """Of each kind one token: a second wrong one would count towards the limit."""
    line = Line(server)
    for method, path in routes(server):
        status, code = line.ask(method, path, VARIANTS[name])
        assert status == 401, (method, path, status)
        assert code == "unauthorized" or method == "HEAD"
    line.close()


def test_an_approved_extension_without_a_token_reaches_what_is_public_alone(
    server: LiveServer,
) -> None:
    line = Line(server)
    public = {
        route
        for operation in server.gateway.dispatcher.operations.values()
        if operation.access == 0
        for route in operation.routes
    }
    bare = Variant("", "", {ORIGIN: EXTENSION})
    for operation in server.gateway.dispatcher.operations.values():
        for method, path in operation.routes:
            status, code = line.ask(method, re.sub(r"{\w+}", "none", path), bare)
            if (method, path) not in public:
                assert (status, code) == (401, "unauthorized"), (method, path)
    line.close()


TAKEN_OUT: dict[str, Any] = {
    "_check_host": lambda self, raw: None,
    "_lets_in": lambda self, origin, scope, headers: True,
    "_check_browser": lambda self, approved, headers, path: None,
    "_check_body": lambda self, headers: None,
    "_needs_token": lambda self, scope, origin, headers: False,
}


@pytest.mark.parametrize("step", TAKEN_OUT)
def test_without_a_step_its_requests_pass(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Each step is what refuses them, and nothing else does."""
    assert gate_module.Gate is Gate
    mine = [v for v in VARIANTS.values() if v.step == step]
    if step == "_needs_token":
        mine = [v for v in VARIANTS.values() if v.step == "_identify"]
    line = Line(server)
    # A step is reached by requests that the others let through.
    sole = [v for v in mine if SITE not in v.headers or step == "_check_browser"]
    assert sole
    path = "/v1/models"
    for variant in sole:
        assert line.ask("GET", path, variant)[1] == variant.problem
    monkeypatch.setattr(Gate, step, TAKEN_OUT[step])
    for variant in sole:
        assert line.ask("GET", path, variant)[1] != variant.problem, variant
    line.close()
