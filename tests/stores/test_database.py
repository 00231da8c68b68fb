"""The database: durable, brought up to date with a copy made before, and never harmed."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from tabagent.errors import DatabaseBusy, InsufficientStorage
from tabagent.stores.database import Database
from tabagent.stores.migrations import MIGRATIONS
from tabagent.stores.settings import SavedSettings
from tabagent.stores.sqlite_file import backups, prepare
from tabagent.stores.unusable import DatabaseUnusable
from tests.live import LiveServer, eventually

OLD = (("CREATE TABLE things (name TEXT PRIMARY KEY)",),)
NEW = (*OLD, ("ALTER TABLE things ADD COLUMN size INTEGER", "UPDATE things SET size = 1"))
BROKEN = (*OLD, ("ALTER TABLE things ADD COLUMN size INTEGER", "UPDATE nothing SET size = 1"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tabagent.db"


def old_database(file: Path) -> None:
    prepare(file, OLD)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("INSERT INTO things VALUES ('one')")


def look(file: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(query).fetchall()


# ---- migrations ---------------------------------------------------------------------------------


def test_every_migration_works_on_a_database_of_the_version_before(file: Path) -> None:
    for version in range(1, len(MIGRATIONS) + 1):
        prepare(file, MIGRATIONS[:version])
        assert look(file, "SELECT version FROM schema_version") == [(version,)]
    prepare(file)
    assert look(file, "SELECT version FROM schema_version") == [(len(MIGRATIONS),)]


def test_an_older_database_is_migrated_and_copied_before(file: Path) -> None:
    old_database(file)
    prepare(file, NEW)
    assert look(file, "SELECT name, size FROM things") == [("one", 1)]
    (copy,) = backups(file)
    assert look(copy, "SELECT * FROM things") == [("one",)]
    assert look(copy, "SELECT version FROM schema_version") == [(1,)]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    prepare(file, NEW)  # nothing to do, no copy
    assert backups(file) == [copy]


def test_a_migration_that_fails_leaves_the_database_as_it_was(file: Path) -> None:
    old_database(file)
    with pytest.raises(sqlite3.OperationalError):
        prepare(file, BROKEN)
    assert look(file, "SELECT * FROM things") == [("one",)]
    assert look(file, "SELECT version FROM schema_version") == [(1,)]
    prepare(file, NEW)
    assert look(file, "SELECT * FROM things") == [("one", 1)]


def test_the_last_three_copies_are_kept(file: Path) -> None:
    old_database(file)
    for number in range(5):
        made = file.with_name(f"tabagent-v1-2026010{number}T000000.backup")
        made.write_bytes(b"an older one")
        os.utime(made, (number, number))
    prepare(file, NEW)
    names = [copy.name for copy in backups(file)]
    assert len(names) == 3
    assert names[:2] == [f"tabagent-v1-2026010{number}T000000.backup" for number in (3, 4)]


def test_a_newer_database_is_refused_and_not_touched(file: Path) -> None:
    prepare(file, NEW)
    before = file.read_bytes()
    with pytest.raises(DatabaseUnusable, match="version 2, this TabAgent knows 1") as caught:
        Database(file, OLD).check()
    assert "newer" in caught.value.fix
    assert file.read_bytes() == before


@pytest.mark.parametrize("damage", ["noise", "middle"])
def test_a_damaged_database_is_refused_kept_and_the_copy_is_named(file: Path, damage: str) -> None:
    old_database(file)
    prepare(file, NEW)
    if damage == "noise":
        file.write_bytes(b"this was a database once " * 400)
    else:
        content = bytearray(file.read_bytes())
        content[:64] = bytes(64)
        file.write_bytes(content)
    for side in ("-wal", "-shm"):
        file.with_name(file.name + side).unlink(missing_ok=True)
    before = file.read_bytes()
    with pytest.raises(DatabaseUnusable, match=r"tabagent\.db is damaged") as caught:
        Database(file, NEW).check()
    assert backups(file)[0].name in caught.value.fix
    assert file.read_bytes() == before


def test_the_server_does_not_start_on_a_damaged_database_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "tabagent.db").write_bytes(b"not a database, surely" * 50)
    command = [
        sys.executable,
        "-m",
        "tabagent",
        "serve",
        "--port",
        "0",
        "--data-dir",
        str(tmp_path),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode != 0
    assert "tabagent.db is damaged" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert (tmp_path / "tabagent.db").read_bytes().startswith(b"not a database")


# ---- writing ------------------------------------------------------------------------------------


async def test_what_is_written_is_private_durable_and_read_again(file: Path) -> None:
    database = Database(file)
    saved = SavedSettings(database)
    await saved.set("a", {"one": [1, None, "ä"]})
    await saved.set("b", 2)
    await saved.set("b", None)
    async with database.writing() as connection:
        pragmas = [
            (await connection.execute(text(f"PRAGMA {name}"))).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert pragmas == ["wal", 2, 1, 5000]
    await database.close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = SavedSettings(Database(file))
    again.read()
    assert (again.get("a"), again.get("b")) == ({"one": [1, None, "ä"]}, None)


async def test_a_caller_who_leaves_does_not_part_memory_from_disk(file: Path) -> None:
    database = Database(file)
    saved = SavedSettings(database)
    await saved.set("a", 0)
    for number in range(20):
        writing = asyncio.create_task(saved.set("a", number))
        await asyncio.sleep(number / 10000)
        writing.cancel()
        await asyncio.wait([writing])
    await saved.set("b", 1)  # after all that was begun
    await database.close()
    again = SavedSettings(Database(file))
    again.read()
    assert again.get("a") == saved.get("a")


async def test_a_database_that_another_program_writes_is_busy_then_works(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pragmas = ("PRAGMA journal_mode=WAL", "PRAGMA busy_timeout=50")
    monkeypatch.setattr("tabagent.stores.sqlite_file.PRAGMAS", pragmas)
    database = Database(file)
    saved = SavedSettings(database)
    await saved.set("a", 1)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseBusy):
            await saved.set("a", 2)
        other.execute("ROLLBACK")
    assert saved.get("a") == 1
    await saved.set("a", 3)
    await database.close()


async def test_more_readers_than_connections_take_turns(file: Path) -> None:
    prepare(file)
    database = Database(file)

    async def read() -> None:
        async with database.reading() as connection:
            for _ in range(2):
                await connection.execute(text("SELECT version FROM schema_version"))

    async with asyncio.timeout(10):
        await asyncio.gather(*(read() for _ in range(200)))
    await database.close()


async def test_a_full_disk_saves_nothing_and_the_next_write_works(file: Path) -> None:
    database = Database(file)
    saved = SavedSettings(database)
    await saved.set("a", 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, before[1]))
    try:
        with pytest.raises(InsufficientStorage):
            await saved.set("a", "much " * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert saved.get("a") == 1
    await saved.set("a", 2)
    await database.close()
    again = SavedSettings(Database(file))
    again.read()
    assert again.get("a") == 2


def test_all_that_was_acknowledged_is_there_after_a_kill(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tabagent",
        "serve",
        "--port",
        "0",
        "--data-dir",
        str(tmp_path),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        runtime = tmp_path / "runtime.json"
        eventually(runtime.exists, 20)
        url = json.loads(runtime.read_text())["url"]
        token = (tmp_path / "token").read_text().strip()
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}) as client:
            acknowledged = 0
            for number in range(1, 31):
                body = {"params": {"seed": number}}
                assert client.put("/v1/params", json=body).status_code == 200
                acknowledged = number
            process.kill()
    finally:
        process.kill()
        process.wait()
    with LiveServer(tmp_path) as server:
        assert server.client.get("/v1/params").json()["params"]["seed"] == acknowledged


def test_a_setting_of_another_version_is_left_out_and_the_rest_counts(tmp_path: Path) -> None:
    prepare(tmp_path / "tabagent.db")
    with closing(sqlite3.connect(tmp_path / "tabagent.db")) as connection, connection:
        rows = [("params", '{"warmth": 3, "top_k": 5}', 0.0), ("other", "{not json", 0.0)]
        connection.executemany("INSERT INTO settings VALUES (?, ?, ?)", rows)
    with LiveServer(tmp_path) as server:
        kept = server.client.get("/v1/params").json()["params"]
    assert kept["top_k"] == 5


def test_a_start_without_saved_settings_makes_no_database(tmp_path: Path) -> None:
    with LiveServer(tmp_path) as server:
        assert server.client.get("/v1/params").json()["updated_at"] is None
    assert not (tmp_path / "tabagent.db").exists()
