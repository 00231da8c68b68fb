"""Taking in: folders that are watched, models that change, disks that are full, servers that die."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
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
from tests.worker.reading.documents import pdf

FOLDERS = "/v1/rag/folders"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with LiveServer(tmp_path, extra=fake_models()) as live:
        yield live


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "notes"
    (place / "deep" / "er").mkdir(parents=True)
    (place / "soup.md").write_text(SOUP)
    (place / "deep" / "bread.txt").write_text(BREAD)
    (place / "deep" / "er" / "moon.pdf").write_bytes(pdf(["The astronauts landed in July"]))
    (place / "picture.png").write_bytes(b"\x89PNG")
    (place / ".hidden.md").write_text("secret")
    (place / "node_modules").mkdir()
    (place / "node_modules" / "x.md").write_text("not this")
    return place


def watch(server: LiveServer, folder: Path, **more: Any) -> httpx.Response:
    return server.owner.post(FOLDERS, json={"path": str(folder), **more})


def scan(server: LiveServer, id_: str) -> dict[str, int]:
    reply = server.owner.post(f"{FOLDERS}/{id_}/scan", json={})
    assert reply.status_code == 200, reply.text
    counts: dict[str, int] = reply.json()["counts"]
    return {outcome: count for outcome, count in counts.items() if count}


def names(server: LiveServer) -> set[str]:
    return {source.rpartition("/")[2] for source in listed(server)}


# ---- folders ------------------------------------------------------------------------------------
def test_a_folder_is_read_and_then_only_what_changed(server: LiveServer, folder: Path) -> None:
    done = watch(server, folder).json()
    assert (done["kind"], done["state"], done["total"]) == ("folder", "done", 3)
    assert done["counts"]["added"] == 3
    assert names(server) == {"soup.md", "bread.txt", "moon.pdf"}
    (row,) = server.owner.get(FOLDERS).json()["data"]
    assert (row["path"], row["watch"]) == (str(folder), False)
    assert row["scanned_at"]
    assert scan(server, row["id"]) == {"unchanged": 3}

    (folder / "tea.md").write_text("# Tea\n\nSteep it.")
    (folder / "soup.md").write_text("# Soup\n\nNo carrots any more.")
    (folder / "deep" / "bread.txt").unlink()
    os.utime(folder / "deep" / "er" / "moon.pdf", (1, 1))  # touched, and the same
    assert scan(server, row["id"]) == {"added": 1, "updated": 1, "removed": 1, "unchanged": 1}
    assert names(server) == {"soup.md", "tea.md", "moon.pdf"}
    versions = {s.rpartition("/")[2]: d["version"] for s, d in listed(server).items()}
    assert versions == {"soup.md": 2, "tea.md": 1, "moon.pdf": 1}
    assert scan(server, row["id"]) == {"unchanged": 3}

    os.rename(folder / "tea.md", folder / "deep" / "tea2.md")
    assert scan(server, row["id"]) == {"added": 1, "removed": 1, "unchanged": 2}
    source = next(s for s in listed(server) if s.endswith("tea2.md"))
    assert source == (folder / "deep" / "tea2.md").as_uri()
    (hit, *_) = query(server, "steep tea").json()["sources"]
    assert hit["url"] == source

    gone = server.owner.delete(f"{FOLDERS}/{row['id']}").json()
    assert gone == {"id": row["id"], "documents": 3}
    assert listed(server) == {}
    assert consistent(server.settings.data_dir)
    assert (folder / "soup.md").exists()


def test_a_file_is_read_again_only_when_its_size_or_time_is_another(
    server: LiveServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    from tabagent.retrieval import ingest

    before = ingest._file
    monkeypatch.setattr(ingest, "_file", lambda path: opened.append(path.name) or before(path))  # type: ignore[func-returns-value]  # append's None
    watch(server, folder)
    assert sorted(opened) == ["bread.txt", "moon.pdf", "soup.md"]
    opened.clear()
    (row,) = server.owner.get(FOLDERS).json()["data"]
    scan(server, row["id"])
    assert opened == []
    os.utime(folder / "soup.md", (1, 1))
    scan(server, row["id"])
    assert opened == ["soup.md"]
    scan(server, row["id"])
    assert opened == ["soup.md"]


def test_a_watched_folder_is_looked_over_at_the_start_and_now_and_then(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LiveServer(tmp_path, extra=fake_models()) as server:
        watch(server, folder, watch=True, every_s=5, patterns=["*.md"])
        assert names(server) == {"soup.md"}
    with closing(sqlite3.connect(tmp_path / "tabagent.db")) as connection, connection:
        connection.execute("UPDATE folders SET every_s = 1")
    monkeypatch.setattr("tabagent.retrieval.folders.LOOK_S", 0.1)
    (folder / "new.md").write_text("# New\n\nIt came while nobody looked.")
    with LiveServer(tmp_path, extra=fake_models()) as server:
        eventually(lambda: names(server) == {"soup.md", "new.md"}, 5)
        (folder / "newer.md").write_text("# Newer\n\nIt came while the server ran.")
        (folder / "soup.md").unlink()
        eventually(lambda: names(server) == {"new.md", "newer.md"}, 12)
        jobs = server.client.get(JOBS).json()["data"]
        assert len(jobs) <= 8  # it does not look all the time


def test_a_folder_that_is_gone_or_closed_takes_nothing_with_it(
    server: LiveServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch(server, folder)
    (row,) = server.owner.get(FOLDERS).json()["data"]
    moved = folder.rename(folder.with_name("away"))
    refused = server.owner.post(f"{FOLDERS}/{row['id']}/scan", json={})
    problem(refused, "not-found")
    assert len(listed(server)) == 3
    moved.rename(folder)
    real = os.scandir

    def closed(place: Any) -> Any:
        if str(place).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(place))
        return real(place)

    monkeypatch.setattr(os, "scandir", closed)  # root may look everywhere
    assert scan(server, row["id"]) == {"unchanged": 1}
    monkeypatch.undo()
    assert len(listed(server)) == 3
    assert scan(server, row["id"]) == {"unchanged": 3}


def test_files_that_cannot_be_read_are_told(server: LiveServer, folder: Path) -> None:
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 9)
    (folder / "link.md").symlink_to(folder / "nowhere")
    done = watch(server, folder).json()
    assert (done["total"], done["done"]) == (5, 5)
    assert done["counts"] == {"unchanged": 0, "removed": 0, "added": 3, "failed": 1, "skipped": 1}
    assert done["failures"][0]["source"] == (folder / "broken.pdf").as_uri()
    assert done["failures"][0]["problem"]["code"] == "document-unreadable"


def test_a_folder_is_the_owners_and_must_be_there(server: LiveServer, folder: Path) -> None:
    assert server.client.post(FOLDERS, json={"path": str(folder)}).status_code == 401
    for path in ("relative", str(folder / "none")):
        assert (
            problem(watch(server, Path(path)), "invalid-request")["errors"][0]["pointer"] == "/path"
        )
    problem(watch(server, folder, collection="none"), "collection-not-found")
    problem(server.owner.post(f"{FOLDERS}/none/scan", json={}), "not-found")
    one = watch(server, folder / "soup.md").json()
    assert one["counts"]["added"] == 1
    again = watch(server, folder / "soup.md", every_s=99).json()
    assert again["counts"]["unchanged"] == 1
    (row,) = server.owner.get(FOLDERS).json()["data"]
    assert row["every_s"] == 99


# ---- another model --------------------------------------------------------------------------------
@pytest.mark.parametrize(("before", "after"), [(EMBED, EMBEDDER), (EMBEDDER, EMBED)])
def test_another_model_takes_over_while_documents_come_and_go(
    server: LiveServer, before: str, after: str
) -> None:
    data = server.settings.data_dir
    make(server, "c", model=before)
    for begin in (0, 150):
        taken(server, *many(150, begin=begin), collection="c")
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
    assert (row["model"], row["next_model"], row["documents"]) == (after, None, 320)
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


def test_a_folder_and_a_change_of_model_go_on_after_a_stop(tmp_path: Path, folder: Path) -> None:
    for n in range(15):
        (folder / f"s{n}.md").write_text(f"# {n}\n\n" + "sleep a while " * 60)
    with LiveServer(tmp_path, extra=fake_models()) as server:
        first = watch(server, folder, wait=False).json()
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
