"""SQLite from an event loop: every statement is one trip to a thread.

SQLAlchemy's own way to asyncio (aiosqlite) makes four or more trips for a statement, and as many for
the beginning and the end of a transaction; on a busy machine each waits for its turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

if TYPE_CHECKING:
    from sqlalchemy import Connection as SyncConnection
    from sqlalchemy import CursorResult, Executable

THREADS: Final = 4
CONNECTIONS: Final = 15
T = TypeVar("T")


class SqliteEngine:
    """Connections to one file. Made in a thread, since it imports SQLAlchemy."""

    def __init__(self, path: Path, pragmas: Sequence[str]) -> None:
        from sqlalchemy import create_engine, event

        self._threads = ThreadPoolExecutor(THREADS, "sqlite")
        # Who waits for a connection waits here: in a thread of ours it would keep those from going
        # on that have one.
        self._room = asyncio.Semaphore(CONNECTIONS)
        self._engine = create_engine(
            f"sqlite:///{path}",
            connect_args={"check_same_thread": False},
            pool_size=CONNECTIONS,
            max_overflow=0,
        )

        def connected(connection: Any, record: object) -> None:
            connection.isolation_level = None  # we begin, not the driver
            for pragma in pragmas:
                connection.execute(pragma)

        def begin(connection: Any) -> None:
            # One that would only later want to write could find that another has: not so. Reading
            # begins nothing: each statement sees what is committed.
            if not connection.get_execution_options().get("reading"):
                connection.exec_driver_sql("BEGIN IMMEDIATE")

        event.listen(self._engine, "connect", connected)
        event.listen(self._engine, "begin", begin)
        self._reading = self._engine.execution_options(reading=True)

    @asynccontextmanager
    async def transaction(self, *, reading: bool) -> AsyncGenerator[SqliteConnection, None]:
        """What was written in the block is on the disk at its end. Raises DBAPIError."""
        engine = self._reading if reading else self._engine
        async with self._room:
            connection = await self._run(engine.connect)
            try:
                yield SqliteConnection(connection, self._run)
                if not reading:
                    await self._run(connection.commit)
            except BaseException:
                if not reading:
                    await self._run(connection.rollback)
                raise
            finally:
                connection.close()  # back into the pool

    async def _run(self, work: Callable[[], T]) -> T:
        """In a thread; whoever is cancelled waits until it has ended, so that no two use one
        connection.
        """
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                await asyncio.wait([future])
            future.exception()
            raise

    async def close(self) -> None:
        await self._run(self._engine.dispose)
        self._threads.shutdown()


class SqliteConnection:
    """See stores/connection.py."""

    def __init__(
        self,
        connection: SyncConnection,
        run: Callable[[Callable[[], Any]], Any],
    ) -> None:
        self._connection, self._run = connection, run

    async def execute(
        self, statement: Executable, parameters: Any = None, /
    ) -> CursorResult[*tuple[Any, ...]]:
        """The rows are all there when it returns."""

        def work() -> Any:
            found = self._connection.execute(statement, parameters)
            return found.freeze()() if found.returns_rows else found

        return cast("CursorResult[*tuple[Any, ...]]", await self._run(work))

    async def scalar(self, statement: Executable, parameters: Any = None, /) -> Any:
        return await self._run(lambda: self._connection.scalar(statement, parameters))
