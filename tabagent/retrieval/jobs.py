"""Jobs of the server: they outlive who asked for them, and go on after a kill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from tabagent.errors import Conflict, InternalError, ShuttingDown, TabAgentError
from tabagent.retrieval.tally import Tally
from tabagent.stores.papers import Job, JobState
from tabagent.stores.records import Records

log = structlog.get_logger(__name__)

TELL_S: Final = 0.1  # at most so often a follower is told
AT_ONCE: Final = 4


@dataclass(eq=False)
class LiveJob:
    """A job at work. `error` is why it failed."""

    job: Job
    error: TabAgentError | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        return self.job.state == "running"


Work = Callable[[LiveJob], Awaitable[None]]


class Jobs:
    """Runs them, a few at once. `tell` hears of every step."""

    def __init__(
        self, records: Records, tell: Callable[[Job], None], tally: Tally | None = None
    ) -> None:
        self._records, self._tell = records, tell
        self.tally = tally or Tally()
        self._live: dict[str, LiveJob] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._unsaved: dict[str, LiveJob] = {}  # ended, and the database did not take it
        self._closing = False

    def begin(self, job: Job, work: Work) -> LiveJob:
        """Work on a job that is in the database."""
        live = LiveJob(job)
        self._live[job.id] = live
        live.task = asyncio.get_running_loop().create_task(self._run(live, work))
        self.told(live)
        return live

    async def _save_ends(self) -> None:
        """A full disk must not have a job that has failed begin again with the next start."""
        for id_, live in list(self._unsaved.items()):
            try:
                await self._records.jobs.end(live.job)
            except TabAgentError as error:
                log.warning("job_not_ended", job=id_, code=error.slug)
                return
            self._unsaved.pop(id_, None)

    @property
    def running(self) -> int:
        """At work, or waiting for their turn."""
        return len(self._live)

    def told(self, live: LiveJob) -> None:
        """It has come a step further."""
        live.changed.set()
        self._tell(live.job)

    def live(self, job_id: str) -> LiveJob | None:
        return self._live.get(job_id) or self._unsaved.get(job_id)

    def at_work(self, collection: str) -> list[LiveJob]:
        """Those that are on their way there."""
        return [live for live in self._live.values() if live.job.collection == collection]

    async def find(self, job_id: str) -> LiveJob:
        """One at work, or one that has ended. Raises NotFound."""
        return self.live(job_id) or LiveJob(await self._records.jobs.get(job_id))

    async def follow(self, live: LiveJob) -> AsyncGenerator[LiveJob, None]:
        """The job at every step until its end. Raises ShuttingDown when the server stops first."""
        while True:
            live.changed.clear()
            yield live
            if not live.running:
                return
            if self._closing:
                raise ShuttingDown("the job goes on when the server is there again")
            await live.changed.wait()
            if live.task:
                await asyncio.wait([live.task], timeout=TELL_S)

    async def cancel(self, job_id: str) -> Job:
        """Stop it; what is done stays. Raises NotFound, Conflict for one that has ended."""
        live = self._live.get(job_id)
        if live is None:
            raise Conflict(f"the job is {(await self.find(job_id)).job.state} already")
        live.job.state = "cancelled"
        await self._ended(live)
        return live.job

    async def cancel_all(self, jobs: Iterable[LiveJob]) -> None:
        """Those of a collection or a folder that goes."""
        for live in jobs:
            with suppress(Conflict):
                await self.cancel(live.job.id)

    def leave(self) -> None:
        """The server is to stop: nobody need wait for a job any longer."""
        self._closing = True
        for live in self._live.values():
            live.changed.set()

    async def stop(self) -> None:
        """Stop all as a kill would: they go on with the next start."""
        for live in list(self._live.values()):
            if live.task:
                live.task.cancel()
        for live in list(self._live.values()):
            await self._ended(live)

    async def _ended(self, live: LiveJob) -> None:
        if live.task:
            live.task.cancel()
            with suppress(asyncio.CancelledError):
                await live.task

    async def _run(self, live: LiveJob, work: Work) -> None:
        job = live.job
        state: JobState | None = None
        try:
            async with self._turns:
                await work(live)
            state = "done"
        except asyncio.CancelledError:
            state = "cancelled" if job.state == "cancelled" else None
        except TabAgentError as error:
            state, live.error = "failed", error
            log.warning("job_failed", job=job.id, code=error.slug)
        except Exception as error:
            state, live.error = "failed", InternalError("the job failed; the log has the cause")
            log.error("job_failed", job=job.id, exc_info=error)
        finally:
            # Without a state the server leaves: what is in the database says that it runs.
            if state is not None:
                job.state = state
                self.tally.jobs[job.kind, state] += 1
                if live.error is not None:
                    problem = {"code": live.error.slug, "detail": live.error.detail}
                    job.failures.append({"source": "", "problem": problem})
                self._unsaved[job.id] = live
                await self._save_ends()
            self._live.pop(job.id, None)
            self.told(live)
