"""What a person does in the panel, over each way that leads to the server."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import expect

from native_host.install import EXTENSION_ID
from tests.extension.chromium import EXTENSION
from tests.extension.steps import SLOW, TRANSPORTS, Bridge, answer, ask, count
from tests.live import FAKE, eventually


def test_it_loads_unpacked_and_asks_for_little(bridge: Bridge) -> None:
    assert bridge.browser.worker.url.split("/")[2] == EXTENSION_ID  # which its key makes
    manifest = json.loads((EXTENSION / "manifest.json").read_text())
    assert sorted(manifest["permissions"]) == [
        "activeTab", "contextMenus", "nativeMessaging", "scripting", "sidePanel", "storage",
    ]  # fmt: skip
    assert manifest["host_permissions"] == ["http://127.0.0.1/*", "http://localhost/*"]
    opens = bridge.browser.worker.evaluate("chrome.sidePanel.getPanelBehavior()")
    assert opens == {"openPanelOnActionClick": True}


def luminance(colour: str) -> float:
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_that_people_need(scheme: str) -> None:
    """4.5 for text, 3 for what outlines a control (WCAG 2.2, 1.4.3 and 1.4.11)."""
    style = (EXTENSION / "side_panel.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    given = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", light))
    if scheme == "dark":
        given |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", dark))
    pairs = {
        ("ink", "paper"): 4.5, ("ink", "raised"): 4.5, ("ink", "tint"): 4.5, ("ink", "bad-tint"): 4.5,
        ("quiet", "paper"): 4.5, ("quiet", "raised"): 4.5, ("quiet", "bad-tint"): 4.5,
        ("accent", "paper"): 4.5, ("accent", "tint"): 4.5, ("on-accent", "accent"): 4.5,
        ("bad", "bad-tint"): 4.5, ("field", "paper"): 3,
    }  # fmt: skip
    poor = {}
    for (one, other), least in pairs.items():
        low, high = sorted(luminance(given[name]) for name in (one, other))
        ratio = (high + 0.05) / (low + 0.05)
        if ratio < least:
            poor[one, other] = round(ratio, 2)
    assert poor == {}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_answer_streams_to_its_end(bridge: Bridge, transport: str) -> None:
    page = bridge.panel(transport)
    ask(page, "30 sleep")
    expect(page.locator(".writing .body")).to_contain_text("5 6")
    assert page.locator("#stop").is_visible()
    assert answer(page) == count(30)
    assert page.locator(".turn.user").inner_text() == "30 sleep"
    # Read out once, when it is whole, and not word by word.
    expect(page.locator("#announcer")).to_have_text(f"Answer: {count(30)} ")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_stop_ends_it_and_what_there_is_of_it_stays(bridge: Bridge, transport: str) -> None:
    page = bridge.panel(transport)
    ask(page, "1000 sleep")
    expect(page.locator(".writing .body")).to_contain_text("5 6")
    page.click("#stop")
    said = answer(page)
    assert count(1000).startswith(said)
    assert len(said.split()) >= 6
    eventually(lambda: bridge.server.idle(), 2, "the slot is not free")
    page.reload()
    page.wait_for_selector("#prompt:enabled")
    page.click("#sessions-button")
    page.locator("#sessions .open").first.click()
    expect(page.locator(".turn.answer .body")).to_have_text(said)  # the server kept the same


def test_models_are_listed_and_load_at_first_use(bridge: Bridge) -> None:
    page = bridge.panel()
    options = page.locator("#model option").evaluate_all("all => all.map(one => one.value)")
    assert set(options) == {"", FAKE, SLOW, "tabagent/guide"}  # none that cannot chat
    page.select_option("#model", SLOW)
    ask(page, "5")
    expect(page.locator("#loading-text")).to_contain_text("Loading slow")
    assert answer(page) == count(5)
    expect(page.locator("#loading")).to_be_hidden()
    expect(page.locator(f'optgroup[label="Loaded"] option[value="{SLOW}"]')).to_be_attached()
    assert page.locator(".meta").inner_text().startswith("slow · 5 tokens")
    bridge.server.owner.post("/v1/models/unload", json={"model": SLOW, "force": True})


def test_chats_are_found_renamed_and_deleted(bridge: Bridge) -> None:
    page = bridge.panel()
    ask(page, "3 potatoes")
    answer(page)
    expect(page.locator("#title")).to_have_text("3 potatoes")
    page.click("#new-button")
    ask(page, "4 turnips")
    answer(page)
    page.click("#sessions-button")
    page.fill("#sessions input", "potatoes")
    expect(page.locator("#sessions .open")).to_have_count(1)
    page.locator("#sessions .rename-button").click()
    page.fill("#sessions .rename", "Roots")
    page.press("#sessions .rename", "Enter")
    expect(page.locator("#sessions .open b")).to_have_text("Roots")
    page.locator("#sessions .open").click()
    expect(page.locator("#title")).to_have_text("Roots")
    expect(page.locator(".turn.answer .body")).to_have_text("1 2 3")
    page.click("#sessions-button")
    page.fill("#sessions input", "Roots")
    expect(page.locator("#sessions .open")).to_have_count(1)
    page.locator("#sessions .delete-button").click()
    page.locator("#sessions .delete-button").click()  # it asked
    expect(page.locator("#sessions .none")).to_have_text("No chat has these words.")
    expect(page.locator("#title")).to_have_text("New chat")


def test_a_failure_says_what_happened_and_can_be_tried_again(bridge: Bridge) -> None:
    page = bridge.panel()
    ask(page, "10 crash")
    page.wait_for_selector(".card.bad[role=alert]")
    first = page.locator(".card.bad .note").inner_text()  # with the id of the request
    assert "worker-crashed" in first
    page.locator(".card.bad .again").click()
    expect(page.locator(".card.bad .note")).not_to_have_text(first)
    expect(page.locator(".card.bad .note")).to_contain_text("worker-crashed")
    expect(page.locator(".turn")).to_have_count(2)  # in the same place
    page.click("#new-button")
    ask(page, "3")
    assert answer(page, 30) == count(3)


def test_an_answer_is_made_anew_in_its_place(bridge: Bridge) -> None:
    page = bridge.panel()
    ask(page, "7")
    answer(page)
    page.locator(".again").click()
    page.wait_for_selector(".turn.answer .again")
    assert answer(page) == count(7)
    expect(page.locator(".turn")).to_have_count(2)


def test_the_keyboard_is_enough(bridge: Bridge) -> None:
    page = bridge.panel()
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.type("1000 sleep")
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Backspace")
    page.keyboard.press("Enter")
    page.wait_for_selector("#stop:visible")
    page.keyboard.press("Escape")
    answer(page)
    expect(page.locator("#prompt")).to_be_focused()
    seen = []
    for _ in range(12):
        page.keyboard.press("Shift+Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
    for place in ("connection-button", "new-button", "sessions-button"):
        assert place in seen, seen
    page.focus("#sessions-button")
    page.keyboard.press("Enter")
    expect(page.locator("#sessions input")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#sessions-button")).to_be_focused()
    unnamed = page.evaluate("""[...document.querySelectorAll("button, select, textarea, input")]
      .filter(one => !(one.ariaLabel || one.innerText.trim() || one.labels?.length)).length""")
    assert unnamed == 0


def test_it_fits_a_narrow_panel_in_both_colour_schemes(bridge: Bridge) -> None:
    page = bridge.panel()
    page.set_viewport_size({"width": 320, "height": 560})
    ask(page, "200")
    answer(page)
    for place in ("#sessions-button", "#connection-button"):
        page.click(place)
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        page.keyboard.press("Escape")
    for scheme, ink in (("light", "rgb(28, 32, 36)"), ("dark", "rgb(230, 232, 234)")):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # one of its literals
        assert page.evaluate("getComputedStyle(document.body).color") == ink
