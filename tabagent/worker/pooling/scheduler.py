"""Many requests for vectors or ranks in one context: whose inputs the next batch computes.

A request is a list of inputs, each a sequence of tokens that becomes one row of numbers. Batches are
filled by turns from everyone who waits, so that one input never waits for somebody's hundreds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

import numpy as np

from tabagent import wire
from tabagent.errors import QueueTimeout, TabAgentError
from tabagent.worker.backend import failed
from tabagent.worker.pooling.model import Broken, Context, Part, Row, Tokens

STEP_S: Final = 0.5  # a batch aims at this, so that neither a cancel nor a newcomer waits longer
SMALLEST_BATCH: Final = 32
FIRST_BATCH: Final = 128  # while the speed is not known


@dataclass(eq=False)
class _Input:
    """An input that has begun: its place in the context, and how far it is computed."""

    index: int
    tokens: Tokens
    sequence: int
    done: int = 0
    alone: bool = False  # computed in a batch of its own


@dataclass(eq=False)
class Job:
    """One request. `answer` makes its result of a row for each input, or raises; `fault` is the
    error of an input of which no finite numbers come, and what came instead. With `by_token` a row
    has numbers for each token.
    """

    id: int
    inputs: Sequence[Tokens]
    answer: Callable[[list[Row]], dict[str, Any]]
    fault: Callable[[int, str], TabAgentError]
    by_token: bool = False
    queued_at: float = field(default_factory=monotonic)
    rows: dict[int, Row] = field(default_factory=dict)
    running: list[_Input] = field(default_factory=list)
    todo: deque[int] = field(init=False)  # longest first: like goes with like into a batch

    def __post_init__(self) -> None:
        longest_first = sorted(range(len(self.inputs)), key=lambda i: -len(self.inputs[i]))
        self.todo = deque(longest_first)

    @property
    def begun(self) -> bool:
        return len(self.todo) < len(self.inputs)


class PoolingScheduler:
    """Runs jobs in `context`; the same face as the one that generates."""

    def __init__(self, context: Context, queue_wait_s: float) -> None:
        self._context, self._queue_wait_s = context, queue_wait_s
        self._jobs: list[Job] = []  # whose turn it is comes first
        self._free = list(range(context.sequences))
        self._taken = 0  # tokens that what has begun will need in the context
        self._speed = 0.0  # tokens a second, smoothed
        self.steps = 0

    @property
    def busy(self) -> bool:
        return bool(self._jobs)

    @property
    def running(self) -> int:
        return sum(job.begun for job in tuple(self._jobs))

    @property
    def waiting(self) -> int:
        return sum(not job.begun for job in tuple(self._jobs))

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def cancel(self, id_: int) -> bool:
        """Take a job out; what it had begun is dropped at once. Whether it was there."""
        job = next((job for job in self._jobs if job.id == id_), None)
        if job is None:
            return False
        self._jobs.remove(job)
        for started in list(job.running):
            self._end(job, started)
        return True

    def step(self) -> list[wire.Event]:
        """Compute one batch; Done or Failed of every job that this completes."""
        batch = self._fill()
        events = [*self._answer_empty(), *self._expire()]
        if not batch:
            return events
        self.steps += 1
        began = monotonic()
        rows = self._context.compute([part for _, _, part in batch])
        self._measure(sum(len(part.tokens) for _, _, part in batch), monotonic() - began)
        sick: list[tuple[Job, _Input, str]] = []
        for (job, started, part), row in zip(batch, rows, strict=True):
            started.done += len(part.tokens)
            if row is None:
                continue
            if isinstance(row, Broken):
                sick.append((job, started, row.why))
                continue
            if not np.isfinite(row).all():
                sick.append((job, started, "NaN or infinity"))
                continue
            job.rows[started.index] = row
            self._end(job, started)
            if len(job.rows) == len(job.inputs):
                self._jobs.remove(job)
                events.append(_answer(job))
        return [*events, *self._isolate(sick)]

    def _answer_empty(self) -> list[wire.Event]:
        """End jobs in which there is nothing to compute, such as names in blank texts."""
        empty = [job for job in self._jobs if not job.inputs]
        for job in empty:
            self._jobs.remove(job)
        return [_answer(job) for job in empty]

    def _isolate(self, sick: list[tuple[Job, _Input, str]]) -> list[wire.Event]:
        """Find whose numbers are not finite: in a batch NaN spreads to everyone, through zeros too.

        Whatever has begun is computed anew, each input by itself. One that is sick even so fails
        its request, and only that.
        """
        if not sick:
            return []
        self._context.clear()
        events: list[wire.Event] = []
        for job, started, why in sick:
            if started.alone and self.cancel(job.id):
                events.append(failed(job.id, job.fault(started.index, why)))
        for started in [run for job in self._jobs for run in job.running]:
            started.done, started.alone = 0, True
        return events

    def _expire(self) -> list[wire.Event]:
        """Turn away who waited too long and got no turn now either."""
        since = monotonic() - self._queue_wait_s
        late = [job for job in self._jobs if not job.begun and job.queued_at <= since]
        self._jobs = [job for job in self._jobs if job not in late]
        error = QueueTimeout(f"its turn did not come in {self._queue_wait_s:g} s", retry_after=5)
        return [failed(job.id, error) for job in late]

    def _measure(self, tokens: int, seconds: float) -> None:
        if tokens >= SMALLEST_BATCH:
            speed = tokens / max(seconds, 1e-6)
            self._speed = speed if not self._speed else (self._speed * 3 + speed) / 4

    # ---- filling a batch ------------------------------------------------------------------------
    def _fill(self) -> list[tuple[Job, _Input, Part]]:
        """The next parts, taken by turns; who got none has the first turn next time."""
        for suspect, run in ((job, run) for job in self._jobs for run in job.running):
            if run.alone:
                return [(suspect, run, self._part(suspect, run, self._context.batch))]
        wanted = int(self._speed * STEP_S) if self._speed else FIRST_BATCH
        room = min(self._context.batch, max(SMALLEST_BATCH, wanted))
        batch: dict[_Input, tuple[Job, _Input, Part]] = {}
        hungry = list(self._jobs)
        served: list[Job] = []
        crowded = False  # somebody's turn has come and there is no place: nobody goes ahead of it
        while hungry:
            fed: list[Job] = []
            for position, job in enumerate(hungry):
                started = next((run for run in job.running if run not in batch), None)
                if started is None and not crowded and job.todo:
                    started = self._begin(job, room, alone=not batch)
                    crowded = started is None and self._crowded(job)
                if started is None:
                    continue
                share = max(SMALLEST_BATCH, room // (len(hungry) - position))
                part = self._part(job, started, min(share, room))
                batch[started] = (job, started, part)
                room -= len(part.tokens)
                fed.append(job)
                if room <= 0:
                    break
            served += [job for job in fed if job not in served]
            hungry = fed if room > 0 else []
        self._jobs = [job for job in self._jobs if job not in served] + served
        return list(batch.values())

    def _begin(self, job: Job, room: int, *, alone: bool) -> _Input | None:
        """Start the job's next input, if there is a place for it in the batch and the context."""
        tokens = job.inputs[job.todo[0]]
        if not self._context.chunked and len(tokens) > room and not alone:
            return None
        if self._crowded(job):
            return None
        started = _Input(job.todo.popleft(), tokens, self._free.pop())
        self._taken += len(tokens)
        job.running.append(started)
        return started

    def _crowded(self, job: Job) -> bool:
        """Whether the context has no place for the job's next input beside what has begun."""
        needed = len(job.inputs[job.todo[0]])
        return not self._free or (self._taken > 0 and self._taken + needed > self._context.room)

    def _part(self, job: Job, started: _Input, most: int) -> Part:
        left = started.tokens[started.done :]
        if self._context.chunked:
            left = left[:most]
        ends = started.done + len(left) == len(started.tokens)
        return Part(started.sequence, started.done, left, ends, job.by_token)

    def _end(self, job: Job, started: _Input) -> None:
        job.running.remove(started)
        self._taken -= len(started.tokens)
        self._free.append(started.sequence)
        self._context.forget(started.sequence)


def _answer(job: Job) -> wire.Event:
    try:
        return wire.Done(job.id, job.answer([job.rows[i] for i in range(len(job.inputs))]))
    except TabAgentError as error:
        return failed(job.id, error)
