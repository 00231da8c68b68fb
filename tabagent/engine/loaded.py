"""A model that has a process, or is on its way to one: its state, its users, its time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic, time
from typing import Any, Literal

from tabagent.catalog.models import Model
from tabagent.engine.placement import LoadOptions, Placement
from tabagent.engine.process import WorkerProcess
from tabagent.engine.residency import Resident

State = Literal["loading", "ready", "restarting", "crashed"]
Moment = Literal[State, "asleep", "unloaded", "failed"]
"""What can become of it: a `failed` load leaves nothing behind."""


@dataclass(eq=False)
class Loaded:
    """A model that is loaded, or on its way. `worker` is awaited by everyone who needs it."""

    model: Model
    options: LoadOptions
    placement: Placement
    keep_alive_s: float  # how long it stays when nobody uses it; below 0 for ever
    pinned: bool = False  # never evicted
    saved: list[str] = field(default_factory=list)  # options that were saved, not asked for
    worker: asyncio.Task[WorkerProcess] = field(init=False)
    state: State = "loading"
    progress: float = 0.0
    process: WorkerProcess | None = None
    facts: dict[str, Any] = field(default_factory=dict)  # what the worker said of the model
    loaded_at: float = 0.0  # unix seconds
    load_s: float = 0.0
    restarts: int = 0
    users: int = 0  # who use it or wait for it
    idle_since: float = 0.0  # monotonic, of a model without users
    leaves_at: float | None = None  # unix seconds, when nobody uses it until then
    reserved_bytes: int = 0  # what it was given when its load began
    asleep: bool = False  # its context is given back until somebody asks
    turning: asyncio.Lock = field(
        default_factory=asyncio.Lock
    )  # held while it falls asleep or wakes
    fallbacks: list[str] = field(default_factory=list)  # what the load had to do without
    _timers: list[asyncio.TimerHandle] = field(default_factory=list)

    @property
    def asleep_bytes(self) -> int:
        estimate = self.placement.estimate
        return estimate.asleep if estimate else 0

    @property
    def private_bytes(self) -> int:
        """Main memory that it holds and nobody can take back: not the pages of mapped files."""
        if self.process is None:
            return 0
        beat = self.process.beat
        mapped = 0 if self.placement.mlock else beat.mapped_bytes
        return max(0, beat.resident_bytes - mapped)

    @property
    def device_bytes(self) -> dict[str, int]:
        return {share.device: share.total for share in self.placement.shares}

    def resident(self) -> Resident:
        busy = self.users > 0 or self.state == "loading" or self.turning.locked()
        can_sleep = self.state == "ready" and not self.asleep and self.placement.estimate
        return Resident(
            self.model.id,
            self.reserved_bytes,
            None if busy else self.idle_since,
            self.pinned,
            self.asleep_bytes if can_sleep else None,
            self.device_bytes,
        )

    def rest(self, sleep_s: float, doze: Callable[[], None], leave: Callable[[], None]) -> None:
        """Nobody uses it any more: `doze` is called after `sleep_s`, `leave` when its time is up."""
        self.idle_since = monotonic()
        if self.pinned:
            return
        later = asyncio.get_running_loop().call_later
        ends = self.keep_alive_s >= 0
        if sleep_s >= 0 and (not ends or sleep_s < self.keep_alive_s):
            self._timers.append(later(sleep_s, doze))
        if ends:
            self.leaves_at = time() + self.keep_alive_s
            self._timers.append(later(self.keep_alive_s, leave))

    def wake(self) -> None:
        """Somebody uses it, or it is gone."""
        self.leaves_at = None
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
