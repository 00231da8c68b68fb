"""Taking in while models change, disks are full and servers die."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tabagent.catalog.models import EMBEDDER as EMBED
from tests.faults.killable import Killable
from tests.live import EMBEDDER, LiveServer, eventually, fake_models
from tests.retrieval.asking import (
    BREAD,
    COLLECTIONS,
    DOCUMENTS,
    JOBS,
    MOON,
    SOUP,
    add,
    added,
    consistent,
    ended,
    events,
    found,
    indexed,
    job,
    listed,
    make,
    many,
    problem,
    query,
    rows,
    tables,
    taken,
    text,
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with LiveServer(tmp_path, extra=fake_models()) as live:
        yield live


# ---- another model --------------------------------------------------------------------------------
@pytest.mark.parametrize(("before", "after"), [(EMBED, EMBEDDER), (EMBEDDER, EMBED)])
def test_another_model_takes_over_while_documents_come_and_go(
    server: LiveServer, before: str, after: str
) -> None:
    data = server.settings.data_dir
    make(server, "c", model=before)
    taken(server, *many(180), collection="c")
    change = server.client.patch(f"{COLLECTIONS}/c", json={"model": after}).json()
    assert (change["model"], change["next_model"], change["job"]["kind"]) == (
        before,
        after,
        "embed",
    )
    problem(server.client.patch(f"{COLLECTIONS}/c", json={"model": before}), "conflict")
    for n in range(10):
        taken(server, *many(3, "late", 3 * n), collection="c")
        id_ = listed(server, "c")[f"page-{n}"]["id"]
        assert server.client.delete(f"{DOCUMENTS}/{id_}").status_code == 200
        assert query(server, "number 5", collections=["c"]).status_code == 200
    assert ended(server, change["job"]["id"])["state"] == "done"
    row = next(r for r in server.client.get(COLLECTIONS).json()["data"] if r["name"] == "c")
    assert (row["model"], row["next_model"], row["documents"]) == (after, None, 200)
    assert consistent(data)
    assert rows(data, "SELECT DISTINCT model FROM vectors") == [(after,)]
    assert indexed(data, "c", before) == []
    assert len(tables(data)) == 1
    assert len(found(server, "number of late", collections=["c"], top_k=100)) == 100


def slow_embedding(server: LiveServer, count: int = 12) -> str:
    """A collection whose documents the fake model embeds slowly; the built-in one does not."""
    make(server, "c", model=EMBED)
    said = [text(f"s{n}", f"# {n}\n\n" + "sleep a while " * 60) for n in range(count)]
    taken(server, *said, collection="c")
    change = server.client.patch(f"{COLLECTIONS}/c", json={"model": EMBEDDER}).json()
    return str(change["job"]["id"])


def test_a_change_of_the_model_can_be_cancelled_and_begun_again(server: LiveServer) -> None:
    id_ = slow_embedding(server)
    assert server.client.post(f"{JOBS}/{id_}/cancel").json()["state"] == "cancelled"
    (row,) = server.client.get(COLLECTIONS).json()["data"]
    assert (row["model"], row["next_model"]) == (EMBED, None)
    assert len(found(server, "while", collections=["c"], top_k=50)) == 12
    data = server.settings.data_dir
    assert rows(data, "SELECT DISTINCT model FROM vectors") == [(EMBED,)]
    again = server.client.patch(f"{COLLECTIONS}/c", json={"model": EMBEDDER}).json()
    assert ended(server, again["job"]["id"])["state"] == "done"
    assert consistent(data)


def test_documents_embedded_before_a_switch_and_saved_after_it_are_found(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tabagent.retrieval.ingest import Ingest

    make(server, "c", model=EMBED)
    taken(server, *many(3), collection="c")
    real = Ingest._embedded
    switched = False

    async def late(self: Ingest, collection: Any, group: Any) -> Any:
        nonlocal switched
        fresh = await real(self, collection, group)
        if not switched:
            switched = True
            live = await server.gateway.services.library.change_model("c", EMBEDDER)
            assert live and live.task
            await live.task
        return fresh

    monkeypatch.setattr(Ingest, "_embedded", late)
    taken(server, text("late", MOON), collection="c")
    assert consistent(server.settings.data_dir)
    assert "late" in found(server, "moon", collections=["c"], top_k=10)


def test_a_next_model_that_fails_does_not_keep_documents_out(server: LiveServer) -> None:
    make(server, "c", model=EMBED)
    taken(server, text("soup", SOUP), text("evil", "# Evil\n\nraise raise raise"), collection="c")
    change = server.client.patch(f"{COLLECTIONS}/c", json={"model": EMBEDDER}).json()
    state = ended(server, change["job"]["id"])
    if state["state"] == "failed":
        assert state["failures"][-1]["problem"]["code"]
    taken(server, text("bread", BREAD), collection="c")
    assert "bread" in found(server, "rye bread", collections=["c"])
    back = server.client.patch(f"{COLLECTIONS}/c", json={"model": EMBED})
    assert back.status_code == 200


# ---- a full disk ----------------------------------------------------------------------------------
def test_a_full_disk_shows_nothing_half_and_goes_on_after(server: LiveServer) -> None:
    taken(server, text("soup", SOUP))
    data = server.settings.data_dir
    large = [text(f"l{n}", f"# {n}\n\n" + f"word{n} much is said here. " * 4000) for n in range(10)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (data / "tabagent.db").stat().st_size
    wal = (data / "tabagent.db-wal").stat().st_size
    for room in (8192, 300_000, 1_500_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (max(size, wal) + room, before[1]))
        try:
            reply = add(server, *large)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        if reply.status_code == 200:
            break
        problem(reply, "insufficient-storage")
        for source, row in listed(server).items():
            whole = server.client.get(f"{DOCUMENTS}/{row['id']}").json()
            assert len(whole["parts"]) == row["chunks"] > 0, source
        jobs = server.client.get(JOBS).json()["data"]
        assert all(j["state"] != "running" for j in jobs)
        eventually(lambda: query(server, "carrots").status_code == 200, 5)
    taken(server, *large)
    assert set(listed(server)) == {"soup", *(f"l{n}" for n in range(10))}
    eventually(lambda: consistent(data), 5)


def test_a_job_that_failed_for_want_of_room_does_not_begin_again(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=fake_models()) as server:
        taken(server, text("soup", SOUP))
        slow = [text(f"s{n}", f"# {n}\n\n" + "sleep a while " * 60) for n in range(8)]
        first = added(server, *slow, wait=False)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        eventually(lambda: job(server, first["id"])["done"] >= 1, 20)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            eventually(lambda: job(server, first["id"])["state"] == "failed", 10)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        taken(server, text("bread", BREAD))
        state = job(server, first["id"])
        assert (state["state"], state["failures"][-1]["problem"]["code"]) == (
            "failed",
            "insufficient-storage",
        )
        there = set(listed(server))
    with LiveServer(tmp_path, extra=fake_models()) as server:
        time.sleep(0.5)
        assert set(listed(server)) == there
        assert all(j["state"] != "running" for j in server.client.get(JOBS).json()["data"])


# ---- the end of a server ----------------------------------------------------------------------------
def test_a_job_goes_on_after_a_stop(tmp_path: Path) -> None:
    slow = [text(f"s{n}", f"# {n}\n\n" + "sleep a while " * 60) for n in range(20)]
    with LiveServer(tmp_path, extra=fake_models()) as server:
        first = added(server, *slow, wait=False)
        eventually(lambda: job(server, first["id"])["done"] >= 2, 20)
    with LiveServer(tmp_path, extra=fake_models()) as server:
        state = ended(server, first["id"])
        assert (state["state"], state["total"], state["counts"]) == ("done", 20, {"added": 20})
        assert {row["version"] for row in listed(server).values()} == {1}
        eventually(lambda: consistent(tmp_path), 5)


def test_a_job_goes_on_after_a_kill_and_each_document_is_there_once(tmp_path: Path) -> None:
    said = [text(f"d{n}", f"# Part {n}\n\n" + f"Sentence {n} says more. " * 600) for n in range(60)]
    with Killable(tmp_path) as server:
        reply = server.client.post(DOCUMENTS, json={"documents": said, "wait": False})
        id_ = reply.json()["id"]

        def some() -> bool:
            return bool(0 < server.client.get(f"{JOBS}/{id_}").json()["done"] < 60)

        eventually(some, 20)
        server.kill()
    with LiveServer(tmp_path) as live:
        state = ended(live, id_, 30)
        assert (state["state"], state["total"], state["counts"]) == ("done", 60, {"added": 60})
        there = listed(live)
        assert {row["version"] for row in there.values()} == {1}
        assert set(there) == {f"d{n}" for n in range(60)}
        eventually(lambda: consistent(tmp_path), 5)


def test_a_folder_and_a_change_of_model_go_on_after_a_stop(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    for n in range(18):
        (folder / f"s{n}.md").write_text(f"# {n}\n\n" + "sleep a while " * 60)
    with LiveServer(tmp_path, extra=fake_models()) as server:
        body = {"path": str(folder), "wait": False}
        first = server.owner.post("/v1/rag/folders", json=body).json()
        eventually(lambda: job(server, first["id"])["counts"].get("added", 0) >= 2, 20)
    with LiveServer(tmp_path, extra=fake_models()) as server:
        state = ended(server, first["id"])
        assert state["state"] == "done" and state["done"] == state["total"] == 18
        assert len(listed(server)) == 18
        second = slow_embedding(server)
    with LiveServer(tmp_path, extra=fake_models()) as server:
        assert ended(server, second)["state"] == "done"
        eventually(lambda: consistent(tmp_path), 5)
    shutil.rmtree(folder)


def test_a_follower_hears_that_the_server_stops_and_need_not_be_waited_for(tmp_path: Path) -> None:
    slow = [text(f"s{n}", f"# {n}\n\n" + "sleep a while " * 60) for n in range(40)]
    with LiveServer(tmp_path, extra=fake_models(), drain_s=15) as server:
        body = {"documents": slow, "stream": True}
        with server.client.stream("POST", DOCUMENTS, json=body) as reply:
            told = events(reply)
            next(told)
            server.server.should_exit = True
            begun = time.monotonic()
            name, last = list(told)[-1]
            assert time.monotonic() - begun < 5
        assert (name, last["code"]) == ("error", "shutting-down")
