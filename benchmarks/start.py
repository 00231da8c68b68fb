"""How long `tabagent serve` takes to its first /health, what it weighs, and the first token.

Run by `make bench`. Medians of several cold starts of the process, page cache warm.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import urllib.request

from rich.console import Console
from rich.table import Table

from benchmarks.tabagent_server import tabagent

TARGETS = {"health": 0.7, "resident": 120.0, "token": 2.0}


def first_health() -> tuple[float, float]:
    """Seconds to the first /health, and resident megabytes with nothing loaded."""
    with tabagent() as server:
        url = f"http://127.0.0.1:{server.port}"
        urllib.request.urlopen(f"{url}/health", timeout=30).read()
        seconds = time.perf_counter() - server.began
        urllib.request.urlopen(f"{url}/v1/models", timeout=30).read()
        return seconds, server.process.memory_info().rss / 1e6


def first_token() -> float:
    """Seconds from starting the server to the first token of the built-in model."""
    with tabagent() as server:
        body = {"messages": [{"role": "user", "content": "Hello"}], "stream": True}
        request = urllib.request.Request(
            f"http://127.0.0.1:{server.port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            for line in response:
                if b'"content":"' in line and b'"content":""' not in line:
                    return time.perf_counter() - server.began
    sys.exit("no token came")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    runs = range(parser.parse_args().runs)
    health = [first_health() for _ in runs]
    tokens = [first_token() for _ in runs]
    rows = (
        ("start to first /health", [h[0] for h in health], TARGETS["health"], "s"),
        ("resident, nothing loaded", [h[1] for h in health], TARGETS["resident"], "MB"),
        ("start to first token", tokens, TARGETS["token"], "s"),
    )
    table = Table("what", "median", "worst", "target", "", box=None, pad_edge=False)
    for name, values, target, unit in rows:
        median = statistics.median(values)
        table.add_row(
            name,
            f"{median:.2f} {unit}",
            f"{max(values):.2f} {unit}",
            f"{target:g} {unit}",
            "met" if median <= target else "missed",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
