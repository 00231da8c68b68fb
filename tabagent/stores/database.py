"""The database: one SQLite file, opened when it is needed, brought to its newest shape, durable.

What a write has acknowledged is on the disk: the journal is a write-ahead log, and every commit
waits for it (`synchronous=FULL`).
"""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from time import strftime
from typing import TYPE_CHECKING, Any, Final

import structlog

from tabagent.errors import DatabaseBusy, InsufficientStorage, InternalError, TabAgentError
from tabagent.stores.migrations import MIGRATIONS, Migrations

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

log = structlog.get_logger(__name__)

BUSY_S: Final = 5.0  # that a write waits for another program's
BACKUPS: Final = 3  # copies from before migrations that are kept
PRAGMAS: Final = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    f"PRAGMA busy_timeout={int(BUSY_S * 1000)}",
)


class DatabaseUnusable(Exception):
    """The file cannot be served from; the message says why, `fix` what to do. It is left as it is."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why)
        self.fix = fix


class Database:
    """`path` is made at the first write. Belongs to one event loop."""

    def __init__(self, path: Path, migrations: Migrations = MIGRATIONS) -> None:
        self.path, self._migrations = path, migrations
        self._engine: AsyncEngine | None = None
        self._opening = asyncio.Lock()

    def check(self) -> None:
        """Bring an existing file to the newest shape. Blocks. Raises DatabaseUnusable."""
        if self.path.exists():
            with self._usable():
                prepare(self.path, self._migrations)

    def read(self, query: str) -> list[tuple[Any, ...]]:
        """What a query finds, through SQLite's own module; nothing where there is no file yet.

        A start reads its settings so: importing SQLAlchemy takes longer than all else it does.
        Blocks. Raises DatabaseUnusable.
        """
        if not self.path.exists():
            return []
        with self._usable(), closing(_connect(self.path)) as connection:
            return connection.execute(query).fetchall()

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[AsyncConnection, None]:
        """A transaction that is on the disk when the block has ended.

        Raises DatabaseBusy when another program writes, InsufficientStorage on a full disk.
        """
        from sqlalchemy.exc import DBAPIError

        engine = await self._opened()
        try:
            async with engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            raise _typed(error.orig) from error

    async def close(self) -> None:
        if self._engine:
            await self._engine.dispose()
            self._engine = None

    async def _opened(self) -> AsyncEngine:
        async with self._opening:
            if self._engine is None:
                self._engine = await asyncio.to_thread(self._open)
            return self._engine

    def _open(self) -> AsyncEngine:
        from sqlalchemy import event
        from sqlalchemy.ext.asyncio import create_async_engine

        try:
            prepare(self.path, self._migrations)
        except (sqlite3.Error, OSError) as error:
            raise _typed(error) from error
        engine = create_async_engine(f"sqlite+aiosqlite:///{self.path}")

        def connected(connection: Any, record: object) -> None:
            connection.isolation_level = None  # SQLAlchemy begins, not the driver
            for pragma in PRAGMAS:
                connection.execute(pragma)

        event.listen(engine.sync_engine, "connect", connected)
        # A transaction that would only later want to write could find that another has: not so.
        event.listen(
            engine.sync_engine, "begin", lambda found: found.exec_driver_sql("BEGIN IMMEDIATE")
        )
        return engine

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> DatabaseUnusable:
        name = self.path.name
        if isinstance(error, NewerDatabase):
            return DatabaseUnusable(f"{name} {error}", "install that version, or a newer one")
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


class NewerDatabase(sqlite3.DatabaseError):
    """It was written by a version of TabAgent that knows more."""


def prepare(path: Path, migrations: Migrations = MIGRATIONS) -> None:
    """Make the database or migrate it; one that has something in it is copied before.

    Each migration is one transaction, and so is what it says of the version. Blocks. Raises
    sqlite3.Error or OSError.
    """
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    with closing(_connect(path)) as connection:
        found = _version(connection)
        if found > len(migrations):
            raise NewerDatabase(f"is of version {found}, this TabAgent knows {len(migrations)}")
        if 0 < found < len(migrations):
            _back_up(connection, path, found)
        for number, statements in enumerate(migrations[found:], found + 1):
            with _transaction(connection):
                for statement in statements:
                    connection.execute(statement)
                connection.execute("DELETE FROM schema_version")
                connection.execute("INSERT INTO schema_version VALUES (?)", (number,))
            log.info("database_migrated", version=number)


def _connect(path: Path) -> sqlite3.Connection:
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


def _typed(error: BaseException | None) -> TabAgentError:
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
