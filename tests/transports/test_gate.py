"""Who gets in. Every refusal is tried on several routes: the gate stands before routing."""

from __future__ import annotations

import http.client
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tabagent.transports.wrong_tokens import MOST, MOST_PEERS, WINDOW_S, WrongTokens
from tests.live import FAKE, TOKEN, LiveServer, fake_model

EXTENSION = "chrome-extension://abcdefghijklmnopabcdefghijklmnop"
STRANGER = "chrome-extension://ponmlkjihgfedcbaponmlkjihgfedcba"
FOX = "chrome-extension://" + "f" * 32
CAT = "chrome-extension://" + "c" * 32
OWL = "moz-extension://0a1b2c3d-0000-4000-8000-00000000000f"
JSON = {"Content-Type": "application/json"}
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


# ---- clients, and who would like to be taken for one --------------------------------------------


class Paired:
    """Two clients, and what there was before anybody tried anything."""

    def __init__(self, server: LiveServer) -> None:
        self.server = server
        self.fox, self.cat = (pair(server, origin) for origin in (FOX, CAT))
        self.before = self.state()

    def state(self) -> Any:
        """What a side effect would change."""
        get = self.server.owner.get
        rows = get("/v1/clients").json()
        return (
            [(row["id"], row["access"], row["tokens"]) for row in rows["data"]],
            rows["pending"],
            [row["model"] for row in get("/v1/models/loaded").json()["data"]],
            [row["id"] for row in get("/v1/sessions").json()["data"]],
            get("/v1/params").json(),
        )


def pair(server: LiveServer, origin: str, access: str = "admin") -> str:
    """A client's token, as it gets one over HTTP."""
    asked = post(server, "/v1/pair", {"Origin": origin}, {})
    said = {"code": asked["code"], "access": access}
    assert server.owner.post("/v1/clients", json=said).status_code == 200
    return str(post(server, "/v1/pair", {"Origin": origin}, {"secret": asked["secret"]})["token"])


def post(server: LiveServer, path: str, headers: dict[str, str], body: Any) -> dict[str, Any]:
    status, _, data = ask(server, path, {**headers, **JSON}, "POST", json.dumps(body))
    assert status == 200, data
    return dict(json.loads(data))


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paired]:
    place = tmp_path_factory.mktemp("gate-clients")
    with LiveServer(place, extra=[fake_model()], auto_load=False) as live:
        yield Paired(live)


WRITES: list[tuple[str, str, Any]] = [
    ("POST", "/v1/sessions", {"id": "sess_forged"}),
    ("POST", "/v1/models/load", {"model": FAKE}),
    ("POST", "/v1/clients", {"extension_id": "a" * 32, "access": "admin"}),
    ("PUT", "/v1/params", {"params": {"temperature": 0.1}}),
    ("POST", "/v1/pair", {"name": "Fox"}),
]
"""What would leave a trace."""

ATTACKS: dict[str, tuple[dict[str, str], int, str]] = {
    "a web page of another site": (
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 403, "origin-not-allowed",
    ),
    "a web page at another port of this machine": (
        {"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": "same-site"}, 403, "origin-not-allowed",
    ),
    "a page that rebinds its name": ({"Host": "evil.example"}, 421, "host-not-allowed"),
    "a page that rebinds its name and has a token": (
        {"Host": "evil.example", "Origin": FOX, "Authorization": "{fox}"}, 421, "host-not-allowed",
    ),
    "a sandboxed page": ({"Origin": "null"}, 403, "origin-not-allowed"),
    "a sandboxed page with a token": (
        {"Origin": "null", "Authorization": "{fox}"}, 403, "origin-not-allowed",
    ),
    "a content script, which carries its page's origin": (
        {"Origin": "https://mail.example", "Sec-Fetch-Site": "cross-site", "Authorization": "{fox}"},
        403, "origin-not-allowed",
    ),
    "a page that claims to be an extension and more": (
        {"Origin": FOX + ".evil.example", "Authorization": "{fox}"}, 403, "origin-not-allowed",
    ),
    "two origins": ({"Origin": f"{FOX} https://evil.example"}, 403, "origin-not-allowed"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_by_name_and_leaves_no_trace(paired: Paired, attack: str) -> None:
    headers, expected, code = ATTACKS[attack]
    tokens = {"fox": f"Bearer {paired.fox}", "cat": f"Bearer {paired.cat}"}
    filled = {name: value.format(**tokens) for name, value in headers.items()}
    for method, path, body in WRITES:
        for kind in (JSON, {"Content-Type": "text/plain"}):
            status, found, data = ask(
                paired.server, path, {**filled, **kind}, method, json.dumps(body)
            )
            assert (status, json.loads(data)["code"]) == (expected, code), (method, path)
            assert "access-control-allow-origin" not in found
    assert paired.state() == paired.before


FORGED: dict[str, tuple[dict[str, str], int, str]] = {
    "an extension that nobody approved": ({"Origin": STRANGER}, 403, "origin-not-allowed"),
    "an extension that nobody approved, with another's token": (
        {"Origin": STRANGER, "Authorization": "{fox}"}, 403, "origin-not-allowed",
    ),
    "another extension's token": (
        {"Origin": CAT, "Authorization": "{fox}"}, 403, "origin-not-allowed",
    ),
    "an approved extension's origin and no token": ({"Origin": FOX}, 401, "unauthorized"),
    "an approved extension's origin and a wrong token": (
        {"Origin": FOX, "Authorization": "Bearer wrong"}, 401, "unauthorized",
    ),
    "a navigation without an origin": (
        {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "cors"}, 401, "unauthorized",
    ),
}  # fmt: skip


@pytest.mark.parametrize("forged", FORGED)
def test_who_has_no_token_of_its_own_may_not_write(paired: Paired, forged: str) -> None:
    headers, expected, code = FORGED[forged]
    token = f"Bearer {paired.fox}"
    filled = {name: value.format(fox=token) for name, value in headers.items()}
    for method, path, body in WRITES if "Authorization" in headers else WRITES[:-1]:
        status, _, data = ask(paired.server, path, {**filled, **JSON}, method, json.dumps(body))
        assert (status, json.loads(data)["code"]) == (expected, code), (method, path)
    for path in ("/v1/models", "/v1/clients", "/v1/events?stream=false"):
        assert ask(paired.server, path, filled)[0] == expected
    assert paired.state() == paired.before


def test_a_clients_own_token_opens_what_it_may(paired: Paired) -> None:
    """With its own Origin, and with none, as an extension's GET comes."""
    fox = {"Authorization": f"Bearer {paired.fox}"}
    for headers in ({"Origin": FOX}, {"Sec-Fetch-Site": "none"}, {}):
        status, found, data = ask(paired.server, "/v1/hello", {**fox, **headers})
        said = json.loads(data)
        assert (status, said["state"], said["origin"], said["access"]) == (
            200, "paired", FOX, "admin",
        )  # fmt: skip
        allowed = found.get("access-control-allow-origin")
        assert allowed == headers.get("Origin")
    assert "access-control-allow-credentials" not in found


def test_a_problem_can_be_read_by_the_extension_that_caused_it(paired: Paired) -> None:
    status, found, _ = ask(paired.server, "/v1/models", {"Origin": FOX})
    assert (status, found["access-control-allow-origin"]) == (401, FOX)
    exposed = found["access-control-expose-headers"].lower()
    for header in ("x-request-id", "retry-after", "x-should-retry", "www-authenticate"):
        assert header in exposed


@pytest.mark.parametrize("origin", [STRANGER, OWL])
def test_an_unknown_extension_may_ask_to_be_approved_and_nothing_else(
    server: LiveServer, origin: str
) -> None:
    preflight = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    status, found, _ = ask(server, "/v1/pair", preflight, "OPTIONS")
    assert (status, found["access-control-allow-origin"]) == (204, origin)
    assert "access-control-allow-credentials" not in found
    status, found, data = ask(server, "/v1/pair", {"Origin": origin, **JSON}, "POST", "{}")
    assert (status, json.loads(data)["state"]) == (200, "pending")
    assert found["access-control-allow-origin"] == origin
    for method in ("GET", "DELETE"):
        asked = {"Origin": origin, "Access-Control-Request-Method": method}
        assert ask(server, "/v1/pair", asked, "OPTIONS")[0] == 403
        assert ask(server, "/v1/pair", {"Origin": origin}, method)[0] == 403
    for path in ("/v1/hello", "/v1/pair/", "/v1/pairs", "/v1//pair", "/V1/PAIR", "/health"):
        assert ask(server, path, preflight, "OPTIONS")[0] == 403, path
        assert ask(server, path, {"Origin": origin, **JSON}, "POST", "{}")[0] == 403, path


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "",
        "chrome-extension://",
        "chrome-extension://abcdefghijklmnopabcdefghijklmno",
        "chrome-extension://abcdefghijklmnopabcdefghijklmnopa",
        "chrome-extension://abcdefghijklmnopabcdefghijklmnoq",
        "chrome-extension://ABCDEFGHIJKLMNOPABCDEFGHIJKLMNOP",
        "chrome-extension://ponmlkjihgfedcbaponmlkjihgfedcba/",
        "chrome-extension://ponmlkjihgfedcbaponmlkjihgfedcba.evil.example",
        "https://chrome-extension://ponmlkjihgfedcbaponmlkjihgfedcba",
        "moz-extension://0A1B2C3D-0000-4000-8000-00000000000F",
        "moz-extension://0a1b2c3d-0000-4000-8000-00000000000f:80",
        "moz-extension://0a1b2c3d00004000800000000000000f",
        "moz-extension-id:owl@birds.example",
        "safari-web-extension://0a1b2c3d-0000-4000-8000-00000000000f",
    ],
)
def test_what_is_not_quite_an_extension_may_not_even_ask(paired: Paired, origin: str) -> None:
    for method in ("POST", "OPTIONS"):
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST", **JSON}
        status, found, data = ask(paired.server, "/v1/pair", headers, method, "{}")
        assert (status, json.loads(data)["code"]) == (403, "origin-not-allowed")
        assert "access-control-allow-origin" not in found
    assert paired.state() == paired.before


def test_an_add_on_of_firefox_is_let_in_from_where_it_said(tmp_path: Path) -> None:
    """Its native id is no origin; the one that its requests have is kept with its token."""
    other = OWL.replace("0a1b", "ffff")
    with LiveServer(tmp_path) as live:
        made = live.owner.post("/v1/clients", json={"extension_id": "owl@birds.example"}).json()
        assert ask(live, "/v1/models", {"Origin": OWL})[0] == 403
        store = live.gateway.clients
        token = live.on_its_loop(store.issue_token(made["id"], OWL))
        elsewhere = live.on_its_loop(store.issue_token(made["id"], other))
        for origin, held, expected in (
            (OWL, token, 200), (OWL, elsewhere, 403), (other, elsewhere, 200), (other, token, 403),
        ):  # fmt: skip
            headers = {"Origin": origin, "Authorization": f"Bearer {held}"}
            assert ask(live, "/v1/models", headers)[0] == expected


# ---- wrong tokens -------------------------------------------------------------------------------


def test_after_twenty_wrong_tokens_no_token_is_looked_at_for_a_while(tmp_path: Path) -> None:
    with LiveServer(tmp_path) as live:
        live.owner.post("/v1/clients", json={"extension_id": FOX.rpartition("/")[2]})
        client = live.gateway.clients.of_origin(FOX)
        assert client
        right = {
            "Authorization": f"Bearer {live.on_its_loop(live.gateway.clients.issue_token(client.id))}"
        }
        browser = {"Sec-Fetch-Site": "none"}
        for _ in range(MOST):
            wrong = {"Authorization": f"Bearer {secrets.token_urlsafe(32)}"}
            assert ask(live, "/v1/models", {**browser, **wrong})[0] == 401
        for token in (wrong, right, {"Authorization": f"Bearer {TOKEN}"}):
            for headers in (browser, {"Origin": FOX}):
                status, found, data = ask(live, "/v1/models", {**headers, **token})
                assert (status, json.loads(data)["code"]) == (429, "rate-limited")
                assert 0 < int(found["retry-after"]) <= WINDOW_S
        assert found["access-control-allow-origin"] == FOX
        # Who needs none is not held up, and the owner at this machine is heard.
        assert ask(live, "/v1/models", {})[0] == 200
        assert live.owner.get("/v1/clients").status_code == 200
        assert ask(live, "/health", browser)[0] == 200


def test_keys_that_sdks_send_where_none_is_needed_are_not_counted(server: LiveServer) -> None:
    wrong = {"Authorization": "Bearer sk-local"}
    for _ in range(2 * MOST):
        assert ask(server, "/v1/models", wrong)[0] == 200
    assert ask(server, "/v1/models", {**wrong, "Sec-Fetch-Site": "none"})[0] == 401


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_window_slides_and_each_peer_has_its_own() -> None:
    clock = Clock()
    counted = WrongTokens(clock)
    for number in range(MOST):
        assert counted.wait_s("10.0.0.1") == 0
        counted.note("10.0.0.1", str(number))
        clock.now += 1
    assert counted.wait_s("10.0.0.1") == WINDOW_S - MOST
    assert counted.wait_s("10.0.0.2") == 0
    clock.now += WINDOW_S - MOST
    assert counted.wait_s("10.0.0.1") == 0  # one may be tried, and the next one has to wait
    counted.note("10.0.0.1", "another")
    assert counted.wait_s("10.0.0.1") == 1


def test_the_same_wrong_token_again_is_no_guess() -> None:
    """As a client sends it that has not heard of its end."""
    clock = Clock()
    counted = WrongTokens(clock)
    for _ in range(5 * MOST):
        counted.note("10.0.0.1", "revoked")
        clock.now += 0.1
    for number in range(MOST - 1):
        assert counted.wait_s("10.0.0.1") == 0
        counted.note("10.0.0.1", str(number))
    assert counted.wait_s("10.0.0.1") > 0


def test_a_network_of_ipv6_is_one_peer_and_what_is_remembered_is_bounded() -> None:
    counted = WrongTokens(Clock())
    for number in range(MOST):
        counted.note(f"2001:db8::{number:x}", str(number))
    assert counted.wait_s("2001:db8::ffff") > 0
    assert counted.wait_s("2001:db8:0:1::1") == 0
    assert counted.wait_s("") == counted.wait_s("::1") == 0
    for number in range(2 * MOST_PEERS):
        counted.note(f"10.0.{number // 256}.{number % 256}", "")
    assert len(counted._tried) == MOST_PEERS
