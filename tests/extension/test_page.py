"""Asking about the page in the tab, and what is selected there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.extension.side_panel import SidePanel
from tests.extension.steps import TRANSPORTS, Bridge, count
from tests.live import eventually

MARKED = "[...(CSS.highlights.get('tabagent-passage') ?? [])].map(String).join(' | ')"
ENDED = "!document.getElementById('send').hidden && document.querySelector('.turn.answer .foot')"


@pytest.fixture
def tab(bridge: Bridge, web: str) -> Page:
    page = bridge.browser.context.new_page()
    page.goto(web)
    return page


@pytest.fixture
def panel(bridge: Bridge, tab: Page) -> Iterator[SidePanel]:
    bridge.settle("native")
    panel = SidePanel(bridge.browser, tab)
    yield panel
    panel.close()


def ask_page(panel: SidePanel, question: str) -> None:
    panel.wait("!document.getElementById('prompt').disabled")
    panel.click("#page-button")
    panel.ask(question)
    panel.wait(f"{ENDED} || document.querySelector('.card.bad')")
    assert panel.text(".card.bad") == ""


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_page_is_asked_and_what_is_cited_is_marked_in_it(
    bridge: Bridge, tab: Page, transport: str
) -> None:
    bridge.settle(transport)
    panel = SidePanel(bridge.browser, tab)
    ask_page(panel, "Please cite how long carrots boil")
    assert panel.text("#context span") == "Carrot soup"
    assert panel.text(".turn.answer .body") == "Carrot soup 1."  # the mark is a button
    panel.click(".turn.answer .cite")
    panel.wait("document.querySelector('.cite[aria-pressed=true]')")
    marked = eventually(lambda: tab.evaluate(MARKED))
    assert "boil two carrots for an\n   hour, then let it rest." in marked
    assert "Serve it hot, with bread" in marked  # though it was a link
    assert "nothing that is read" not in marked
    panel.close()


def test_of_a_passage_the_sentence_that_is_meant_is_marked_once_more(
    bridge: Bridge, tab: Page
) -> None:
    page = bridge.browser.page("README.md")
    tab.bring_to_front()
    found = page.evaluate("""async () => {
      const { showPassage } = await import("/panel/page.js");
      const [{ id, url }] = await chrome.tabs.query({ active: true });
      const text = "A soup of carrots is easy: boil two carrots for an hour, then let it rest.\\n\\n" +
        "## Serving\\n\\nServe it hot, with [bread](https://example.org/bread) and a spoon of cream. " +
        "It keeps for two days.";
      return showPassage({ tabId: id, url, text, claim: "You can keep the soup: it keeps two days" });
    }""")
    assert found is True
    assert "then let it rest" in tab.evaluate(MARKED)
    assert tab.evaluate(MARKED.replace("passage", "sentence")) == "It keeps for two days"


def test_a_page_that_has_changed_is_still_searched_and_else_said_to_be_gone(
    panel: SidePanel, tab: Page
) -> None:
    ask_page(panel, "Please cite how long carrots boil")
    tab.evaluate("document.querySelector('h1').textContent = 'Something else altogether'")
    panel.click(".sources button")
    marked = eventually(lambda: tab.evaluate(MARKED))
    assert "then let it rest" in marked
    assert "altogether" not in marked
    tab.evaluate("document.querySelector('main').remove()")
    panel.click(".sources button")
    panel.wait("document.querySelector('.missing')")
    assert tab.evaluate(MARKED) == ""


def test_a_passage_opens_in_a_new_tab_when_its_page_is_gone(
    bridge: Bridge, panel: SidePanel, tab: Page, web: str
) -> None:
    ask_page(panel, "Please cite how long carrots boil")
    tab.goto("about:blank")
    with bridge.browser.context.expect_page() as opened:
        panel.click(".sources button")
    opened.value.wait_for_load_state()
    assert opened.value.url.partition("#")[0] == web


def test_citations_are_there_when_the_panel_is_opened_again(
    bridge: Bridge, panel: SidePanel, tab: Page
) -> None:
    ask_page(panel, "Please cite how long carrots boil")
    page = bridge.browser.page()
    page.wait_for_selector("#prompt:enabled")
    page.click("#sessions-button")
    page.locator("#sessions .open").first.click()
    page.locator(".cite").click()
    expect(page.locator(".cite")).to_have_attribute("aria-pressed", "true")
    assert "then let it rest" in eventually(lambda: tab.evaluate(MARKED))


def test_a_page_that_no_extension_may_read_says_what_to_do(bridge: Bridge, tab: Page) -> None:
    bridge.settle("native")
    tab.goto("chrome://version")
    panel = SidePanel(bridge.browser, tab)
    panel.wait("!document.getElementById('prompt').disabled")
    panel.click("#page-button")
    panel.ask("What is this?")
    panel.wait("document.querySelector('.card.bad')")
    assert "Click TabAgent's button in the toolbar" in panel.text(".card.bad")
    panel.close()


def test_a_selection_is_summarised_in_a_chat_of_its_own(bridge: Bridge, tab: Page) -> None:
    """What the menu does once it is clicked; the menu itself belongs to the browser."""
    page = bridge.panel()
    made = bridge.browser.worker.evaluate("""() => new Promise((done) =>
      chrome.contextMenus.update("summarise-selection", {enabled: true},
        () => done(chrome.runtime.lastError?.message ?? "there")))""")
    assert made == "there"
    window = page.evaluate("chrome.windows.getCurrent().then(({id}) => id)")
    bridge.browser.worker.evaluate(
        """(windowId) => chrome.contextMenus.onClicked.dispatch(
             {menuItemId: "summarise-selection", selectionText: "Count to 7 at once"},
             {windowId, title: "Numbers"})""",
        window,
    )
    expect(page.locator(".turn.answer .body")).to_have_text(count(7))
    expect(page.locator(".turn.user")).to_contain_text("Summarise this selection from “Numbers”")
    bridge.browser.complaints.clear()  # without a person's click no panel is opened
