"""Pictures of the extension's panel in each of its states: `python -m scripts.screenshots FOLDER`.

A real Chromium, the real native host, a server with the fake engine: nothing is drawn by hand.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from playwright.sync_api import Page, Playwright, sync_playwright

from native_host.install import EXTENSION_ID
from tests.bridge import approve
from tests.extension.chromium import CHROMIUM, Chromium, announce, chromium, install_host
from tests.extension.side_panel import SidePanel
from tests.live import FAKE, LiveServer, fake_model, fake_models

MARKDOWN: Final = """Two ways, from the plainest to the quickest.

### With a loop

```python
def total(values):
    result = 0
    for value in values:
        result += value
    return result
```

1. It reads **every** value once.
2. It needs no memory beside `result`.
   - so it also takes *generators*

| values | loop | `sum` |
| --- | --- | --- |
| 1,000 | 21 µs | 4 µs |
| 1,000,000 | 24 ms | 4 ms |

> `sum` does the same in C.

See the [documentation](https://docs.python.org/3/library/functions.html#sum)."""
ARTICLE: Final = """<!doctype html><title>Carrot soup - The plain kitchen</title>
<style>body{font:17px/1.6 Georgia,serif;max-width:34em;margin:3em auto;padding:0 1em;color:#222}</style>
<main><h1>Carrot soup</h1>
<p>A soup of carrots is easy: boil two <b>carrots</b> for an hour, then let it rest for ten minutes.
Salt comes last, because carrots give up their own.</p>
<h2>Serving</h2>
<p>Serve it hot, with <a href="https://example.org/bread">bread</a> and a spoon of cream.
In the refrigerator it keeps for two days.</p>
<h2>What you need</h2><ul><li>Carrots: two</li><li>Cream: a spoon</li></ul></main>"""


@contextmanager
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").mkdir()
        yield Path(folder)


def panel(browser: Chromium) -> Page:
    page = browser.page()
    page.wait_for_selector("#prompt:enabled")
    return page


def ask(page: Page, text: str) -> None:
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")


def connected(browser: Chromium, server: LiveServer, folder: Path) -> None:
    page = panel(browser)
    page.screenshot(path=folder / "empty.png")
    ask(page, "800 sleep")
    page.wait_for_timeout(2200)
    page.screenshot(path=folder / "streaming.png")
    page.click("#stop")
    page.wait_for_selector("#send:visible")
    page.screenshot(path=folder / "stopped.png")
    page.select_option("#model", "fake/slow-reader")
    ask(page, "5")
    page.wait_for_timeout(350)
    page.screenshot(path=folder / "loading.png")
    page.wait_for_selector("#send:visible")
    page.click("#new-button")
    page.select_option("#model", "")
    ask(page, "10 crash")
    page.wait_for_selector(".card.bad")
    page.screenshot(path=folder / "error.png")
    markdown(page, server, folder)


def markdown(page: Page, server: LiveServer, folder: Path) -> None:
    said = [
        {"role": "user", "content": "How do I add up a list of numbers in Python?"},
        {"role": "assistant", "content": MARKDOWN, "model": FAKE},
    ]
    data = {"tabagent_session": 1, "session": {"title": "Adding up a list"}, "messages": said}
    server.owner.post("/v1/sessions/import", json={"data": data}).raise_for_status()
    page.click("#sessions-button")
    page.wait_for_selector("#sessions .open")
    page.screenshot(path=folder / "chats.png")
    page.locator("#sessions .open", has_text="Adding").click()
    page.wait_for_selector(".turn.answer table")
    page.screenshot(path=folder / "markdown.png")
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=folder / "dark.png")
    page.click("#connection-button")
    page.screenshot(path=folder / "connection-dark.png")
    page.keyboard.press("Escape")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 320, "height": 620})
    page.screenshot(path=folder / "narrow.png")
    page.close()


def cited(browser: Chromium, folder: Path) -> None:
    tab = browser.context.new_page()
    tab.set_viewport_size({"width": 760, "height": 720})
    tab.route(
        "http://127.0.0.1/soup", lambda route: route.fulfill(body=ARTICLE, content_type="text/html")
    )
    tab.goto("http://127.0.0.1/soup")
    beside = SidePanel(browser, tab)
    beside.wait("!document.getElementById('prompt').disabled")
    beside.click("#page-button")
    beside.ask("Please cite how long carrots boil")
    beside.wait("document.querySelector('.sources')")
    beside.click(".cite")
    beside.wait("document.querySelector('.cite[aria-pressed=true]')")
    tab.wait_for_timeout(600)
    beside.screenshot(folder / "cited.png")
    tab.screenshot(path=folder / "cited-page.png")
    beside.close()


def strangers(playwright: Playwright, folder: Path) -> None:
    """Before the host is there, and before the extension is approved."""
    with place() as here, chromium(playwright, here / "profile") as browser:
        browser.keep(url="http://127.0.0.1:9")
        page = browser.page()
        page.wait_for_selector("#fix .command")
        page.screenshot(path=folder / "setup.png")
        browser.keep(transport="http")
        page.reload()
        page.wait_for_selector("#fix .command")
        page.screenshot(path=folder / "unreachable.png")
        with LiveServer(here / "data", extra=fake_models(), model=FAKE) as server:
            browser.keep(url=server.url)
            page.reload()
            page.wait_for_selector("#pairing-code")
            page.screenshot(path=folder / "pairing.png")
            page.emulate_media(color_scheme="dark")
            page.screenshot(path=folder / "pairing-dark.png")
            page.close()


def main() -> None:
    if CHROMIUM is None:
        sys.exit("no Chromium here: sh scripts/install_browser.sh")
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "build/screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    models = [*fake_models(), fake_model("fake/slow-reader", "/slow")]
    with sync_playwright() as playwright:
        with (
            place() as here,
            LiveServer(here / "data", extra=models, model=FAKE, memory_vectors=False) as server,
        ):
            install_host(here / "profile", here / "data")
            announce(server)
            approve(server, EXTENSION_ID)
            with chromium(playwright, here / "profile") as browser:
                browser.keep(url=server.url)
                connected(browser, server, folder)
                cited(browser, folder)
        strangers(playwright, folder)
    print(*sorted(path.name for path in folder.glob("*.png")))


if __name__ == "__main__":
    main()
