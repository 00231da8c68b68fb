"""Who gets in. Every refusal is tried on several routes: the gate stands before routing."""

from __future__ import annotations

import http.client
from pathlib import Path
from typing import Any

import pytest

from tests.live import TOKEN, LiveServer, fake_model

EXTENSION = "chrome-extension://abcdefghijklmnopabcdefghijklmnop"
PATHS = ["/health", "/v1/models", "/swagger-ui/", "/nothing", "/v1/chat/completions"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with LiveServer(
        tmp_path_factory.mktemp("gate"),
        extra=[fake_model()],
        allowed_origins=[EXTENSION],
        allowed_hosts=["box.example"],
    ) as live:
        yield live


def ask(
    server: LiveServer, path: str, headers: dict[str, str], method: str = "GET", body: str = ""
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.gateway.port, timeout=10)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    if body:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body.encode() or None)
    response = connection.getresponse()
    found = {name.lower(): value for name, value in response.getheaders()}
    data = response.read()
    connection.close()
    return response.status, found, data


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example",
     "127.0.0.1:{port}.evil.example", "[::2]:{port}", "", "box.example.evil", "LOCALHOST"],
)  # fmt: skip
def test_another_host_is_refused(server: LiveServer, path: str, host: str) -> None:
    status, _, body = ask(server, path, {"Host": host.format(port=server.gateway.port)})
    assert status in (400, 421)
    if status == 421:
        assert b"host-not-allowed" in body


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_our_own_names_are_let_in(server: LiveServer, host: str) -> None:
    assert ask(server, "/health", {"Host": f"{host}:{server.gateway.port}"})[0] == 200


@pytest.mark.parametrize("host", ["box.example", "box.example:443"])
def test_a_host_that_the_owner_named_is_let_in(server: LiveServer, host: str) -> None:
    assert ask(server, "/health", {"Host": host})[0] == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "chrome-extension://ponmlkjihgfedcbaponmlkjihgfedcba"},
        {"Origin": EXTENSION + ".evil"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_strange_page_is_refused(server: LiveServer, path: str, headers: dict[str, str]) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        status, found, body = ask(server, path, headers, method)
        assert status == 403, method
        assert b"origin-not-allowed" in body
        assert "access-control-allow-origin" not in found


@pytest.mark.parametrize("mode", ["no-cors", "navigate"])
def test_the_api_is_not_a_page(server: LiveServer, mode: str) -> None:
    headers = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": mode}
    assert ask(server, "/v1/models", headers)[0] == 403
    assert ask(server, "/swagger-ui/", headers)[0] == 200


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_a_body_that_is_not_json_is_refused(server: LiveServer, kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    status, _, body = ask(server, "/v1/tokenize", headers, "POST", '{"text":"x"}')
    assert status == 415
    assert b"unsupported-media-type" in body


def test_an_approved_extension_is_answered_with_cors(server: LiveServer) -> None:
    token = {"Authorization": f"Bearer {TOKEN}"}
    status, found, _ = ask(server, "/v1/models", {"Origin": EXTENSION, **token})
    assert status == 200
    assert found["access-control-allow-origin"] == EXTENSION
    assert "access-control-allow-credentials" not in found
    status, found, _ = ask(
        server,
        "/v1/chat/completions",
        {
            "Origin": EXTENSION,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,x-stainless-lang",
        },
        "OPTIONS",
    )
    assert status == 204
    assert "x-stainless-lang" in found["access-control-allow-headers"]


def test_an_approved_extension_still_needs_a_token(server: LiveServer) -> None:
    status, _, body = ask(server, "/v1/models", {"Origin": EXTENSION})
    assert status == 401
    assert b"unauthorized" in body
    assert ask(server, "/v1/models", {"Sec-Fetch-Site": "none"})[0] == 401


def test_our_own_page_may_use_user_operations(server: LiveServer) -> None:
    own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    assert ask(server, "/v1/models", own)[0] == 200
    status, _, _ = ask(
        server,
        "/v1/models/load",
        {**own, "Content-Type": "application/json"},
        "POST",
        '{"model":"fake/counter"}',
    )
    assert status == 401


def test_a_wrong_key_grants_nothing_and_costs_nothing_where_none_is_needed(
    server: LiveServer,
) -> None:
    wrong = {"Authorization": "Bearer sk-local"}
    assert ask(server, "/v1/models", wrong)[0] == 200
    for client in ({"Origin": EXTENSION}, {"Sec-Fetch-Site": "none"}):
        assert ask(server, "/v1/models", {**wrong, **client})[0] == 401


def test_a_websocket_is_closed(server: LiveServer, tmp_path: Path) -> None:
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    assert ask(server, "/v1/models", headers)[0] in (200, 403, 404, 426)
