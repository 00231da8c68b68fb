"""Every model that TabAgent knows of: those on this machine, those that are worth a pull, those that
something was saved for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Literal

from pydantic import Field

from tabagent.catalog.models import Model, Task
from tabagent.catalog.recommended import recommended
from tabagent.operation import Call, NoParameters, Reply

Known = Literal["disk", "recommended", "settings"]


class RegisteredModel(Reply):
    """A model, here or not."""

    id: str
    on_disk: bool
    known_from: list[Known] = Field(
        description="`recommended` is the dated list, `settings` what was saved for it."
    )
    task: Task | None
    parameters: int | None
    context_length: int | None
    size_bytes: int | None = Field(description="Of one that is not here: rounded.")
    pull: str | None = Field(description="What to pull to get it; null when it is here.")


class RegisteredList(Reply):
    """Those on this machine first."""

    object: Literal["list"] = "list"
    data: list[RegisteredModel]


class Registered:
    """`on_disk` lists the catalogue, `configured` the ids that something was saved for."""

    def __init__(
        self,
        on_disk: Callable[[], Awaitable[list[tuple[Model, bool]]]],
        configured: Callable[[], Iterable[str]],
    ) -> None:
        self._on_disk, self._configured = on_disk, configured

    async def list(self, request: NoParameters, call: Call) -> RegisteredList:
        """List every known model, on this machine or not, and what to pull for the others."""
        models = [model for model, _ in await self._on_disk() if model.task != "adapter"]
        found = {model.id: _here(model) for model in models}
        for model in (await asyncio.to_thread(recommended)).models:
            for variant in model.variants:
                row = RegisteredModel(
                    id=f"{model.repo}:{variant.name}",
                    on_disk=False,
                    known_from=[],
                    task=model.task,
                    parameters=model.parameters,
                    context_length=model.context_length,
                    size_bytes=variant.size_bytes,
                    pull=f"{model.repo}:{variant.name}",
                )
                found.setdefault(row.id, row).known_from.append("recommended")
        for name in self._configured():
            found.setdefault(name, _unknown(name)).known_from.append("settings")
        return RegisteredList(data=list(found.values()))


def _here(model: Model) -> RegisteredModel:
    return RegisteredModel(
        id=model.id,
        on_disk=True,
        known_from=["disk"],
        task=model.task,
        parameters=model.parameters or None,
        context_length=model.context_length or None,
        size_bytes=model.size_bytes,
        pull=None,
    )


def _unknown(name: str) -> RegisteredModel:
    return RegisteredModel(
        id=name,
        on_disk=False,
        known_from=[],
        task=None,
        parameters=None,
        context_length=None,
        size_bytes=None,
        pull=name,
    )
