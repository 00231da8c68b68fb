"""Running generations: start one, follow it, stop it."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from pydantic import Field

from tabagent import wire
from tabagent.catalog.models import Model, Task
from tabagent.config import Settings
from tabagent.engine.meter import Meters, Running
from tabagent.engine.supervisor import Supervisor
from tabagent.errors import Conflict, QueueFull, RequestNotFound, WrongModelTask
from tabagent.operation import Call, NoParameters, Reply, Request

UNKNOWN_S: Final = 5.0  # what a generation is thought to take before one has ended
ANSWER_ID: Final = re.compile("^(chatcmpl-|cmpl-|resp_)")


Fill = Callable[[Model, Iterable[wire.Generate]], list[wire.Generate]]
"""The commands with what was saved for a model, where they say nothing themselves."""


class StopRequest(Request):
    """What to stop; everything of the caller when `request_id` is left out."""

    model_config = {"json_schema_extra": {"examples": [{}]}}

    request_id: str | None = Field(
        None, description="From `X-Request-Id`, or an answer's id.", max_length=64
    )


class Stopped(Reply):
    """The requests that were told to stop."""

    stopped: list[str]


class ActiveGeneration(Reply):
    """A generation that is queued or running."""

    request_id: str
    model: str
    started_at: datetime
    tokens: int = Field(description="Generated so far, by all its choices.")


class HaltStatus(Reply):
    """The caller's running generations and the last stop."""

    active: list[ActiveGeneration]
    last_halt_at: datetime | None


@dataclass(eq=False)
class _Active:
    call: Call
    model: str
    choices: int
    running: Running
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    admitted: bool = False
    halted: bool = False
    halt: Callable[[], None] | None = None

    def begin(self, halt: Callable[[], None]) -> None:
        self.halt = halt
        if self.halted:  # while the model was loading
            halt()


class Generations:
    """Every generation of this server, by request id. All of them are filled by `fill`."""

    def __init__(
        self, supervisor: Supervisor, settings: Settings, fill: Fill, meters: Meters
    ) -> None:
        self._supervisor, self._settings = supervisor, settings
        self._fill, self._meters = fill, meters
        self._active: dict[str, _Active] = {}
        self._last_halt: dict[str, datetime] = {}
        self._mean_s: dict[str, float] = {}  # that recent generations kept their slots, by model

    async def run(
        self,
        call: Call,
        model: Model,
        task: Task,
        *commands: wire.Generate,
        keep_alive_s: float | None = None,
    ) -> AsyncGenerator[wire.Piece | wire.Finished, None]:
        """Yield the pieces of a generation and its end, loading the model when needed."""
        _check_task(model, task)
        if call.request_id in self._active:
            raise Conflict("a request with this id is running")
        with self._meters.of(model.id).request(task) as running:
            active = _Active(call, model.id, sum(command.n for command in commands), running)
            self._active[call.request_id] = active
            try:
                async with self._supervisor.using(model, keep_alive_s) as worker:
                    self._admit(active)
                    filled = self._fill(model, commands)
                    pieces = worker.generate(
                        filled, limit_s=self._settings.generation_s, on_start=active.begin
                    )
                    async with aclosing(pieces):
                        async for piece in pieces:
                            if isinstance(piece, wire.Finished):
                                self._learn(model.id, piece.usage)
                                running.used(piece.usage)
                            else:
                                running.piece(piece)
                            yield piece
            finally:
                del self._active[call.request_id]

    def _admit(self, active: _Active) -> None:
        """Count it among those that have or want slots. Raises QueueFull when they are too many."""
        entry = self._supervisor.get(active.model)
        slots = entry.placement.slots if entry else 1
        rivals = [a for a in self._active.values() if a.admitted and a.model == active.model]
        waiting = sum(rival.choices for rival in rivals) - slots
        if waiting >= self._settings.queue_size:
            eta = self._eta(rivals, waiting, slots)
            raise QueueFull(
                f"{waiting} answers wait for a slot of {active.model}",
                queue_length=waiting,
                eta_s=eta,
                retry_after=eta,
            )
        active.admitted = True

    def _eta(self, rivals: list[_Active], waiting: int, slots: int) -> float:
        """Seconds until a newcomer's turn: after all who wait, as slots come free one by one.

        A generation is thought to take as long as recent ones, and at least as long as those that
        run now have taken already.
        """
        now = datetime.now(UTC)
        ages = [(now - rival.started_at).total_seconds() for rival in rivals]
        typical = max(self._mean_s.get(rivals[0].model, UNKNOWN_S), sum(ages) / len(ages))
        return max(1.0, round(typical * (waiting + 1) / slots, 1))

    def _learn(self, model: str, usage: wire.Usage) -> None:
        taken = (usage.prompt_ms + usage.predicted_ms) / 1000
        known = self._mean_s.get(model, taken)
        self._mean_s[model] = known + (taken - known) / 16

    def busy(self) -> bool:
        """Whether an answer is being written, or waited for."""
        return bool(self._active)

    async def stop(self, request: StopRequest, call: Call) -> Stopped:
        """Stop one generation by its request id, or all of the caller's.

        A stopped generation ends in order: its stream gets a last chunk with what was generated.
        """
        mine = {k: a for k, a in self._active.items() if a.call.caller == call.caller}
        if request.request_id is not None:
            id_ = _plain_id(request.request_id)
            if id_ not in mine:
                raise RequestNotFound(f"no request {request.request_id} of yours is running")
            mine = {id_: mine[id_]}
        for active in mine.values():
            active.halted = True
            if active.halt:
                active.halt()
        if mine:
            self._last_halt[call.caller] = datetime.now(UTC)
        return Stopped(stopped=list(mine))

    async def status(self, request: NoParameters, call: Call) -> HaltStatus:
        """The caller's running generations, and when it last stopped one."""
        return HaltStatus(
            active=[
                ActiveGeneration(
                    request_id=id_,
                    model=a.model,
                    started_at=a.started_at,
                    tokens=sum(a.running.tokens.values()),
                )
                for id_, a in self._active.items()
                if a.call.caller == call.caller
            ],
            last_halt_at=self._last_halt.get(call.caller),
        )


def _check_task(model: Model, task: Task) -> None:
    if model.problem is not None:
        return  # loading says it better
    if model.task == "embedding":
        raise WrongModelTask(f"{model.id} makes embeddings, not text", param="model")
    if model.task == "rerank":
        raise WrongModelTask(f"{model.id} ranks documents and makes no text", param="model")
    if task == "chat" and model.task != "chat":
        raise WrongModelTask(f"{model.id} has no chat template: use /v1/completions", param="model")


def _plain_id(text: str) -> str:
    """A request id as we keep it, also from an answer's id, which holds it without dashes."""
    try:
        return str(UUID(ANSWER_ID.sub("", text)))
    except ValueError:
        return text
