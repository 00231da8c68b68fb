"""The database as PostgreSQL: a server of its own, for several gateways or a large team."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import strftime
from typing import TYPE_CHECKING, Any, Final

import structlog

from tabagent.errors import DatabaseBusy, InsufficientStorage, InternalError, TabAgentError
from tabagent.stores.migrations import Migrations, statements
from tabagent.stores.unusable import DatabaseUnusable, NewerDatabase

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy.ext.asyncio import AsyncConnection

log = structlog.get_logger(__name__)

BACKUPS: Final = 3  # copies from before migrations that are kept
MIGRATING: Final = 0x7AB_A6E  # the advisory lock of whoever migrates
CONNECT_S: Final = 10
FULL: Final = ("53100", "53200", "54")  # disk full, out of memory, a limit of the program
PASSING: Final = ("08", "40", "53300", "55P03", "57")
"""Connections, rollbacks of what ran at once, locks, and what an operator stops."""


class PostgresServer:
    """Everything that SQLite has otherwise. `url` as libpq takes it: postgresql://..."""

    dialect: Final = "postgresql"
    one_writer: Final = False
    made: Final = True

    def __init__(self, url: str, migrations: Migrations) -> None:
        self._url, self._migrations = url, migrations
        self._address = re.sub("^postgres(ql)?://", "postgresql+psycopg://", url)

    def check(self) -> None:
        """Bring it to the newest shape. Blocks. Raises DatabaseUnusable."""
        psycopg = _driver()
        try:
            self._migrate()
        except NewerDatabase as error:
            raise error.unusable("the PostgreSQL database") from error
        except psycopg.Error as error:
            raise DatabaseUnusable(
                f"PostgreSQL cannot be used: {_words(error)}",
                "look at database_url, and whether the server runs",
            ) from error

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        psycopg = _driver()
        try:
            with self._connect() as connection:
                found = connection.execute(statement)
                return found.fetchall() if found.description else []
        except psycopg.Error as error:
            raise DatabaseUnusable(
                f"PostgreSQL cannot be used: {_words(error)}",
                "look at database_url, and whether the server runs",
            ) from error

    def engine(self) -> PostgresEngine:
        """Connections for an event loop. Blocks."""
        return PostgresEngine(self._address)

    def typed(self, error: BaseException | None) -> TabAgentError:
        """What a caller is told of a write that failed. Nothing of it was kept."""
        state = getattr(error, "sqlstate", None)
        if state and state.startswith(FULL):
            return InsufficientStorage("the database takes no more: nothing was saved")
        if state is None or state.startswith(PASSING):
            return DatabaseBusy("the database does not answer, or others hold it", retry_after=5)
        log.error("database_failed", exc_info=error)
        return InternalError("the database failed; the log has the cause")

    def _connect(self) -> psycopg.Connection:
        made: psycopg.Connection = _driver().connect(self._url, connect_timeout=CONNECT_S)
        return made

    def _migrate(self) -> None:
        with self._connect() as connection:
            # One transaction for all of it, and one server at a time.
            run = connection.execute
            run("SELECT pg_advisory_xact_lock(%s)", (MIGRATING,))
            run("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
            row = run("SELECT max(version) FROM schema_version").fetchone()
            found, known = int(row[0] or 0) if row else 0, len(self._migrations)
            if found > known:
                raise NewerDatabase(found, known)
            if 0 < found < known:
                _back_up(connection, found)
            for number, migration in enumerate(self._migrations[found:], found + 1):
                for statement in statements(migration, "postgresql"):
                    run(statement)
                run("DELETE FROM schema_version")
                run("INSERT INTO schema_version VALUES (%s)", (number,))
                log.info("database_migrated", version=number)


class PostgresEngine:
    """Connections to one server."""

    def __init__(self, address: str) -> None:
        from sqlalchemy.ext.asyncio import create_async_engine

        self._engine = create_async_engine(address)

    @asynccontextmanager
    async def transaction(self, *, reading: bool) -> AsyncGenerator[AsyncConnection, None]:
        """What was written in the block is on the disk at its end. Raises DBAPIError."""
        async with self._engine.begin() as connection:
            yield connection

    async def close(self) -> None:
        await self._engine.dispose()


def _back_up(connection: psycopg.Connection, version: int) -> None:
    """Copy every table into a schema of its own; the oldest of such schemas go."""
    from psycopg import sql

    name = f"tabagent_v{version}_{strftime('%Y%m%dT%H%M%S')}".lower()
    rows = connection.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
    ).fetchall()
    connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
    for (table,) in rows:
        copy, original = sql.Identifier(name, table), sql.Identifier(table)
        connection.execute(sql.SQL("CREATE TABLE {} AS TABLE {}").format(copy, original))
    for old in backups(connection)[:-BACKUPS]:
        connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(old)))
    log.info("database_backed_up", schema=name)


def backups(connection: psycopg.Connection) -> list[str]:
    """Schemas with copies from before migrations, the oldest first."""
    found = connection.execute(
        "SELECT nspname FROM pg_namespace WHERE nspname ~ '^tabagent_v[0-9]+_[0-9]{8}t[0-9]{6}$'"
    ).fetchall()
    return sorted((name for (name,) in found), key=lambda name: name.rpartition("_")[2])


def _words(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _driver() -> Any:
    try:
        import psycopg
    except ImportError:
        raise DatabaseUnusable(
            "the driver of PostgreSQL is not installed", "pip install 'tabagent[postgresql]'"
        ) from None
    return psycopg
