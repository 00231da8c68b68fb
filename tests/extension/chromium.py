"""A real Chromium with the extension in it, a profile of its own, and hosts that it finds there."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Playwright, Worker

from native_host.install import EXTENSION_ID, Wanted, install
from native_host.places import BROWSERS, Desktop
from tabagent import __version__
from tabagent.runtime import DataDirectory, Running
from tests.live import LiveServer, eventually

EXTENSION: Final = Path(__file__).parents[2] / "extension-manifest"
ORIGIN: Final = f"chrome-extension://{EXTENSION_ID}"
CHROMIUM: Final = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS: Final = [
    "--headless=new",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-search-engine-choice-screen",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--allow-loopback-in-peer-connection",
    *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
]
SERVE: Final = [sys.executable, "-m", "tabagent", "serve"]


def install_host(profile: Path, data_dir: Path, command: Sequence[str] = SERVE) -> None:
    """What `tabagent native install --user-data-dir` does."""
    wanted = Wanted(data_dir, command, [EXTENSION_ID], user_data_dir=profile)
    install(Desktop(), [BROWSERS["chromium"]], wanted)


def remove_host(profile: Path) -> None:
    shutil.rmtree(profile / "NativeMessagingHosts", ignore_errors=True)


def announce(server: LiveServer) -> None:
    """Let hosts find a server that runs in this process."""
    native = server.gateway.native.address
    running = Running(os.getpid(), server.url, __version__, native)
    DataDirectory(server.settings.data_dir).announce(running)


class Chromium:
    """One browser. Everything that it complains of is kept."""

    def __init__(self, context: BrowserContext, profile: Path) -> None:
        self.context, self.profile = context, profile
        self.complaints: list[str] = []
        context.set_default_timeout(15_000)
        context.on("page", self._listen)
        for page in context.pages:
            self._listen(page)

    def _listen(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._note)

    def _note(self, said: ConsoleMessage) -> None:
        # Of a status that is no success the browser tells as well; that is for the tests to judge.
        if said.type == "error" and not said.text.startswith("Failed to load resource"):
            self.complaints.append(said.text)

    @property
    def worker(self) -> Worker:
        found: Worker = eventually(
            lambda: next((w for w in self.context.service_workers if ORIGIN in w.url), None), 10
        )
        return found

    def page(self, path: str = "side_panel.html") -> Page:
        """One of the extension's own pages, as a tab."""
        page = self.context.new_page()
        page.goto(f"{ORIGIN}/{path}")
        eventually(lambda: page.evaluate("globalThis.chrome?.runtime?.id"))
        return page

    def keep(self, **settings: Any) -> None:
        """Settings of the panel, before it opens."""
        page = self.page("README.md")
        page.evaluate("settings => chrome.storage.local.set(settings)", settings)
        page.close()

    def forget(self) -> None:
        """A panel that was never used, and no other page."""
        page = self.page("README.md")
        page.evaluate("chrome.storage.local.clear().then(() => chrome.storage.session.clear())")
        for other in self.context.pages:
            if other is not page:
                other.close()
        self.context.new_page()
        page.close()
        self.complaints.clear()


@contextmanager
def chromium(
    playwright: Playwright, profile: Path, extension: Path = EXTENSION, **more: Any
) -> Iterator[Chromium]:
    more.setdefault("viewport", {"width": 400, "height": 720})
    context = playwright.chromium.launch_persistent_context(
        str(profile),
        executable_path=CHROMIUM,
        headless=False,  # the flag says it: the new headless mode has extensions
        args=[
            *FLAGS,
            f"--disable-extensions-except={extension}",
            f"--load-extension={extension}",
        ],
        **more,
    )
    try:
        yield Chromium(context, profile)
    finally:
        context.close()
