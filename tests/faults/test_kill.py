"""kill -9 at any moment: all that was acknowledged is there, once and whole, and a start is quick."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest

from tests.faults.killable import Killable
from tests.live import eventually
from tests.retrieval.asking import COLLECTIONS, DOCUMENTS, JOBS, consistent, rows

CYCLES = 25
START_S = 5.0


class Writers:
    """Threads that save messages, add documents and delete them, and note what was acknowledged."""

    def __init__(self) -> None:
        self.messages: dict[str, str] = {}  # id: text
        self.documents: dict[str, str] = {}  # name: text
        self.begun: dict[str, set[str]] = {}  # name: texts of a change whose answer never came
        self.session = ""
        self.jobs: set[str] = set()  # taken on
        self.heard = threading.Event()  # that a document is there
        self._stop = threading.Event()

    def run(self, server: Killable, cycle: int) -> list[threading.Thread]:
        self._stop.clear()
        if not self.session:
            self.session = server.client.post("/v1/sessions", json={}).json()["id"]
        works = (self._talk, self._add, self._delete)
        threads = [
            threading.Thread(target=self._guarded, args=(work, server.client, cycle))
            for work in works
        ]
        for thread in threads:
            thread.start()
        return threads

    def stop(self, threads: list[threading.Thread]) -> None:
        self._stop.set()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()

    def _guarded(self, work: object, client: httpx.Client, cycle: int) -> None:
        with suppress(httpx.HTTPError):  # it was killed
            number = 0
            while not self._stop.is_set():
                number += 1
                work(client, cycle, number)  # type: ignore[operator]  # one of the three below

    def _talk(self, client: httpx.Client, cycle: int, number: int) -> None:
        said = f"message {cycle}.{number}"
        reply = client.post(
            f"/v1/sessions/{self.session}/messages", json={"role": "user", "content": said}
        )
        if reply.status_code == 200:
            self.messages[reply.json()["id"]] = said

    def _add(self, client: httpx.Client, cycle: int, number: int) -> None:
        said = {f"d{number % 7}-{n}": f"Version {cycle}.{number} of {n}. " * 30 for n in range(3)}
        for name, content in said.items():
            self.begun.setdefault(name, set()).add(content)
        waits = number % 2 == 0
        body = {
            "documents": [{"source": name, "text": content} for name, content in said.items()],
            "wait": waits,
        }
        reply = client.post(DOCUMENTS, json=body)
        if reply.status_code != 200:
            return
        self.jobs.add(reply.json()["id"])
        if waits and reply.json()["state"] == "done":
            for name, content in said.items():
                self.documents[name] = content
            self.heard.set()

    def _delete(self, client: httpx.Client, cycle: int, number: int) -> None:
        name = f"gone-{cycle}-{number}"
        body = {"documents": [{"source": name, "text": f"{name} goes soon."}]}
        if client.post(DOCUMENTS, json=body).status_code != 200:
            return
        found = client.get(DOCUMENTS, params={"search": name}).json()["data"]
        reply = client.delete(f"{DOCUMENTS}/{found[0]['id']}")
        if reply.status_code == 200:
            self.documents[name] = ""


def settled(server: Killable) -> bool:
    jobs = server.client.get(JOBS, params={"limit": 500}).json()["data"]
    return all(job["state"] != "running" for job in jobs)


@pytest.mark.timeout(180)
def test_nothing_that_was_acknowledged_is_lost_by_a_kill(tmp_path: Path) -> None:
    chance, writers, slowest = random.Random(5), Writers(), 0.0
    for cycle in range(CYCLES):
        with Killable(tmp_path) as server:
            slowest = max(slowest, server.started_s)
            threads = writers.run(server, cycle)
            if cycle % 2:  # in the middle of things
                writers.heard.clear()
                assert writers.heard.wait(10)
                time.sleep(chance.uniform(0.0, 0.3))
            else:  # while it still goes on with what the one before left
                time.sleep(chance.uniform(0.05, 0.5))
            words = server.kill()
            writers.stop(threads)
            assert "Traceback" not in words, words
        with closing(sqlite3.connect(tmp_path / "tabagent.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        known = dict(rows(tmp_path, "SELECT id, content FROM messages"))
        assert writers.messages.keys() <= known.keys(), f"in cycle {cycle}"
    assert slowest < START_S
    assert len(writers.messages) > CYCLES
    assert len(writers.jobs) > 10
    assert len(writers.documents) > 10

    with Killable(tmp_path) as server:
        eventually(lambda: settled(server), 20)
        # What was deleted stays so; what was waited for is there, in that version or a later one.
        there = dict(rows(tmp_path, "SELECT source, text FROM documents"))
        for name, content in writers.documents.items():
            if content:
                assert there[name] in writers.begun[name]
            else:
                assert name not in there
        for job in writers.jobs:
            state = rows(tmp_path, "SELECT state, total, counts FROM jobs WHERE id = ?", job)
            assert not state or state[0][0] == "done"
        assert rows(tmp_path, "SELECT count(*) FROM incoming") == [(0,)]
        assert (
            rows(tmp_path, "SELECT source FROM documents GROUP BY source HAVING count(*) > 1") == []
        )
        eventually(lambda: consistent(tmp_path), 10)
        (row,) = server.client.get(COLLECTIONS).json()["data"]
        assert row["documents"] == len(there)
        body = {"query": "version", "answer": False, "top_k": 100, "mode": "vector"}
        hits = server.client.post("/v1/rag/query", json=body).json()["sources"]
        assert {hit["source"] for hit in hits} <= set(there)
