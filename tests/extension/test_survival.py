"""Connections that are lost in mid-answer: no token is lost, and none comes twice."""

from __future__ import annotations

import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Page, Playwright, expect

from tests.extension.chromium import EXTENSION, Chromium, chromium, install_host
from tests.extension.steps import Bridge, answer, ask, count, waited
from tests.live import FAKE, eventually

TELL = """async (text) => {
  const asked = {model: "MODEL", messages: [{role: "user", content: text}]};
  globalThis.said = "";
  globalThis.stream = agent.chat(asked);
  globalThis.done = (async () => { for await (const piece of stream.text()) said += piece; })();
  done.catch(() => {});
}""".replace("MODEL", FAKE)

WORKER = """
import { TabAgent, textOf } from "./client/tabagent.js";

const agent = new TabAgent({ transports: ["native"] });
let said = "";
const ready = (async () => {
  const { said: before = "", id, next, done, begun = 0 } = await chrome.storage.session.get();
  said = before;
  await chrome.storage.session.set({ begun: begun + 1 });
  if (id && !done) follow(agent.resume(id, next));
})();
chrome.runtime.onMessage.addListener((text) => {
  const asked = { model: "MODEL", messages: [{ role: "user", content: text }] };
  ready.then(() => text && follow(agent.chat(asked)));
});

async function follow(stream) {
  for await (const event of stream) {
    said += textOf(event);
    await chrome.storage.session.set({ said, id: stream.requestId, next: stream.seq + 1 });
  }
  await chrome.storage.session.set({ done: true });
}
"""


def hosts(bridge: Bridge) -> list[psutil.Process]:
    """The native hosts that this browser runs."""
    place = str(bridge.server.settings.data_dir / "native_host")
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(word.startswith(place) for word in process.cmdline()):
                found.append(process)
    return found


def stop_workers(browser: Chromium, page: Page) -> None:
    session = browser.context.new_cdp_session(page)
    session.send("ServiceWorker.enable")
    session.send("ServiceWorker.stopAllWorkers")
    waited(page, lambda: not workers(browser, page), 5, "it lives")


def workers(browser: Chromium, page: Page) -> list[str]:
    targets = browser.context.new_cdp_session(page).send("Target.getTargets")
    return [t["url"] for t in targets["targetInfos"] if t["type"] == "service_worker"]


def test_the_death_of_the_service_worker_costs_no_token(bridge: Bridge) -> None:
    page = bridge.panel()
    ask(page, "60 sleep")
    expect(page.locator(".writing .body")).to_contain_text("5 6")
    assert workers(bridge.browser, page)
    stop_workers(bridge.browser, page)
    assert answer(page) == count(60)


def test_the_death_of_the_host_costs_no_token(bridge: Bridge) -> None:
    page = bridge.panel()
    ask(page, "50 sleep")
    expect(page.locator(".writing .body")).to_contain_text("5 6")
    for process in hosts(bridge):
        process.send_signal(signal.SIGKILL)
    assert answer(page) == count(50)
    expect(page.locator("#connection-label")).to_have_text("Native")


@pytest.mark.parametrize("transport", ["native", "http", "webrtc"])
def test_a_panel_that_is_closed_finds_its_answer_again(bridge: Bridge, transport: str) -> None:
    page = bridge.panel(transport)
    ask(page, "50 sleep")
    expect(page.locator(".writing .body")).to_contain_text("5 6")
    page.close()
    page = bridge.browser.page()
    page.wait_for_selector("#stop:visible")  # it goes on where it was
    assert answer(page) == count(50)
    expect(page.locator(".turn")).to_have_count(2)


def test_an_answer_that_a_service_worker_follows_survives_it(
    shared: Bridge, playwright: Playwright, tmp_path: Path
) -> None:
    """As an extension does it that has no panel. It is ours by its key, with another worker."""
    extension = tmp_path / "extension"
    shutil.copytree(EXTENSION, extension)
    (extension / "service_worker.js").write_text(WORKER.replace("MODEL", FAKE))
    install_host(tmp_path / "profile", shared.server.settings.data_dir)
    with chromium(playwright, tmp_path / "profile", extension) as browser:
        page = browser.page("README.md")
        page.evaluate("chrome.runtime.sendMessage('50 sleep')")

        def kept(condition: str) -> Any:
            found = eventually(
                lambda: page.evaluate(f"chrome.storage.session.get().then(kept => {condition})"), 15
            )
            page.wait_for_timeout(10)
            return found

        kept("kept.said?.includes('5 6')")
        stop_workers(browser, page)
        page.evaluate("chrome.runtime.sendMessage('')")  # any event starts it anew
        kept("kept.done")
        assert kept("kept.said") == count(50) + " "
        assert kept("kept.begun") == 2


class Cutter:
    """A way to the server that breaks: after so many bytes of a reply, so many times."""

    def __init__(self, port: int, after: int, times: int) -> None:
        self._port, self._after, self.left = port, after, times
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                threading.Thread(target=self._pump, args=(client, server, 0), daemon=True).start()
                threading.Thread(
                    target=self._pump, args=(server, client, self._after), daemon=True
                ).start()

    def _pump(self, source: socket.socket, sink: socket.socket, after: int) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(4096):
                sink.sendall(data)
                passed += len(data) if b"data: " in data else 0
                if after and passed > after and self.left > 0:
                    self.left -= 1
                    break
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def cutter(bridge: Bridge) -> Iterator[Cutter]:
    cutter = Cutter(bridge.server.gateway.port, after=2000, times=3)
    yield cutter
    cutter.close()


def test_http_that_is_cut_again_and_again_costs_no_token(bridge: Bridge, cutter: Cutter) -> None:
    page = bridge.library("http", url=cutter.url)
    page.evaluate(TELL, "50 sleep")
    page.evaluate("done")
    assert page.evaluate("said") == count(50) + " "
    assert cutter.left == 0


def test_a_data_channel_that_is_lost_costs_no_token(bridge: Bridge) -> None:
    page = bridge.library("webrtc")
    page.evaluate("""() => {
      globalThis.peers = [];
      const Real = RTCPeerConnection;
      globalThis.RTCPeerConnection = class extends Real {
        constructor(...all) { super(...all); peers.push(this); }
      };
    }""")
    page.evaluate(TELL, "50 sleep")
    waited(page, lambda: "5 6" in page.evaluate("said"))
    page.evaluate("peers[0].close()")
    page.evaluate("done")
    assert page.evaluate("said") == count(50) + " "
    assert page.evaluate("peers.length") == 2


def test_an_answer_that_was_begun_natively_is_followed_over_http(bridge: Bridge) -> None:
    page = bridge.library("native")
    page.evaluate(TELL, "40 sleep")
    waited(page, lambda: "5 6" in page.evaluate("said"))
    kept = page.evaluate("({id: stream.requestId, next: stream.seq + 1, said})")
    page.close()
    page = bridge.library("http")
    rest = page.evaluate("kept => agent.resume(kept.id, kept.next).whole()", kept)
    assert kept["said"] + rest == count(40) + " "
    last = page.evaluate("id => agent.resume(id, 38).whole()", kept["id"])  # while it is kept
    assert count(40).endswith(last.strip())
    unknown = page.evaluate("agent.resume(crypto.randomUUID()).whole().catch(error => error.code)")
    assert unknown == "request-not-found"


def test_a_data_channel_is_opened_over_the_native_host_alone(bridge: Bridge) -> None:
    page = bridge.library("webrtc", signalling="native", url="http://127.0.0.1:9")
    page.evaluate(TELL, "5")
    page.evaluate("done")
    assert page.evaluate("[agent.via, said]") == ["webrtc", count(5) + " "]


def test_a_slow_reader_keeps_little_and_loses_nothing(bridge: Bridge) -> None:
    page = bridge.library(queue={"items": 16})
    said, routes = page.evaluate(
        """async (model) => {
          const routes = [];
          const connect = chrome.runtime.connectNative;
          chrome.runtime.connectNative = (name) => {
            const port = connect.call(chrome.runtime, name);
            const post = port.postMessage.bind(port);
            port.postMessage = (message) => {
              routes.push(message.route);
              post(message);
            };
            return port;
          };
          const asked = { model, messages: [{ role: "user", content: "1000" }], max_tokens: 1000 };
          let said = "";
          let pieces = 0;
          for await (const piece of agent.chat(asked).text()) {
            said += piece;
            if (pieces++ < 3) await new Promise((done) => setTimeout(done, 300));
          }
          return [said, routes];
        }""",
        FAKE,
    )
    assert said == count(1000) + " "
    assert "resume_generation" in routes  # what did not fit was not kept, but asked for again


@pytest.mark.parametrize("transport", ["native", "http", "webrtc"])
def test_leaving_the_loop_ends_the_answer(bridge: Bridge, transport: str) -> None:
    page = bridge.library(transport)
    page.evaluate(
        """async (model) => {
      const asked = {model, messages: [{role: "user", content: "1000 sleep"}]};
      for await (const piece of agent.chat(asked).text()) if (piece === "3 ") break;
    }""",
        FAKE,
    )
    waited(page, lambda: bridge.server.idle(), 2, "it goes on")


def test_a_server_that_goes_is_an_error_at_once(bridge: Bridge) -> None:
    """Nothing listens there: no waiting for what never began."""
    page = bridge.library("http", url="http://127.0.0.1:9")
    began = time.monotonic()
    code = page.evaluate("agent.chat([]).whole().catch(error => error.code)")
    assert code == "server-unreachable"
    assert time.monotonic() - began < 5
