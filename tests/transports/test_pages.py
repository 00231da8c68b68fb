"""The pages that a person opens: what they say, where they lead, what they let in."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import io
import json
import re
import shlex
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from tabagent import __version__
from tabagent.app import api_description
from tabagent.errors import CATALOGUE, TabAgentError
from tests.live import FAKE, LiveServer, fake_model

VOID = {"meta", "link"}
HTML = "text/html; charset=utf-8"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    place = tmp_path_factory.mktemp("pages")
    with LiveServer(place, extra=[fake_model()], model=FAKE) as running:
        yield running


class Page(HTMLParser):
    """A page as its reader gets it. Raises when a tag is not closed where it should be."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__()
        assert response.status_code == 200
        assert response.headers["content-type"] == HTML
        self.links: list[str] = []
        self.tags: list[str] = []
        self.code: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(response.text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        assert not any(name.startswith("on") or name == "style" for name in values)
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)
        if tag == "html":
            assert values["lang"] == "en"
        self.links += [values[key] or "" for key in ("href", "src") if key in values]
        if tag == "pre":
            self.code.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data
        if "pre" in self._open:
            self.code[-1] += data


def read(server: LiveServer, path: str) -> Page:
    page = Page(server.client.get(path))
    for tag in ("title", "header", "main", "h1"):
        assert page.tags.count(tag) == 1, (path, tag)
    return page


def raw(server: LiveServer, path: str) -> tuple[int, dict[str, object]]:
    """GET exactly this path: clients tidy it up otherwise."""
    connection = http.client.HTTPConnection("127.0.0.1", server.gateway.port, timeout=10)
    with contextlib.closing(connection):
        connection.putrequest("GET", path)
        connection.endheaders()
        with connection.getresponse() as response:
            return response.status, json.loads(response.read())


def test_the_front_page_says_what_runs_and_leads_on(server: LiveServer) -> None:
    page = read(server, "/")
    assert FAKE in page.text
    assert __version__ in page.text
    assert {"/swagger-ui/", "/api-doc/openapi.json", "/problems/", "/health"} <= set(page.links)


def test_the_commands_on_the_front_page_work(server: LiveServer) -> None:
    terminal, shell, python = read(server, "/").code
    assert terminal == "tabagent chat"
    command = shlex.split(shell.replace("\\\n", ""))
    assert command[:2] == ["curl", "-N"] and command[3::2] == ["-H", "-d"]
    name, _, value = command[4].partition(": ")
    answer = httpx.post(command[2], headers={name: value}, content=command[6], trust_env=False)
    assert answer.status_code == 200
    assert answer.text.endswith("data: [DONE]\n\n")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        names: dict[str, object] = {}
        exec(python, names)
    getattr(names["client"], "close")()  # noqa: B009  # the snippet's own client
    assert said.getvalue() == "1 2 3 4 5 6 7 8 9 10 \n"


def test_a_strange_model_name_stays_text(tmp_path: Path) -> None:
    strange = '<script>alert("1")</script>&amp;'
    with LiveServer(tmp_path, model=strange) as server:
        page = read(server, "/")
    assert page.tags.count("script") == 0
    assert strange in page.text
    assert f"model={json.dumps(strange)}" in page.code[-1]


def test_the_list_of_problems_has_them_all(server: LiveServer) -> None:
    page = read(server, "/problems/")
    assert {f"/problems/{slug}" for slug in CATALOGUE} <= set(page.links)
    assert all(error.title in page.text for error in CATALOGUE.values())


@pytest.mark.parametrize("error", CATALOGUE.values(), ids=lambda error: error.slug)
def test_every_problem_has_a_page_that_says_what_to_do(
    server: LiveServer, error: type[TabAgentError]
) -> None:
    page = read(server, f"/problems/{error.slug}")
    assert error.title in page.text
    assert error.advice.replace("`", "") in page.text
    assert f"{error.status} " in page.text
    assert ("may succeed" if error.retryable else "will not help") in page.text
    for member in re.findall(r"`(\w+)`", (error.__doc__ or "").partition("Members:")[2]):
        assert member in page.text
    sent = json.loads(page.code[0])
    assert (sent["type"], sent["code"]) == (f"/problems/{error.slug}", error.slug)


def test_no_page_has_a_dead_link(server: LiveServer) -> None:
    seen: set[str] = set()
    pending = ["/", "/swagger-ui/"]
    while pending:
        path = pending.pop()
        seen.add(path)
        response = server.client.get(path)
        assert response.status_code == 200, path
        if response.headers["content-type"] == HTML:
            links = {str(httpx.URL(path).join(link)) for link in Page(response).links}
            inside = {link for link in links if not link.startswith("data:")}
            assert all(link.startswith("/") for link in inside), path
            pending += inside - seen - set(pending)
    assert len(seen) > len(CATALOGUE)


def test_an_unknown_problem_is_a_problem(server: LiveServer) -> None:
    response = server.client.get("/problems/bad-luck")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "not-found"


@pytest.mark.parametrize("path", ["/swagger-ui", "/problems"])
def test_the_slash_may_be_forgotten(server: LiveServer, path: str) -> None:
    response = server.client.get(path)
    assert response.status_code == 307
    assert httpx.URL(server.url).join(response.headers["location"]).path == path + "/"
    assert server.client.get(path, follow_redirects=True).status_code == 200


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", HTML),
        ("/problems/", HTML),
        ("/problems/gone", HTML),
        ("/swagger-ui/", HTML),
        ("/swagger-ui/swagger-ui.css", "text/css; charset=utf-8"),
        ("/swagger-ui/style.css", "text/css; charset=utf-8"),
        ("/swagger-ui/swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
        ("/swagger-ui/start.js", "text/javascript; charset=utf-8"),
        ("/api-doc/openapi.json", "application/json"),
    ],
)
def test_what_is_served_says_what_it_is_and_what_it_may_do(
    server: LiveServer, path: str, kind: str
) -> None:
    response = server.client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == kind
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cross-origin-resource-policy"] == "same-origin"
    assert response.headers["cache-control"] == "no-cache"
    policy = dict(
        part.strip().partition(" ")[::2]
        for part in response.headers["content-security-policy"].split(";")
    )
    for directive in ("default-src", "base-uri", "form-action", "frame-ancestors"):
        assert policy[directive] == "'none'"
    assert policy.get("script-src") == ("'self'" if path == "/swagger-ui/" else None)
    assert "http" not in response.headers["content-security-policy"]
    assert "unsafe-eval" not in response.headers["content-security-policy"]
    style = re.search(r"<style>(.*?)</style>", response.text, re.DOTALL)
    if style and kind == HTML:
        digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
        assert policy["style-src"] == f"'sha256-{digest}'"


def test_the_description_is_the_one_of_the_table(server: LiveServer) -> None:
    assert server.client.get("/api-doc/openapi.json").json() == api_description()


def test_a_head_request_gets_the_headers_alone(server: LiveServer) -> None:
    response = server.client.head("/swagger-ui/")
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("path", ["/", "/problems/", "/swagger-ui/", "/api-doc/openapi.json"])
def test_pages_are_only_read(server: LiveServer, path: str) -> None:
    response = server.client.post(path, json={})
    assert response.status_code == 405
    assert response.json()["code"] == "method-not-allowed"


@pytest.mark.parametrize(
    "path",
    [
        "/swagger-ui/swagger-editor.css",  # in the same folder, and not asked for by our page
        "/swagger-ui/LICENSE",
        "/swagger-ui/%2e",
        "/swagger-ui/..",
        "/swagger-ui/../__init__.py",
        "/swagger-ui/..%2f__init__.py",
        "/swagger-ui/..%2F..%2F..%2F..%2Fetc%2Fpasswd",
        "/swagger-ui/%2e%2e/%2e%2e/__init__.py",
        "/swagger-ui/%252e%252e%252f__init__.py",
        "/swagger-ui/..%5c__init__.py",
        "/swagger-ui//etc/passwd",
        "/swagger-ui/%2fetc%2fpasswd",
        "/swagger-ui/swagger-ui.css%00.js",
        "/problems/..%2f..%2fhealth",
        "/problems/%3Cscript%3E",
        "/api-doc/",
        "/favicon.ico",
    ],
)
def test_nothing_else_is_served(server: LiveServer, path: str) -> None:
    status, problem = raw(server, path)
    assert (status, problem["code"]) == (404, "not-found")
    assert "<" not in json.dumps(problem)
