"""Jobs and what they have still to read, in the database: a job goes on after a kill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from time import time
from typing import Any, Final

from sqlalchemy import delete, func, insert, select, update

from tabagent.errors import NotFound
from tabagent.stores import tables as t
from tabagent.stores.connection import Connection
from tabagent.stores.cursors import before, cursor
from tabagent.stores.database import Database
from tabagent.stores.durable import durably
from tabagent.stores.papers import Incoming, Job

JOB: Final = [getattr(t.jobs.c, f.name) for f in fields(Job)]
INCOMING: Final = [getattr(t.incoming.c, f.name) for f in fields(Incoming)]
KEPT: Final = 200  # jobs that have ended


class JobStore:
    """Jobs of this installation, `writer`; others see them, and leave them alone."""

    def __init__(self, database: Database, writer: str) -> None:
        self._database, self.writer = database, writer

    async def create(self, job: Job, incoming: Sequence[Incoming] = ()) -> None:
        """Take it on. It is on the disk, with all that it is to read, when this returns."""

        async def write() -> None:
            async with self._database.writing() as connection:
                await connection.execute(insert(t.jobs).values(**asdict(job)))
                await _insert(connection, incoming)
                old = (
                    select(t.jobs.c.id)
                    .where(t.jobs.c.state != "running")
                    .order_by(t.jobs.c.created_at.desc())
                    .offset(KEPT)
                    .limit(1000)
                )
                await connection.execute(delete(t.jobs).where(t.jobs.c.id.in_(old)))

        await durably(write())

    async def add(self, job: Job, incoming: Sequence[Incoming]) -> None:
        """More to read for a job."""

        async def write() -> None:
            async with self._database.writing() as connection:
                await _insert(connection, incoming)
                await connection.execute(
                    update(t.jobs).where(t.jobs.c.id == job.id).values(total=job.total)
                )

        await durably(write())

    async def unfinished(self) -> list[Job]:
        """What was running when the server ended, in the order in which it was begun."""
        if not self._database.made:
            return []
        c = t.jobs.c
        query = select(*JOB).where(c.writer == self.writer, c.state == "running")
        async with self._database.reading() as connection:
            rows = await connection.execute(query.order_by(c.created_at, c.id))
            return [Job(*tuple(row)) for row in rows]

    async def get(self, job_id: str) -> Job:
        """Raises NotFound."""
        async with self._database.reading() as connection:
            row = (await connection.execute(select(*JOB).where(t.jobs.c.id == job_id))).first()
        if row is None:
            raise NotFound(f"there is no job {job_id}")
        return Job(*tuple(row))

    async def page(self, after: str | None, limit: int) -> tuple[list[Job], str | None]:
        """(jobs, the newest first; the cursor of the next page)."""
        c = t.jobs.c
        query = select(*JOB)
        query = query.where(*before(after, c.created_at, c.id))
        query = query.order_by(c.created_at.desc(), c.id.desc()).limit(limit + 1)
        async with self._database.reading() as connection:
            rows = [Job(*tuple(row)) for row in await connection.execute(query)]
        page = rows[:limit]
        more = len(rows) > limit
        return page, cursor(page[-1].created_at, page[-1].id) if more else None

    async def waiting(self, job_id: str, after: int, most: int) -> list[Incoming]:
        """What a job has still to read, without the bytes, in the order in which it came."""
        c = t.incoming.c
        columns = [column for column in INCOMING if column.name != "data"]
        query = select(*columns).where(c.job_id == job_id, c.number > after)
        async with self._database.reading() as connection:
            rows = await connection.execute(query.order_by(c.number).limit(most))
            return [Incoming(**row._mapping) for row in rows]

    async def waits(self, job_id: str) -> int:
        async with self._database.reading() as connection:
            c = t.incoming.c
            found = await connection.scalar(
                select(func.count()).select_from(t.incoming).where(c.job_id == job_id)
            )
            return int(found or 0)

    async def data(self, number: int) -> bytes:
        """The bytes that came with a row of `incoming`."""
        async with self._database.reading() as connection:
            found = await connection.scalar(
                select(t.incoming.c.data).where(t.incoming.c.number == number)
            )
            return bytes(found or b"")

    async def passed(self, job: Job, number: int, outcome: str) -> None:
        """A row that came to nothing: the same as before, or not to be read."""

        async def write() -> None:
            async with self._database.writing() as connection:
                with counted(job, [outcome]):
                    await note(connection, job, [number])

        await durably(write())

    async def forget(self, job_id: str) -> None:
        """What a job has still to read is looked for anew."""

        async def write() -> None:
            async with self._database.writing() as connection:
                await connection.execute(delete(t.incoming).where(t.incoming.c.job_id == job_id))

        await durably(write())

    async def end(self, job: Job) -> None:
        """Write its last state; what it had still to read is forgotten."""
        job.ended_at = time()

        async def write() -> None:
            async with self._database.writing() as connection:
                await connection.execute(delete(t.incoming).where(t.incoming.c.job_id == job.id))
                await note(connection, job, [])

        await durably(write())


@contextmanager
def counted(job: Job, outcomes: Sequence[str]) -> Iterator[None]:
    """Count what came of documents. Around what writes it: what else is written before then does
    not say so, and a write that fails did not happen.
    """
    for outcome in outcomes:
        job.count(outcome)
    try:
        yield
    except BaseException:
        for outcome in outcomes:
            job.count(outcome, -1)
        raise


async def note(connection: Connection, job: Job, numbers: Sequence[int]) -> None:
    """Write how far a job is, in the transaction that it came so far in."""
    if numbers:
        await connection.execute(delete(t.incoming).where(t.incoming.c.number.in_(numbers)))
    values: dict[str, Any] = {
        "state": job.state, "total": job.total, "counts": job.counts, "failures": job.failures,
        "ended_at": job.ended_at,
    }  # fmt: skip
    await connection.execute(update(t.jobs).where(t.jobs.c.id == job.id).values(**values))


async def _insert(connection: Connection, incoming: Sequence[Incoming]) -> None:
    rows = [{k: v for k, v in asdict(one).items() if k != "number"} for one in incoming]
    if rows:
        await connection.execute(insert(t.incoming), rows)
