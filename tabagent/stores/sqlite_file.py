"""The database as one SQLite file: made, migrated with a copy made before, and never harmed."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from time import strftime
from typing import Any, Final

import structlog

from tabagent.errors import DatabaseBusy, InsufficientStorage, InternalError, TabAgentError
from tabagent.stores.migrations import MIGRATIONS, Migrations, statements
from tabagent.stores.sqlite_engine import SqliteEngine
from tabagent.stores.unusable import DatabaseUnusable, NewerDatabase

log = structlog.get_logger(__name__)

BUSY_S: Final = 5.0  # that a write waits for another program's
BACKUPS: Final = 3  # copies from before migrations that are kept
PRAGMAS: Final = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    f"PRAGMA busy_timeout={int(BUSY_S * 1000)}",
)


class SqliteFile:
    """The file and everything about it that PostgreSQL has otherwise."""

    dialect: Final = "sqlite"
    one_writer: Final = True

    def __init__(self, path: Path, migrations: Migrations) -> None:
        self.path, self._migrations = path, migrations

    @property
    def made(self) -> bool:
        return self.path.exists()

    def check(self) -> None:
        with self._usable():
            prepare(self.path, self._migrations)

    def prepare(self) -> None:
        try:
            prepare(self.path, self._migrations)
        except (sqlite3.Error, OSError, NewerDatabase) as error:
            raise typed(error) from error

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        with self._usable(), closing(connect(self.path)) as connection:
            return connection.execute(statement).fetchall()

    def engine(self) -> SqliteEngine:
        """Connections for an event loop. Blocks."""
        self.prepare()
        return SqliteEngine(self.path, PRAGMAS)

    def typed(self, error: BaseException | None) -> TabAgentError:
        return typed(error)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, NewerDatabase) as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> DatabaseUnusable:
        name = self.path.name
        if isinstance(error, NewerDatabase):
            return error.unusable(name)
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(
            error, sqlite3.OperationalError
        ):
            kept = backups(self.path)
            last = f"put {kept[-1].name} in its place" if kept else "move it away to start anew"
            return DatabaseUnusable(f"{name} is damaged: {error}", last)
        why = error.strerror if isinstance(error, OSError) else str(error)
        return DatabaseUnusable(
            f"{name} cannot be opened: {why}", "look at its rights, and at who else has it open"
        )


def prepare(path: Path, migrations: Migrations = MIGRATIONS) -> None:
    """Make the database or migrate it; one that has something in it is copied before.

    Each migration is one transaction, and so is what it says of the version. Blocks. Raises
    sqlite3.Error, OSError or NewerDatabase.
    """
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    with closing(connect(path)) as connection:
        found = _version(connection)
        if found > len(migrations):
            raise NewerDatabase(found, len(migrations))
        if 0 < found < len(migrations):
            _back_up(connection, path, found)
        for number, migration in enumerate(migrations[found:], found + 1):
            with _transaction(connection):
                for statement in statements(migration, "sqlite"):
                    connection.execute(statement)
                connection.execute("DELETE FROM schema_version")
                connection.execute("INSERT INTO schema_version VALUES (?)", (number,))
            log.info("database_migrated", version=number)


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    for pragma in PRAGMAS:
        connection.execute(pragma)
    return connection


def _version(connection: sqlite3.Connection) -> int:
    with _transaction(connection):
        connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    row = connection.execute("SELECT max(version) FROM schema_version").fetchone()
    return int(row[0] or 0)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _back_up(connection: sqlite3.Connection, path: Path, version: int) -> None:
    copy = path.with_name(f"{path.stem}-v{version}-{strftime('%Y%m%dT%H%M%S')}.backup")
    copy.unlink(missing_ok=True)
    os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with closing(sqlite3.connect(copy)) as target:
        connection.backup(target)
    for old in backups(path)[:-BACKUPS]:
        with suppress(OSError):
            old.unlink()
    log.info("database_backed_up", file=copy.name)


def backups(path: Path) -> list[Path]:
    """Copies from before migrations, the oldest first."""
    return sorted(path.parent.glob(f"{path.stem}-v*.backup"), key=lambda file: file.stat().st_mtime)


def typed(error: BaseException | None) -> TabAgentError:
    """What a caller is told of a write that failed. Nothing of it was kept."""
    code = getattr(error, "sqlite_errorname", "")
    if isinstance(error, NewerDatabase):
        return InternalError(f"the database {error}")
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return DatabaseBusy("another program writes into the database", retry_after=BUSY_S)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if full or code.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return InsufficientStorage("the disk takes no more: nothing was saved")
    if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")) or isinstance(error, OSError):
        return InsufficientStorage("the database cannot be written to: nothing was saved")
    log.error("database_failed", exc_info=error)
    return InternalError("the database failed; the log has the cause")
