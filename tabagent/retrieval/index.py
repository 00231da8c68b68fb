"""The index beside the database: kept in line with it, made anew when it is lost, tended when idle.

A search that finds its table lost says so, and the table is being rebuilt from then on. What the
index holds too much does no harm, since what is found is read in the database.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

from tabagent.errors import IndexRebuilding, TabAgentError
from tabagent.retrieval.tally import Tally
from tabagent.stores.vectors import Entry, Filter, IndexLost, VectorStore

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = structlog.get_logger(__name__)

BATCH: Final = 2000  # rows that are put in at once
TEND_S: Final = 5.0  # after the last write
READY_S: Final = 3.0  # that a search waits for a table to be made
Hits = list[tuple[int, float]]


class Record(Protocol):
    """The database's side of a table."""

    async def numbers(self, subject: str, model: str) -> list[int]:
        """Of all rows that should be in it."""

    async def entries(self, numbers: Sequence[int], model: str) -> list[Entry]:
        """Those rows, as far as they are still there."""


def table_name(subject: str, model: str) -> str:
    """Of what is searched, in the vectors of a model."""
    return f"{subject}.{hashlib.sha256(model.encode()).hexdigest()[:12]}"


class Index:
    """Tables by what is searched and the model whose vectors they hold."""

    def __init__(self, store: VectorStore, record: Record, tally: Tally | None = None) -> None:
        self._store, self._record = store, record
        self._tally = tally or Tally()
        self._trusted: set[str] = set()  # compared with the database since the start
        self._building: dict[str, asyncio.Task[None]] = {}
        self._builds: dict[str, int] = {}  # how many were begun
        self._broken: set[str] = set()  # what is there of them is of no use
        self._read: dict[str, int] = {}  # the highest number that a table was made of
        self._turns: dict[str, asyncio.Lock] = {}
        self._tending: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    # ---- changes --------------------------------------------------------------------------------
    async def change(
        self, subject: str, model: str, added: Sequence[Entry], removed: Sequence[int]
    ) -> None:
        """What has been written into the database is put into the index."""
        name = table_name(subject, model)
        if not added and not removed:
            return
        try:
            async with self._turn(name):
                if not await self._store.open(name):
                    if added:
                        await self._fill(name, subject, model)
                    return
                # Whoever made the table meanwhile may have read them in the database already.
                read = self._read.get(name, 0)
                there = [entry.number for entry in added if entry.number <= read]
                if removed or there:
                    await self._store.remove(name, [*removed, *there])
                await self._store.add(name, added)
        except IndexLost as error:
            self._lost(name, subject, model, error)
            return
        self._tend_later(name)

    async def settle(self, subject: str, model: str) -> None:
        """What was put in is searched as all the rest from now on."""
        name = table_name(subject, model)
        try:
            await self._store.join(name)
        except IndexLost as error:
            self._lost(name, subject, model, error)

    async def forget_owner(self, subject: str, model: str, owner: str) -> None:
        """Take out all rows of one; what is missed is taken out with the next start."""
        name = table_name(subject, model)
        try:
            async with self._turn(name):
                if await self._store.open(name):
                    await self._store.remove_owner(name, owner)
        except IndexLost as error:
            self._lost(name, subject, model, error)

    async def drop(self, subject: str, model: str) -> None:
        name = table_name(subject, model)
        self._trusted.discard(name)
        async with self._turn(name):
            await self._store.drop(name)

    # ---- searching ------------------------------------------------------------------------------
    async def nearest(
        self, subject: str, model: str, vector: NDArray[np.float32], most: int, where: Filter
    ) -> Hits:
        """(number, cosine), the nearest first. Raises IndexRebuilding."""
        return await self._asked(
            subject, model, lambda name: self._store.nearest(name, vector, most, where)
        )

    async def saying(self, subject: str, model: str, query: str, most: int, where: Filter) -> Hits:
        """(number, BM25 score), the best first. Raises IndexRebuilding."""
        return await self._asked(
            subject, model, lambda name: self._store.saying(name, query, most, where)
        )

    async def _asked(
        self, subject: str, model: str, ask: Callable[[str], Coroutine[Any, Any, Hits]]
    ) -> Hits:
        name = table_name(subject, model)
        await self.ready(subject, model)
        if name in self._trusted and not await self._store.open(name):
            return []  # there is nothing to put in
        before = self._builds.get(name, 0)
        try:
            return await ask(name)
        except IndexLost as error:
            if self._builds.get(name, 0) == before:  # else it is about the one before
                self._lost(name, subject, model, error)
            raise self._rebuilding() from error

    # ---- upkeep ---------------------------------------------------------------------------------
    async def ready(self, subject: str, model: str) -> None:
        """Have the table be there and be compared. Raises IndexRebuilding while that takes long."""
        name = table_name(subject, model)
        if name in self._trusted:
            return
        if name not in self._building:
            self._build(name, subject, model)
        await asyncio.wait([self._building[name]], timeout=READY_S)
        if name not in self._trusted:
            raise self._rebuilding()

    async def made(self, subject: str, model: str) -> None:
        """The same, however long it takes. Raises IndexRebuilding where it cannot be made now."""
        name = table_name(subject, model)
        if name not in self._trusted:
            if name not in self._building:
                self._build(name, subject, model)
            await self._built(name)
        if name not in self._trusted:
            raise self._rebuilding()

    async def rebuild(self, subject: str, model: str) -> None:
        """Make the table anew, from what the database has."""
        name = table_name(subject, model)
        self._trusted.discard(name)
        async with self._turn(name):
            await self._store.drop(name)
        await self.made(subject, model)

    async def stop(self) -> None:
        for timer in self._tending.values():
            timer.cancel()
        for task in (*self._building.values(), *self._tasks):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task

    def _lost(self, name: str, subject: str, model: str, error: Exception) -> None:
        log.warning("index_lost", table=name, why=str(error))
        self._store.forget(name)
        self._trusted.discard(name)
        self._broken.add(name)
        if name not in self._building:
            self._build(name, subject, model)

    def _build(self, name: str, subject: str, model: str) -> None:
        self._builds[name] = self._builds.get(name, 0) + 1
        task = asyncio.get_running_loop().create_task(self._reconcile(name, subject, model))
        self._building[name] = task

        def ended(task: asyncio.Task[None]) -> None:
            self._building.pop(name, None)
            if task.cancelled() or (error := task.exception()) is None:
                return
            if isinstance(error, IndexLost | TabAgentError):  # a full disk; it is tried again
                log.warning("index_not_rebuilt", table=name, why=str(error))
            else:
                log.error("index_not_rebuilt", table=name, exc_info=error)

        task.add_done_callback(ended)

    async def _built(self, name: str) -> None:
        if task := self._building.get(name):
            await asyncio.wait([task])

    async def _reconcile(self, name: str, subject: str, model: str) -> None:
        """Take out of the table what the database has not, and put in what it lacks."""
        async with self._turn(name):
            try:
                if name not in self._broken and await self._store.open(name):
                    there = await self._store.numbers(name)
                    wanted = set(await self._wanted(name, subject, model))
                    known = set(there)
                    if len(known) < len(there):
                        raise IndexLost("rows are there twice")
                    await self._store.remove(name, sorted(known - wanted))
                    await self._put(name, model, sorted(wanted - known))
                    if changed := len(known ^ wanted):
                        log.info("index_reconciled", table=name, rows=changed)
                else:
                    await self._fill(name, subject, model)
            except IndexLost as error:
                log.warning("index_lost", table=name, why=str(error))
                self._store.forget(name)
                await self._fill(name, subject, model)
            self._trusted.add(name)
        self._tend_later(name)

    async def _fill(self, name: str, subject: str, model: str) -> None:
        """Make the table and put everything in. Until then it is not trusted."""
        self._trusted.discard(name)
        numbers = await self._wanted(name, subject, model)
        made = False
        for start in range(0, len(numbers), BATCH):
            entries = await self._record.entries(numbers[start : start + BATCH], model)
            if entries and not made:
                await self._store.make(name, len(entries[0].vector) // 4)
                made = True
            await self._store.add(name, entries)
        if not made:
            await self._store.drop(name)
        self._broken.discard(name)
        self._trusted.add(name)
        if made:
            self._tally.index_rebuilds += 1
        if made and len(numbers) > BATCH:
            await self._store.tend(name, now=True)

    async def _wanted(self, name: str, subject: str, model: str) -> list[int]:
        """What the database has now."""
        numbers = await self._record.numbers(subject, model)
        self._read[name] = max(numbers, default=0)
        return numbers

    async def _put(self, name: str, model: str, numbers: Sequence[int]) -> None:
        for start in range(0, len(numbers), BATCH):
            part = numbers[start : start + BATCH]
            await self._store.add(name, await self._record.entries(part, model))

    def _tend_later(self, name: str) -> None:
        """Once writing has paused; while it goes on, now and then."""
        loop = asyncio.get_running_loop()
        if timer := self._tending.pop(name, None):
            timer.cancel()

        async def tend(now: bool) -> None:
            try:
                await self._store.tend(name, now=now)
            except IndexLost as error:
                log.warning("index_not_tended", table=name, why=str(error))

        def begin(now: bool) -> None:
            task = loop.create_task(tend(now))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        begin(False)
        self._tending[name] = loop.call_later(TEND_S, begin, True)

    def _turn(self, name: str) -> asyncio.Lock:
        return self._turns.setdefault(name, asyncio.Lock())

    @staticmethod
    def _rebuilding() -> IndexRebuilding:
        return IndexRebuilding("it is being made anew from the database", retry_after=2)
