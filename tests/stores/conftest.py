"""Stores over both databases: every test here runs on SQLite and, where it is, on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tabagent.stores.database import Database
from tests.postgres import MISSING, new_database, postgres_server, programs


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    if programs() is None:
        pytest.skip(MISSING)
    with postgres_server() as address:
        yield address


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where an empty database is, or will be."""
    if request.param == "sqlite":
        return tmp_path / "tabagent.db"
    return new_database(request.getfixturevalue("postgres"), "stores")


@pytest.fixture
async def database(place: Path | str) -> AsyncIterator[Database]:
    made = Database(place)
    made.check()
    yield made
    await made.close()
