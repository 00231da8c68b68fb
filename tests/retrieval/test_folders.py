"""Folders whose files are documents: watched, and read only where they changed."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tabagent.retrieval import ingest
from tabagent.retrieval.reader import Reader
from tests.live import LiveServer, eventually, fake_models
from tests.retrieval.asking import (
    BREAD,
    JOBS,
    SOUP,
    consistent,
    listed,
    problem,
    query,
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
    before = ingest._file

    def file(path: Path, most: int) -> bytes:
        opened.append(path.name)
        return before(path, most)

    monkeypatch.setattr(ingest, "_file", file)
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


def test_files_that_cannot_be_read_are_told_and_not_read_again_as_they_are(
    server: LiveServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 9)
    (folder / "link.md").symlink_to(folder / "nowhere")
    done = watch(server, folder).json()
    assert (done["total"], done["done"]) == (5, 5)
    assert done["counts"] == {"added": 3, "failed": 1, "skipped": 1}
    assert done["failures"][0]["source"] == (folder / "broken.pdf").as_uri()
    assert done["failures"][0]["problem"]["code"] == "document-unreadable"
    (row,) = server.owner.get(FOLDERS).json()["data"]

    async def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("it is as it was")

    monkeypatch.setattr(Reader, "read", never)
    again = server.owner.post(f"{FOLDERS}/{row['id']}/scan", json={}).json()
    assert again["counts"] == {"unchanged": 3, "failed": 1, "skipped": 1}
    assert again["failures"] == done["failures"]
    monkeypatch.undo()
    (folder / "broken.pdf").write_bytes(pdf(["It is whole again"]))
    assert scan(server, row["id"]) == {"unchanged": 3, "added": 1, "skipped": 1}


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
