"""PostgreSQL: migrated with a copy made before, and refused in one line where it cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from tabagent.stores.database import Database
from tabagent.stores.migrations import MIGRATIONS
from tabagent.stores.postgres import backups
from tabagent.stores.unusable import DatabaseUnusable
from tests.live import FAKE, LiveServer, fake_model
from tests.postgres import new_database

OLD = (("CREATE TABLE things (name TEXT PRIMARY KEY)",),)
NEW = (*OLD, ("ALTER TABLE things ADD COLUMN size INTEGER", "UPDATE things SET size = 1"))
BROKEN = (*OLD, ("ALTER TABLE things ADD COLUMN size INTEGER", "UPDATE nothing SET size = 1"))


@pytest.fixture
def address(postgres: str) -> str:
    return new_database(postgres, "migrated")


def look(address: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(address) as connection:
        return connection.execute(query).fetchall()


def old_database(address: str) -> None:
    Database(address, OLD).check()
    with psycopg.connect(address) as connection:
        connection.execute("INSERT INTO things VALUES ('one')")


def test_every_migration_works_on_a_database_of_the_version_before(address: str) -> None:
    for version in range(1, len(MIGRATIONS) + 1):
        Database(address, MIGRATIONS[:version]).check()
        assert look(address, "SELECT version FROM schema_version") == [(version,)]


def test_an_older_database_is_migrated_and_copied_before(address: str) -> None:
    old_database(address)
    Database(address, NEW).check()
    assert look(address, "SELECT name, size FROM things") == [("one", 1)]
    with psycopg.connect(address) as connection:
        (copy,) = backups(connection)
    assert look(address, f"SELECT * FROM {copy}.things") == [("one",)]
    Database(address, NEW).check()  # nothing to do, no copy
    with psycopg.connect(address) as connection:
        assert backups(connection) == [copy]


def test_a_migration_that_fails_leaves_the_database_as_it_was(address: str) -> None:
    old_database(address)
    with pytest.raises(DatabaseUnusable, match="nothing"):
        Database(address, BROKEN).check()
    assert look(address, "SELECT * FROM things") == [("one",)]
    assert look(address, "SELECT version FROM schema_version") == [(1,)]


def test_a_newer_database_is_refused(address: str) -> None:
    Database(address, NEW).check()
    with pytest.raises(DatabaseUnusable, match="version 2, this TabAgent knows 1"):
        Database(address, OLD).check()


def test_a_server_that_does_not_answer_is_named_and_its_password_is_not() -> None:
    with pytest.raises(DatabaseUnusable) as caught:
        Database("postgresql://me:secret@127.0.0.1:1/none").check()
    assert "PostgreSQL cannot be used" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "database_url" in caught.value.fix


def test_a_server_keeps_everything_there_over_a_restart(postgres: str, tmp_path: Path) -> None:
    url = new_database(postgres, "served")
    with LiveServer(tmp_path, extra=[fake_model()], database_url=url) as server:
        server.owner.post("/v1/sessions", json={"id": "kept"})
        assert server.chat("5", session_id="kept").status_code == 200
        assert server.owner.put("/v1/params", json={"params": {"seed": 4}}).status_code == 200
        document = {"source": "soup", "text": "Boil two carrots for an hour."}
        added = server.owner.post("/v1/rag/documents", json={"documents": [document]})
        assert added.json()["counts"] == {"added": 1}
    assert not (tmp_path / "tabagent.db").exists()
    with LiveServer(tmp_path, extra=[fake_model()], database_url=url) as server:
        history = server.client.get("/v1/sessions/kept/history").json()["data"]
        assert [m["content"] for m in history] == ["1 2 3 4 5 ", "5"]
        assert history[0]["model"] == FAKE
        assert server.client.get("/v1/params").json()["params"]["seed"] == 4
        found = server.client.post("/v1/rag/query", json={"query": "carrots", "answer": False})
        assert found.json()["sources"][0]["source"] == "soup"
