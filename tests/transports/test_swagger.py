"""The pages in a real browser: what is pressed there works, and nothing is fetched from elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Route, sync_playwright

from tabagent.app import GUIDE, api_description
from tabagent.catalog.models import BUILTIN
from tests.hub.fake_hub import FakeHub
from tests.live import FAKE, TOKEN, LiveServer, chat_body, fake_models
from tests.worker.tiny_pooling import RANK, write_bert

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="NO BROWSER: neither chromium, chromium-browser nor google-chrome"
)
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
INK = "getComputedStyle(document.body).color"
# What a page may not do is also reported by the browser itself; this catches what it only notes.
REPORT_VIOLATIONS = """addEventListener("securitypolicyviolation",
  event => console.error(`violates ${event.violatedDirective}: ${event.blockedURI}`))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:  # every launch has a profile of its own
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    place = tmp_path_factory.mktemp("swagger-fake")
    with LiveServer(place, extra=fake_models(), model=FAKE) as server:
        yield server


CLASSIFIES, MARKS = fake_models()[-2:]  # of which none is built in


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server of its own: the examples load and unload the built-in model, and pull another."""
    place = tmp_path_factory.mktemp("swagger-guide")
    (place / "models").mkdir()
    write_bert(place / "models" / "embedder.gguf")
    write_bert(place / "models" / "ranker.gguf", pooling=RANK, head=True)
    with (
        FakeHub({"model-Q4_K_M.gguf": GUIDE.read_bytes()}, repo="owner/repo") as hub,
        LiveServer(place, hub_endpoint=hub.url, extra=[CLASSIFIES, MARKS]) as server,
    ):
        yield server


class Visit:
    """One page that keeps what it asks for and what it complains of."""

    def __init__(self, browser: Browser, server: LiveServer, **context: Any) -> None:
        self.server = server
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.context = browser.new_context(**context)
        self.context.set_default_timeout(15_000)
        self.context.add_init_script(REPORT_VIOLATIONS)
        self.context.route("**/*", self._only_here)
        self.page = self.context.new_page()
        self.context.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda message: (
                self.complaints.append(message.text)
                if message.type in ("error", "warning")
                else None
            ),
        )

    def _only_here(self, route: Route) -> None:
        if self._elsewhere(route.request.url):
            self.asked.append(route.request.url)
            route.abort()
        else:
            route.continue_()

    def _elsewhere(self, url: str) -> bool:
        return not url.startswith((self.server.url + "/", "data:"))

    def open(self, path: str) -> Visit:
        self.page.goto(self.server.url + path)
        return self

    def open_swagger(self) -> Visit:
        self.open("/swagger-ui/").page.wait_for_selector(".opblock")
        return self

    def press(self, operation: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
        """Expand the operation, press Execute, and read the status and the response panel."""
        block = self.page.locator(f'[id="operations-{TAGS[operation]}-{operation}"]')
        toggle = block.locator(".opblock-summary-control")
        toggle.dispatch_event("click")  # a real click would wait for the animation
        if body is not None:
            block.locator("textarea.body-param__text").fill(json.dumps(body))
        block.locator("button.execute").click()
        row = block.locator(".live-responses-table tr.response")
        status = int(row.locator(".response-col_status").inner_text().split()[0])
        panel = row.locator(".response-col_description .microlight").first.inner_text()
        block.locator("button.btn-clear").dispatch_event("click")
        toggle.dispatch_event("click")
        return status, panel

    def authorize(self, token: str) -> None:
        self.page.locator(".auth-wrapper button.authorize").click()
        dialog = self.page.locator(".dialog-ux")
        dialog.locator("input").fill(token)
        dialog.locator("button[type=submit]").click()
        dialog.locator("button.btn-done").click()

    def assert_quiet(self) -> None:
        assert self.asked, "the recorder saw nothing"
        assert [url for url in self.asked if self._elsewhere(url)] == []
        assert self.complaints == []


def _operations() -> Iterator[dict[str, Any]]:
    paths: Any = api_description()["paths"]
    for methods in paths.values():
        yield from methods.values()


TAGS = {operation["operationId"]: operation["tags"][0] for operation in _operations()}
OWN = [op for op in _operations() if not op["operationId"].endswith("_2")]  # no aliases
UNKNOWN = {
    "cancel_pull", "resume_pull", "get_document", "delete_document", "get_job", "cancel_job",
    "pair", "related", "add_folder", "scan_folder", "delete_folder", "webrtc_answer", "webrtc_ice",
    "webrtc_session", "resume_generation",
}  # fmt: skip
"""What they name no example can know, as the server gives the id or it is somebody's folder; and
`pair` is for extensions alone."""
KNOWN = [op for op in OWN if op["operationId"] not in UNKNOWN]
ADMIN = [op["operationId"] for op in KNOWN if op["x-access"] == "admin"]
OPEN = [op["operationId"] for op in KNOWN if op["x-access"] != "admin"]


@pytest.fixture
def fake_visit(browser: Browser, fake: LiveServer) -> Iterator[Visit]:
    visit = Visit(browser, fake)
    yield visit
    visit.context.close()


@pytest.fixture
def real_visit(browser: Browser, real: LiveServer) -> Iterator[Visit]:
    visit = Visit(browser, real)
    yield visit
    visit.context.close()


@pytest.mark.timeout(600)  # one or two seconds of drawing for each operation, and there are many
def test_every_example_works_when_pressed(real_visit: Visit) -> None:
    real_visit.open_swagger()
    answers = {name: real_visit.press(name) for name in OPEN}
    assert {name: status for name, (status, _) in answers.items()} == dict.fromkeys(OPEN, 200)
    assert json.loads(answers["chat"][1])["choices"][0]["message"]["content"].strip()
    assert json.loads(answers["model_info"][1])["id"] == BUILTIN  # its slash has survived
    real_visit.authorize(TOKEN)
    pressed = {name: real_visit.press(name)[0] for name in ADMIN}  # in this order each works
    assert pressed == dict.fromkeys(ADMIN, 200)
    order = ("load_model", "unload_model", "pull_model", "delete_model")
    assert [name for name in pressed if name in order] == list(order)
    real_visit.assert_quiet()


def test_a_streamed_answer_shows_its_events_and_says_the_same(fake_visit: Visit) -> None:
    fake_visit.open_swagger()
    status, panel = fake_visit.press("chat", chat_body("5"))
    plain = json.loads(panel)["choices"][0]["message"]["content"]
    assert (status, plain) == (200, "1 2 3 4 5 ")
    status, panel = fake_visit.press("chat", chat_body("5", stream=True))
    assert status == 200
    events = [line.removeprefix("data: ") for line in panel.splitlines() if line]
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    pieces = [c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]]
    assert "".join(pieces) == plain
    assert len(pieces) > 5
    fake_visit.assert_quiet()


def test_the_token_is_asked_for_and_never_kept(fake_visit: Visit) -> None:
    fake_visit.open_swagger()
    load = {"model": FAKE}
    status, panel = fake_visit.press("load_model", load)
    assert (status, json.loads(panel)["code"]) == (401, "unauthorized")
    fake_visit.authorize(TOKEN)
    assert fake_visit.press("load_model", load)[0] == 200
    kept = fake_visit.page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    )
    assert TOKEN not in kept


def test_errors_are_listed_with_links_to_what_to_do(fake_visit: Visit) -> None:
    page = fake_visit.open_swagger().page
    page.locator("#operations-chat-chat .opblock-summary-control").click()
    row = page.locator('#operations-chat-chat tr.response[data-code="400"]')
    assert not row.locator(".model-example").is_visible()  # the same one 15 times
    with page.expect_popup() as opened:
        row.get_by_role("link", name="context-length-exceeded").click()
    assert opened.value.url == fake_visit.server.url + "/problems/context-length-exceeded"
    title = opened.value.locator("h1").inner_text()
    assert title == "The prompt does not fit into the model's context"
    fake_visit.assert_quiet()


def test_the_pages_wear_their_style_and_fit_a_narrow_screen(
    browser: Browser, fake: LiveServer
) -> None:
    visit = Visit(browser, fake, viewport={"width": 360, "height": 640})
    for path in ("/", "/problems/", "/problems/context-length-exceeded", "/swagger-ui/"):
        visit.open(path)
        if path == "/swagger-ui/":
            visit.page.wait_for_selector(".opblock")
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360, path
        visit.page.emulate_media(color_scheme="light")
        assert visit.page.evaluate(INK) == "rgb(28, 32, 36)", path
        visit.page.emulate_media(color_scheme="dark")
        assert visit.page.evaluate(INK) == "rgb(230, 232, 234)", path
    visit.assert_quiet()
    visit.context.close()


def test_the_policy_stops_what_is_not_ours_and_we_would_see_it(fake_visit: Visit) -> None:
    fake_visit.open_swagger().assert_quiet()
    fake_visit.page.evaluate("fetch('http://127.0.0.1:9/').catch(() => 0)")
    fake_visit.page.evaluate("new Image().src = 'http://127.0.0.1:9/x.png'")
    fake_visit.page.wait_for_timeout(200)
    assert any("violates connect-src" in text for text in fake_visit.complaints)
    assert any("violates img-src" in text for text in fake_visit.complaints)
