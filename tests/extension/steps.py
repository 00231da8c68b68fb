"""What a test has, and what it does in a panel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from playwright.sync_api import Page

from tests.bridge import NativeClient
from tests.extension.chromium import ORIGIN, Chromium
from tests.live import LiveServer, eventually

TRANSPORTS: Final = ("native", "http", "webrtc")
SLOW: Final = "fake/slow"


@dataclass
class Bridge:
    """A server that the browser's host leads to, and the browser. The extension is approved."""

    server: LiveServer
    browser: Chromium
    token: str

    def panel(self, transport: str = "native", **settings: Any) -> Page:
        """A panel in a tab of its own, once it is ready."""
        self.settle(transport, **settings)
        page = self.browser.page()
        page.wait_for_selector("#connection-button[data-state=connected]")
        page.wait_for_selector("#prompt:enabled")
        return page

    def settle(self, transport: str, **settings: Any) -> None:
        token = None if transport == "native" else self.token
        kept = {"transport": transport, "url": self.server.url, "token": token, **settings}
        self.browser.keep(**kept)

    def library(self, transport: str = "native", **options: Any) -> Page:
        """A page that has the client library, and a client as `agent`."""
        page = self.browser.page("README.md")
        more = {"transports": [transport], "url": self.server.url, "token": self.token, **options}
        page.evaluate(
            """async (options) => {
              globalThis.library = await import("/client/tabagent.js");
              globalThis.agent = new library.TabAgent(options);
            }""",
            more,
        )
        return page


def fresh_token(server: LiveServer) -> str:
    """What the extension would be given over its native host."""
    with NativeClient(server, ORIGIN + "/") as client:
        return str(client.reply("pair")["data"]["token"])


def ask(page: Page, text: str) -> None:
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")


def answer(page: Page, timeout_s: float = 15) -> str:
    """The last answer, once it has ended."""
    page.wait_for_selector("#send:visible", timeout=timeout_s * 1000)
    assert page.locator(".turn:last-child .card.bad").all_inner_texts() == []
    return page.locator(".turn.answer .body").last.inner_text()


def waited(page: Page, condition: Callable[[], Any], timeout_s: float = 5, what: str = "") -> Any:
    """As `eventually`, while the browser's own events are heard."""

    def look() -> Any:
        page.wait_for_timeout(20)
        return condition()

    return eventually(look, timeout_s, what)


def count(to: int) -> str:
    """What the fake model says."""
    return " ".join(map(str, range(1, to + 1)))
