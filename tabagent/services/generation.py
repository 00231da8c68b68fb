"""Running generations: start one, follow it, stop it. Chat and text generation share this."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from pydantic import Field

from tabagent import wire
from tabagent.catalog.models import Model, Task
from tabagent.config import Settings
from tabagent.engine.supervisor import Supervisor
from tabagent.errors import Conflict, QueueFull, RequestNotFound, WrongModelTask
from tabagent.operation import Call, NoParameters, Reply, Request


class StopRequest(Request):
    """What to stop; everything of the caller when `request_id` is left out."""

    model_config = {"json_schema_extra": {"examples": [{}]}}

    request_id: str | None = Field(
        None, description="From `X-Request-Id`, or a completion's id.", max_length=64
    )


class Stopped(Reply):
    """The requests that were told to stop."""

    stopped: list[str]


class ActiveGeneration(Reply):
    """A generation that is queued or running."""

    request_id: str
    model: str
    started_at: datetime
    tokens: int


class HaltStatus(Reply):
    """The caller's running generations and the last stop."""

    active: list[ActiveGeneration]
    last_halt_at: datetime | None


@dataclass(eq=False)
class _Active:
    call: Call
    model: str
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    tokens: int = 0
    halted: bool = False
    halt: Callable[[], None] | None = None


class Generations:
    """Every generation of this server, by request id."""

    def __init__(self, supervisor: Supervisor, settings: Settings) -> None:
        self._supervisor, self._settings = supervisor, settings
        self._active: dict[str, _Active] = {}
        self._last_halt: dict[str, datetime] = {}
        self._mean_s = 5.0  # of recent generations, for the estimate that queue-full gives

    async def run(
        self,
        call: Call,
        model: Model,
        task: Task,
        build: Callable[[int], wire.Generate],
    ) -> AsyncGenerator[tuple[str, int] | wire.Finished, None]:
        """Yield the pieces of one generation and its end, loading the model when needed."""
        _check_task(model, task)
        if call.request_id in self._active:
            raise Conflict("a request with this id is running")
        active = self._active[call.request_id] = _Active(call, model.id)
        try:
            worker = await self._supervisor.worker(model)
            self._admit(model, worker.in_flight)

            def started(halt: Callable[[], None]) -> None:
                active.halt = halt
                if active.halted:  # while the model was loading
                    halt()

            pieces = worker.generate(build, limit_s=self._settings.generation_s, on_start=started)
            async with aclosing(pieces):
                async for piece in pieces:
                    if isinstance(piece, wire.Finished):
                        taken = (datetime.now(UTC) - active.started_at).total_seconds()
                        self._mean_s += (taken - self._mean_s) / 16
                    else:
                        active.tokens = piece[1]
                    yield piece
        finally:
            del self._active[call.request_id]

    def _admit(self, model: Model, in_flight: int) -> None:
        entry = self._supervisor.get(model.id)
        slots = entry.placement.slots if entry else 1
        waiting = in_flight - slots
        if waiting >= self._settings.queue_size:
            eta = round(self._mean_s * (waiting + 1) / slots, 1)
            raise QueueFull(
                f"{waiting} requests are waiting for {model.id}",
                queue_length=waiting,
                eta_s=eta,
                retry_after=eta,
            )

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
                    request_id=id_, model=a.model, started_at=a.started_at, tokens=a.tokens
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
    if task == "chat" and model.task != "chat":
        raise WrongModelTask(f"{model.id} has no chat template: use /v1/completions", param="model")


def _plain_id(text: str) -> str:
    """A request id as we keep it, also from a completion's id, which holds it without dashes."""
    try:
        return str(
            UUID(text.rpartition("-")[2] if text.startswith(("chatcmpl-", "cmpl-")) else text)
        )
    except ValueError:
        return text
