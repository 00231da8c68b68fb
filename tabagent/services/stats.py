"""Counts and speeds since the server began."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from time import monotonic

from pydantic import Field

from tabagent.engine.meter import Meter, Meters, share
from tabagent.engine.supervisor import Supervisor
from tabagent.operation import Call, NoParameters, Reply


class RequestCounts(Reply):
    """Requests to a model."""

    running: int = Field(description="Now, those that wait among them.")
    waiting: int = Field(description="For a slot, now, as its worker last said.")
    completed: int
    cancelled: int = Field(description="The caller left.")
    failed: dict[str, int] = Field(description="By the problem's code.")


class TokenCounts(Reply):
    """Tokens of the requests that were completed or halted."""

    prompt: int
    cached: int = Field(description="Of the prompts', those that had been computed before.")
    completion: int
    reasoning: int = Field(description="Of the completions'.")


class Spread(Reply):
    """Of the last 256 requests: half were at or below `p50`, 19 of 20 at or below `p95`."""

    p50: float | None
    p95: float | None


class ModelStats(Reply):
    """What a model has done."""

    model: str
    loaded: bool
    requests: RequestCounts
    tokens: TokenCounts
    tokens_per_second_now: float = Field(description="Of all answers that run, together.")
    tokens_per_second: Spread = Field(description="Of one answer, while it was generated.")
    prompt_tokens_per_second: Spread = Field(description="Of one prompt, while it was read.")
    time_to_first_token_ms: Spread = Field(description="From the request on, loading included.")
    queued_ms: Spread = Field(description="Until a request had its slot.")
    request_ms: Spread = Field(description="Until it was completed.")


class ServerStats(Reply):
    """Every model that was asked for something since the start."""

    started_at: datetime
    uptime_s: float
    models: list[ModelStats]


class Stats:
    """Reads the meters."""

    def __init__(self, meters: Meters, supervisor: Supervisor) -> None:
        self.meters, self._supervisor = meters, supervisor
        self._started, self._began = datetime.now(UTC), monotonic()

    async def get(self, request: NoParameters, call: Call) -> ServerStats:
        """Count requests, tokens and times by model, since the server began. Nothing is kept."""
        return ServerStats(
            started_at=self._started,
            uptime_s=round(monotonic() - self._began, 3),
            models=[self._model(*each) for each in sorted(self.meters.all().items())],
        )

    def _model(self, model_id: str, meter: Meter) -> ModelStats:
        entry = self._supervisor.get(model_id)
        process = entry.process if entry else None
        return ModelStats(
            model=model_id,
            loaded=entry is not None and entry.state == "ready",
            requests=RequestCounts(
                running=meter.running,
                waiting=process.beat.waiting if process else 0,
                completed=meter.completed,
                cancelled=meter.cancelled,
                failed=dict(sorted(meter.failed.items())),
            ),
            tokens=TokenCounts(
                prompt=meter.prompt_tokens,
                cached=meter.cached_tokens,
                completion=meter.completion_tokens,
                reasoning=meter.reasoning_tokens,
            ),
            tokens_per_second_now=round(sum(one.speed for one in meter.answers), 2),
            tokens_per_second=_spread(meter.speed),
            prompt_tokens_per_second=_spread(meter.prompt_speed),
            time_to_first_token_ms=_spread(meter.first_token_ms),
            queued_ms=_spread(meter.queued_ms),
            request_ms=_spread(meter.request_ms),
        )


def _spread(values: deque[float]) -> Spread:
    p50, p95 = (share(values, part) for part in (0.5, 0.95))
    return Spread(p50=_rounded(p50), p95=_rounded(p95))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
