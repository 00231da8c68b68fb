"""One browser and one server for all of these tests; each begins with a panel that is new."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Playwright, sync_playwright

from native_host.install import EXTENSION_ID
from tests.bridge import approve
from tests.extension.chromium import CHROMIUM, announce, chromium, install_host
from tests.extension.steps import SLOW, Bridge, fresh_token
from tests.live import FAKE, LiveServer, fake_model, fake_models

PAGE: Final = """<!doctype html><title>Carrot soup</title>
<main><h1>Carrot soup</h1>
<p>A soup of carrots is easy: boil two <b>carrots</b> for an
   hour, then let it rest.</p>
<h2>Serving</h2>
<p>Serve it hot, with <a href="https://example.org/bread">bread</a> and a spoon of cream.
It keeps for two days.</p>
<ul><li>Carrots: two</li><li>Cream: a spoon</li></ul></main>
<script>document.body.append("nothing that is read")</script>"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CHROMIUM is None:
        reason = "NO BROWSER: neither chromium, chromium-browser nor google-chrome"
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="package")
def web() -> Iterator[str]:
    """The address of a page that is no extension's."""

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path.startswith("/soup")
            self.send_response(200 if found else 204)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(PAGE.encode() if found else b"")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/soup"
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture(scope="package")
def shared(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    place = tmp_path_factory.mktemp("bridge")
    (place / "data").mkdir()
    models = [*fake_models(), fake_model(SLOW, "/slow")]
    with LiveServer(
        place / "data",
        extra=models,
        model=FAKE,
        allowed_hosts="127.0.0.1",  # whatever the port: some tests stand in between
        # What the server asks the model for by itself would make it misbehave as well.
        memory_titles=False,
        memory_summaries=False,
        memory_entities=False,
    ) as server:
        profile = place / "profile"
        install_host(profile, server.settings.data_dir)
        announce(server)
        approve(server, EXTENSION_ID)
        with chromium(playwright, profile) as browser:
            yield Bridge(server, browser, fresh_token(server))


@pytest.fixture
def bridge(shared: Bridge) -> Iterator[Bridge]:
    shared.browser.forget()
    yield shared
    assert shared.browser.complaints == []
