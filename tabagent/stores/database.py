"""The database: a SQLite file, or PostgreSQL by its address; brought to its newest shape, durable.

What a write has acknowledged is on the disk: SQLite's journal is a write-ahead log, and every
commit waits for it (`synchronous=FULL`); PostgreSQL does the same unless it is told otherwise.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import structlog

from tabagent.errors import DatabaseBusy
from tabagent.stores.connection import Connection
from tabagent.stores.migrations import MIGRATIONS, Dialect, Migrations
from tabagent.stores.postgres import PostgresServer
from tabagent.stores.sqlite_file import SqliteFile
from tabagent.stores.unusable import DatabaseUnusable

if TYPE_CHECKING:
    from tabagent.stores.postgres import PostgresEngine
    from tabagent.stores.sqlite_engine import SqliteEngine


log = structlog.get_logger(__name__)

PROBE_S: Final = 2.0  # that looking whether it can be used may take
PROBE_EVERY_S: Final = 1.0  # whoever asks sooner gets the last answer


class Database:
    """At `place`: a path, whose file is made at the first write, or postgresql://...

    Belongs to one event loop.
    """

    def __init__(self, place: Path | str, migrations: Migrations = MIGRATIONS) -> None:
        self._side: SqliteFile | PostgresServer = (
            SqliteFile(place, migrations)
            if isinstance(place, Path)
            else PostgresServer(place, migrations)
        )
        self._engine: SqliteEngine | PostgresEngine | None = None
        self._opening = asyncio.Lock()
        self._place = place
        self._probe: asyncio.Task[None] | None = None
        self._probed_at = 0.0
        # SQLite lets one write at a time; who waits here is woken in turn and need not ask again.
        self._turn = asyncio.Lock() if self._side.one_writer else None

    @property
    def dialect(self) -> Dialect:
        return self._side.dialect

    @property
    def made(self) -> bool:
        """Whether there is one that was written to."""
        return self._side.made

    def check(self) -> None:
        """Bring what is there to the newest shape. Blocks. Raises DatabaseUnusable."""
        if self.made:
            self._side.check()

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """What a statement finds, without SQLAlchemy; nothing where there is no database yet.

        A start reads its settings so: importing SQLAlchemy takes longer than all else it does.
        Blocks. Raises DatabaseUnusable.
        """
        return self._side.run(statement) if self.made else []

    async def usable(self) -> None:
        """Raises DatabaseBusy where it cannot be read. Looks at most once a second."""
        if self._probe is None or (
            self._probe.done() and monotonic() - self._probed_at > PROBE_EVERY_S
        ):
            self._probed_at = monotonic()
            self._probe = asyncio.create_task(asyncio.to_thread(self._look))
            self._probe.add_done_callback(_say_why)
        try:
            async with asyncio.timeout(PROBE_S):
                await asyncio.shield(self._probe)
        except (TimeoutError, DatabaseUnusable) as error:
            raise DatabaseBusy("the database cannot be used; the log has the cause") from error

    def _look(self) -> None:
        if self.made:
            self._side.run("SELECT version FROM schema_version")
        elif self._engine is not None:
            raise DatabaseUnusable("the file is gone", "stop the server and put it back")
        elif isinstance(self._place, Path) and not os.access(self._place.parent, os.W_OK):
            raise DatabaseUnusable("its directory cannot be written to", "look at its rights")

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[Connection, None]:
        """A transaction that is on the disk when the block has ended.

        Raises DatabaseBusy when another program writes, InsufficientStorage on a full disk.
        """
        if self._turn is None:
            async with self._transaction(reading=False) as connection:
                yield connection
        else:
            async with self._turn, self._transaction(reading=False) as connection:
                yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[Connection, None]:
        """A view of the database as it is now, which nobody's writing disturbs or waits for."""
        async with self._transaction(reading=True) as connection:
            yield connection

    async def close(self) -> None:
        if self._engine:
            await self._engine.close()
            self._engine = None

    @asynccontextmanager
    async def _transaction(self, *, reading: bool) -> AsyncGenerator[Connection, None]:
        from sqlalchemy.exc import DBAPIError

        engine = await self._opened()
        try:
            async with engine.transaction(reading=reading) as connection:
                yield connection
        except DBAPIError as error:
            raise self._side.typed(error.orig) from error

    async def _opened(self) -> SqliteEngine | PostgresEngine:
        if self._engine is not None:
            return self._engine
        async with self._opening:
            engine = self._engine  # another may have opened it meanwhile
            if engine is None:
                make: Callable[[], SqliteEngine | PostgresEngine] = self._side.engine
                engine = await asyncio.to_thread(make)
                self._engine = engine
            return engine


def _say_why(probe: asyncio.Task[None]) -> None:
    if not probe.cancelled() and (error := probe.exception()):
        log.warning("database_not_usable", why=str(error))


def place_of(url: str | None, file: Path) -> Path | str:
    """Where the setting `database_url` leads: PostgreSQL, another file, or `file`."""
    if url is None:
        return file
    if re.match("postgres(ql)?://", url):
        return url
    return Path(re.sub("^sqlite:///", "", url))
