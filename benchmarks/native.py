"""The browser's native host without a browser: its start to a first reply, and one round trip.

Beside it, in the same run, a bare host: the same Python with the same flags, which sends back what
comes and imports nothing. What the browser itself adds is not in here.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import quantile
from benchmarks.server import child, wait
from benchmarks.table import machine
from native_host.host_files import FLAGS, base_python
from native_host.install import EXTENSION_ID, Wanted, install
from native_host.places import BROWSERS, Desktop

BARE = """
import os, sys
while header := sys.stdin.buffer.read(4):
    body = sys.stdin.buffer.read(int.from_bytes(header, sys.byteorder))
    rest = header + body
    while rest:
        rest = rest[os.write(1, rest):]
"""
HEALTH = {"request_id": "r1", "route": "health"}
START_MS, ROUND_TRIP_MS = 40.0, 1.0


class Port:
    """A host, and the browser's side of its pipes."""

    def __init__(self, command: Sequence[str]) -> None:
        self.began = time.perf_counter()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in: IO[bytes] = self.process.stdin
        self._out: IO[bytes] = self.process.stdout

    def ask(self, message: dict[str, Any]) -> bytes:
        """The reply to this message; status events before it are passed over."""
        body = json.dumps(message).encode()
        self._in.write(len(body).to_bytes(4, sys.byteorder) + body)
        self._in.flush()
        while True:
            reply = self._out.read(int.from_bytes(self._out.read(4), sys.byteorder))
            if b'"event": "status"' not in reply:
                return reply

    def close(self) -> None:
        self._in.close()
        self._out.close()
        self.process.wait(10)


def start_to_reply(command: Sequence[str]) -> float:
    port = Port(command)
    port.ask(HEALTH)
    took = time.perf_counter() - port.began
    port.close()
    return took


def round_trips(command: Sequence[str], count: int) -> list[float]:
    port = Port(command)
    for _ in range(200):
        port.ask(HEALTH)
    times = []
    for _ in range(count):
        began = time.perf_counter()
        port.ask(HEALTH)
        times.append(time.perf_counter() - began)
    port.close()
    return times


@contextmanager
def hosts() -> Iterator[tuple[list[str], list[str]]]:
    """(ours before a server that runs, the bare one): what a browser would run."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        data = place / "data"
        desktop = Desktop(home=place, configuration=place)
        wish = Wanted(data, [], [EXTENSION_ID], user_data_dir=place / "profile")
        (done,) = install(desktop, [BROWSERS["chromium"]], wish)
        bare = place / "bare.py"
        bare.write_text(f"#!{base_python()} {FLAGS}\n{BARE}")
        bare.chmod(0o755)
        command = [sys.executable, "-m", "tabagent", "serve", "--port", "0"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TABAGENT_")}
        with child([*command, "--data-dir", str(data)], environment) as (process, _):
            wait("tabagent", process, (data / "runtime.json").exists, 0.01)
            yield [str(done.host), f"chrome-extension://{EXTENSION_ID}/"], [str(bare)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=30)
    parser.add_argument("--messages", type=int, default=5000)
    given = parser.parse_args()
    with hosts() as (ours, bare):
        starts: tuple[list[float], list[float]] = ([], [])
        for _ in range(given.starts):  # in turn: what else runs here hits both
            starts[0].append(start_to_reply(ours))
            starts[1].append(start_to_reply(bare))
        trips: tuple[list[float], list[float]] = ([], [])
        for _ in range(5):
            trips[0].extend(round_trips(ours, given.messages // 5))
            trips[1].extend(round_trips(bare, given.messages // 5))
    table = Table("what", "ours", "bare host", "target", "", box=None, pad_edge=False)
    rows = (
        ("start to first reply, p50", 0.5, starts, START_MS),
        ("start to first reply, p95", 0.95, starts, None),
        ("round trip of health, p50", 0.5, trips, ROUND_TRIP_MS),
        ("round trip of health, p99", 0.99, trips, None),
    )
    for what, share, (mine, its), target in rows:
        value = quantile(mine, share) * 1e3
        table.add_row(
            what,
            f"{value:.2f} ms",
            f"{quantile(its, share) * 1e3:.2f} ms",
            "" if target is None else f"{target:g} ms",
            "" if target is None else "met" if value <= target else "missed",
        )
    Console().print(table)
    spread = statistics.quantiles(starts[0], n=4)
    print(f"\nHalf of the starts took {spread[0] * 1e3:.1f} to {spread[2] * 1e3:.1f} ms.")
    print(machine())


if __name__ == "__main__":
    main()
