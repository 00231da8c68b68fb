"""The bridge from inside a real browser: a round trip over each transport, and how long starts take.

`python -m benchmarks.bridge`. A Chromium with the extension in it, the installed native host, and a
server in a process of its own. Times are the page's own clock: what the browser adds is in them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.table import Table

from benchmarks.measure import quantile
from benchmarks.table import machine
from native_host.install import EXTENSION_ID
from tabagent.runtime import DataDirectory, Running
from tests.extension.chromium import CHROMIUM, chromium, install_host
from tests.live import eventually

TABAGENT: Final = (sys.executable, "-m", "tabagent")
ROUND_TRIP_MS, START_MS = 1.0, 40.0
TRIPS = """async ([transport, url, token, times]) => {
  const { TabAgent } = await import("/client/tabagent.js");
  const agent = new TabAgent({ transports: [transport], url, token });
  for (let n = 0; n < 50; n += 1) await agent.health();
  const taken = [];
  for (let n = 0; n < times; n += 1) {
    const began = performance.now();
    await agent.health();
    taken.push(performance.now() - began);
  }
  agent.close();
  return taken;
}"""
START = """() => new Promise((resolve, reject) => {
  const began = performance.now();
  const port = chrome.runtime.connectNative("tabagent.host");
  port.onDisconnect.addListener(() => reject(chrome.runtime.lastError?.message));
  port.onMessage.addListener(({ request_id: id }) => {
    if (id !== "r1") return;
    resolve(performance.now() - began);
    port.disconnect();
  });
  port.postMessage({ request_id: "r1", route: "health" });
})"""
TOKEN = """async () => {
  const { TabAgent } = await import("/client/tabagent.js");
  const agent = new TabAgent({ transports: ["native"] });
  const { token } = await agent.pair();
  agent.close();
  return token;
}"""


@contextmanager
def serving(data_dir: Path) -> Iterator[Running]:
    command = [*TABAGENT, "serve", "--port", "0", "--data-dir", str(data_dir)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield eventually(DataDirectory(data_dir).running, 30)
    finally:
        server.terminate()
        server.wait(30)


def openings(page: Page, times: int) -> Iterator[float]:
    """From the navigation to a panel that can be written in."""
    for _ in range(times):
        page.reload()
        page.wait_for_selector("#prompt:enabled")
        yield page.evaluate(
            "performance.now() - performance.getEntriesByType('navigation')[0].startTime"
        )


def measure(trips: int, starts: int) -> list[tuple[str, Sequence[float], float | None]]:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        place, data = Path(folder) / "profile", Path(folder) / "data"
        data.mkdir()
        install_host(place, data)
        with serving(data) as server, chromium(playwright, place) as browser:
            approve = [*TABAGENT, "clients", "approve", EXTENSION_ID, "--data-dir", str(data)]
            subprocess.run(approve, check=True, stdout=subprocess.DEVNULL)
            page = browser.page("README.md")
            token = page.evaluate(TOKEN)
            rows: list[tuple[str, Sequence[float], float | None]] = []
            for transport in ("native", "http", "webrtc"):
                asked = [transport, server.url, token, trips]
                target = ROUND_TRIP_MS if transport == "native" else None
                rows.append(
                    (f"round trip of health, {transport}", page.evaluate(TRIPS, asked), target)
                )
            began = [page.evaluate(START) for _ in range(starts)]
            rows.append(("host start to first reply", began, START_MS))
            browser.keep(url=server.url)
            rows.append(("panel opened to ready", list(openings(browser.page(), starts)), None))
            return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trips", type=int, default=2000)
    parser.add_argument("--starts", type=int, default=20)
    given = parser.parse_args()
    if CHROMIUM is None:
        sys.exit("no Chromium here: sh scripts/install_browser.sh")
    table = Table("what", "p50", "p95", "p99", "target of p50", "", box=None, pad_edge=False)
    for what, values, target in measure(given.trips, given.starts):
        middle = statistics.median(values)
        table.add_row(
            what,
            *(f"{quantile(list(values), share):.2f} ms" for share in (0.5, 0.95, 0.99)),
            "" if target is None else f"{target:g} ms",
            "" if target is None else "met" if middle <= target else "missed",
        )
    Console(width=120).print(table)
    print(f"\n{machine()} Chromium at {os.path.basename(CHROMIUM)}.")


if __name__ == "__main__":
    main()
