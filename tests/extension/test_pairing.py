"""How an extension comes to be let in, with what a person sees and does, and how it is shut out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Playwright, expect

from native_host.install import EXTENSION_ID
from tests.bridge import approve
from tests.extension.chromium import Chromium, chromium, install_host, remove_host
from tests.extension.steps import TRANSPORTS, Bridge, answer, ask, count, fresh_token
from tests.live import FAKE, LiveServer, eventually, fake_models

NOWHERE = "http://127.0.0.1:9"
WAIT_MS = 20_000


def tabagent(*words: str | Path) -> str:
    command = [sys.executable, "-m", "tabagent", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def lone(
    playwright: Playwright, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Chromium]:
    """A browser that knows no host yet; what a host starts takes any port."""
    monkeypatch.setenv("TABAGENT_PORT", "0")
    with chromium(playwright, tmp_path / "profile") as browser:
        yield browser


def command_of(page: Page) -> str:
    return page.locator("#fix .command code").first.inner_text()


def test_from_nothing_to_the_first_answer(lone: Chromium, tmp_path: Path) -> None:
    data = tmp_path / "data"
    lone.keep(transport="auto", url=NOWHERE)
    page = lone.page()
    expect(page.locator("#fix h2")).to_have_text("TabAgent is not set up here")
    words = command_of(page).split()
    assert words == ["tabagent", "native", "install", "--browser", "chromium"]
    here = ("--user-data-dir", lone.profile, "--data-dir", data)  # a test's browser, and place
    tabagent(*words[1:], *here, "--no-approve")
    # The host starts the server, which does not know us yet.
    code = page.locator("#pairing-code")
    code.wait_for(timeout=WAIT_MS)
    words = command_of(page).split()
    assert words == ["tabagent", "clients", "approve", code.inner_text()]
    try:
        tabagent(*words[1:], "--data-dir", data)
        expect(page.locator("#connection-label")).to_have_text("Native", timeout=WAIT_MS)
        expect(page.locator("#fix")).to_be_hidden()
        ask(page, "Hello")
        assert answer(page, 30)
        assert page.evaluate("chrome.storage.local.get('token').then(kept => kept.token)")
        # Who stops the server means it: a panel that is open does not have it started again.
        tabagent("stop", "--data-dir", data)
        expect(page.locator("#fix h2")).to_have_text("TabAgent was stopped")
        page.wait_for_timeout(700)
        assert not (data / "runtime.json").exists()
        page.click("#fix .primary")
        expect(page.locator("#connection-label")).to_have_text("Native", timeout=WAIT_MS)
        expect(page.locator(".turn.answer")).to_be_visible()
    finally:
        page.close()
        tabagent("stop", "--data-dir", data)


def test_an_extension_that_was_let_in_at_the_installation_asks_for_nothing(
    lone: Chromium, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    here = ("--user-data-dir", lone.profile, "--data-dir", data)
    tabagent("native", "install", "--browser", "chromium", *here)
    page = lone.page()
    try:
        expect(page.locator("#connection-label")).to_have_text("Native", timeout=WAIT_MS)
    finally:
        page.close()
        tabagent("stop", "--data-dir", data)


def test_over_http_it_is_let_in_by_its_code_alone(lone: Chromium, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with LiveServer(tmp_path / "data", extra=fake_models(), model=FAKE) as server:
        lone.keep(transport="http", url=server.url)
        page = lone.page()
        code = page.locator("#pairing-code")
        expect(page.locator("#announcer")).to_contain_text(code.inner_text())
        approve(server, EXTENSION_ID)  # that much any extension could have written
        page.wait_for_timeout(300)
        assert code.is_visible()
        said = {"code": code.inner_text()}
        assert server.owner.post("/v1/clients", json=said).status_code == 200
        expect(page.locator("#connection-label")).to_have_text("HTTP")
        ask(page, "5")
        assert answer(page) == count(5)
        page.close()


def test_a_server_that_comes_later_is_found_by_itself(lone: Chromium, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    server = LiveServer(tmp_path / "data", extra=fake_models(), model=FAKE)
    lone.keep(transport="http", url=NOWHERE)
    page = lone.page()
    expect(page.locator("#fix h2")).to_have_text("TabAgent is not running")
    assert command_of(page) == "tabagent serve"
    with server:
        page.click("#fix .plain")
        page.fill("#connection input", server.url)
        page.click("#connection .primary")
        expect(page.locator("#pairing-code")).to_be_visible()
        page.close()


def test_another_host_than_ours_is_said_to_be_wrong(lone: Chromium, tmp_path: Path) -> None:
    install_host(lone.profile, tmp_path / "data")
    manifest = lone.profile / "NativeMessagingHosts" / "tabagent.host.json"
    manifest.write_text(manifest.read_text().replace(EXTENSION_ID, "a" * 32))
    lone.keep(transport="native")
    page = lone.page()
    expect(page.locator("#fix p").first).to_contain_text("not for this extension")
    remove_host(lone.profile)
    page.click("#fix .primary")
    expect(page.locator("#fix p").first).to_contain_text("does not find TabAgent")
    page.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_who_is_revoked_is_out_within_a_second(bridge: Bridge, transport: str) -> None:
    server = bridge.server
    page = bridge.library(transport)
    page.evaluate(
        """async (model) => {
          const asked = {model, messages: [{role: "user", content: "1000 sleep"}]};
          globalThis.ended = null;
          agent.chat(asked).whole().catch((error) => (ended = error.code));
          await agent.health();
        }""",
        FAKE,
    )
    eventually(lambda: server.loaded().get("slots_used"), 10)
    try:
        assert server.owner.delete(f"/v1/clients/{EXTENSION_ID}").status_code == 200
        for _ in range(50):
            page.wait_for_timeout(20)
            if page.evaluate("ended"):
                break
        known = {"pairing-required", "unauthorized", "origin-not-allowed"}
        assert page.evaluate("ended") in known
        assert page.evaluate("agent.models().catch(error => error.code)") in known
        eventually(server.idle, 1.5, "its answer goes on")  # a worker tells its state now and then
    finally:
        approve(server, EXTENSION_ID)
        bridge.token = fresh_token(server)


def test_a_panel_that_is_shut_out_asks_to_be_let_in_again(bridge: Bridge) -> None:
    server = bridge.server
    page = bridge.panel("http")
    ask(page, "1000 sleep")
    expect(page.locator(".writing .body")).to_contain_text("3 4")
    try:
        server.owner.delete(f"/v1/clients/{EXTENSION_ID}")
        code = page.locator("#pairing-code")
        code.wait_for()
        said = {"code": code.inner_text()}
        assert server.owner.post("/v1/clients", json=said).status_code == 200
        expect(page.locator("#connection-label")).to_have_text("HTTP")
        expect(page.locator(".turn.answer .body")).to_contain_text("3 4")  # it is still there
        ask(page, "4")
        assert answer(page) == count(4)
    finally:
        approve(server, EXTENSION_ID)
        bridge.token = fresh_token(server)
