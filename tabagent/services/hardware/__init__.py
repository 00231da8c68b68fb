"""The machine: what it has, which engines run on it, and which models would run well."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tabagent.catalog.models import Model
from tabagent.catalog.recommended import recommended
from tabagent.engine.verdict import Verdict
from tabagent.hardware.findings import Report
from tabagent.operation import Call, NoParameters
from tabagent.replies.hardware import HardwareInfo
from tabagent.services.hardware.recipes import RecipeList, recipes
from tabagent.services.hardware.recommendations import (
    RecommendationsRequest,
    RecommendedModels,
    recommendations,
)

Judge = Callable[[Model | int], Verdict]


class Hardware:
    """`read` looks at the machine and blocks; `judge` makes a judge of what fits now."""

    def __init__(self, read: Callable[[], Report], judge: Callable[[], Judge]) -> None:
        self._read, self._judge = read, judge

    async def info(self, request: NoParameters, call: Call) -> HardwareInfo:
        """Say what this machine has: processor, memory, graphics, engines, each with its source."""
        return HardwareInfo.of(await asyncio.to_thread(self._read))

    async def recipes(self, request: NoParameters, call: Call) -> RecipeList:
        """List engines with the devices they could use: which work here, and if not, why."""
        return RecipeList(recipes=recipes(await asyncio.to_thread(self._read)))

    async def recommend(self, request: RecommendationsRequest, call: Call) -> RecommendedModels:
        """List public models that would run well here, the most capable first."""
        known = await asyncio.to_thread(recommended)
        return recommendations(known, self._judge(), request)
