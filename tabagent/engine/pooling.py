"""Requests for vectors and ranks: admitted to a model's queue, asked, and given up in time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Final

from tabagent import wire
from tabagent.catalog.models import Model
from tabagent.config import Settings
from tabagent.engine.meter import Meters
from tabagent.engine.supervisor import Supervisor
from tabagent.errors import GenerationTimeout, QueueFull

UNKNOWN_S: Final = 1.0  # what a request is thought to take before one has ended

Ask = Callable[[Model, Callable[[int], wire.Pooled], float | None], Awaitable[dict[str, Any]]]
"""Asks a model's worker; the function builds the command with the id that it is given. Last comes
how many seconds the model stays loaded afterwards.
"""


class PoolingRequests:
    """All that are asked of models that pool, in this server."""

    def __init__(self, supervisor: Supervisor, settings: Settings, meters: Meters) -> None:
        self._supervisor, self._settings, self._meters = supervisor, settings, meters
        self._asked: Counter[str] = Counter()  # unanswered, by model
        self._mean_s: dict[str, float] = {}  # that recent ones took, by model

    async def ask(
        self,
        model: Model,
        build: Callable[[int], wire.Pooled],
        keep_alive_s: float | None = None,
    ) -> dict[str, Any]:
        """The worker's answer, loading the model when needed.

        Raises what loading or the worker raises, QueueFull or GenerationTimeout. Giving up, as a
        caller who hangs up does, cancels the command.
        """
        with self._meters.of(model.id).request(model.task) as running:
            answer = await self._ask(model, build, keep_alive_s)
            tokens = answer["tokens"]
            running.read(tokens if isinstance(tokens, int) else sum(tokens))
        return answer

    async def _ask(
        self,
        model: Model,
        build: Callable[[int], wire.Pooled],
        keep_alive_s: float | None,
    ) -> dict[str, Any]:
        async with self._supervisor.using(model, keep_alive_s) as worker:
            self._admit(model)
            began = monotonic()
            limit_s = self._settings.generation_s
            try:
                async with asyncio.timeout(limit_s):
                    answer = await worker.ask(build)
            except TimeoutError:
                raise GenerationTimeout(f"the request took longer than {limit_s:g} s") from None
            finally:
                self._asked[model.id] -= 1
        taken = monotonic() - began
        known = self._mean_s.get(model.id, taken)
        self._mean_s[model.id] = known + (taken - known) / 16
        return answer

    def _admit(self, model: Model) -> None:
        """Count it in. As many as a model has slots are at work, the others wait."""
        entry = self._supervisor.get(model.id)
        slots = entry.placement.slots if entry else 1
        waiting = self._asked[model.id] - slots
        if waiting >= self._settings.queue_size:
            typical = self._mean_s.get(model.id, UNKNOWN_S)
            eta = max(1.0, round(typical * (waiting + 1) / slots, 1))
            raise QueueFull(
                f"{waiting} requests wait for {model.id}",
                queue_length=waiting,
                eta_s=eta,
                retry_after=eta,
            )
        self._asked[model.id] += 1
