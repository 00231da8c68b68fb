"""Long sessions and full databases: what a page of history and a turn of chat cost there.

`python -m benchmarks.sessions [--messages 1000000]`. Part of `make bench`. The engine is the fake one,
which answers at once: what is measured is ours. Each figure is beside the same one of a session of
20 messages in an empty database.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tabagent.stores.sqlite_file import prepare
from tests.live import FAKE, LiveServer, fake_models

LONG: Final = 2_000
SHORT: Final = 20
ROUNDS: Final = 100
TARGET_MS: Final = 10.0  # a page of history of a long session
TARGET_RATIO: Final = 1.5  # the same in a full database
SAID: Final = "the quick brown fox jumps over the lazy dog in a garden by the river at noon"


def rows(session: str, count: int, first: int) -> Iterator[tuple[Any, ...]]:
    now = time.time()
    for depth in range(count):
        role = "assistant" if depth % 2 else "user"
        yield (
            first + depth, f"{session}-{depth}", session, f"br-{session}", depth, role,
            json.dumps(f"{SAID} {depth}"), "{}", "complete", "bench", None, None, None, "{}", 0,
            now + depth,
        )  # fmt: skip


def fill(file: Path, sessions: dict[str, int]) -> None:
    """Put sessions into a new database, with so many messages each."""
    prepare(file)
    now = time.time()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        number = 1
        for name, count in sessions.items():
            connection.execute(
                "INSERT INTO sessions VALUES (?,'chat',?,'user',NULL,NULL,0,0,'{}',?,?,NULL,0,?,?)",
                (name, name, f"br-{name}", count, now, now),
            )
            connection.execute(
                "INSERT INTO branches VALUES (?,?,NULL,-1,?)", (f"br-{name}", name, now)
            )
            made = list(rows(name, count, number))
            connection.executemany(f"INSERT INTO messages VALUES ({','.join('?' * 16)})", made)
            connection.executemany(
                "INSERT INTO message_words (rowid, words) VALUES (?, ?)",
                [(row[0], row[6]) for row in made],
            )
            number += count
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def median_ms(ask: Any) -> float:
    taken = []
    for number in range(ROUNDS + 10):
        began = perf_counter()
        response = ask()
        if number >= 10:
            taken.append((perf_counter() - began) * 1000)
        assert response.status_code == 200, response.text
    return statistics.median(taken)


def measure(place: Path, names: list[str]) -> dict[str, tuple[float, float, float]]:
    """(newest page, oldest page, a turn of chat) in milliseconds, by session."""
    found = {}
    with LiveServer(place, extra=fake_models(), memory_vectors=False, memory_titles=False) as live:
        client = live.owner
        for name in names:
            path = f"/v1/sessions/{name}/history"
            body = {
                "model": FAKE, "session_id": name, "messages": [{"role": "user", "content": "1"}],
            }  # fmt: skip
            found[name] = (
                median_ms(lambda path=path: client.get(path)),
                median_ms(lambda path=path: client.get(path, params={"order": "oldest"})),
                median_ms(lambda body=body: client.post("/v1/chat/completions", json=body)),
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    most = parser.parse_args().messages
    table = Table(
        "session",
        "database",
        "newest page",
        "oldest page",
        "a turn of chat",
        box=None,
        pad_edge=False,
    )
    with tempfile.TemporaryDirectory() as place:
        small, full = Path(place) / "small", Path(place) / "full"
        for folder in (small, full):
            folder.mkdir()
        fill(small / "tabagent.db", {"short": SHORT, "long": LONG})
        others = {f"other{n}": LONG for n in range(most // LONG)}
        fill(full / "tabagent.db", {"short": SHORT, "long": LONG, **others})
        found = {
            "empty": measure(small, ["short", "long"]),
            "full": measure(full, ["short", "long"]),
        }
    for database, by_name in found.items():
        for name, values in by_name.items():
            size = LONG if name == "long" else SHORT
            stored = f"{most:,} messages" if database == "full" else "nothing else"
            table.add_row(f"{size:,} messages", stored, *(f"{value:.1f} ms" for value in values))
    Console().print(table)
    short, long, far = found["empty"]["short"], found["empty"]["long"], found["full"]["long"]
    verdict = "met" if max(long[:2]) < TARGET_MS else "missed"
    print(f"page of {LONG:,} messages: {max(long[:2]):.1f} ms, target {TARGET_MS:g} ms: {verdict}")
    print(f"turn of chat, {LONG:,} beside {SHORT}: {long[2] / short[2]:.2f} x, target 1")
    ratio = max(b / a for a, b in zip(long, far, strict=True))
    verdict = "met" if ratio <= TARGET_RATIO else "missed"
    print(f"full beside empty database: {ratio:.2f} x, target {TARGET_RATIO:g}: {verdict}")


if __name__ == "__main__":
    main()
