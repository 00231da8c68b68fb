"""Room for models in memory: what is taken and free, and who makes way for whom."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from time import monotonic
from typing import Final

import structlog

from tabagent import errors
from tabagent.catalog.models import Model
from tabagent.config import Settings
from tabagent.engine.gate import gb, place
from tabagent.engine.loaded import Loaded
from tabagent.engine.placement import LoadOptions, Placement
from tabagent.engine.residency import reclaimable, sleepers, victim_on, victims
from tabagent.engine.turnover import Turnover
from tabagent.engine.verdict import Verdict, guessed, judge
from tabagent.hardware.devices import Accelerators, Look
from tabagent.hardware.findings import Memory

log = structlog.get_logger(__name__)

SPARE_SHARE: Final = 1 / 20  # of all memory that is left to others where no limit is set,
SPARE_BYTES: Final = 2**30  # and at most so much
LOOK_S: Final = 0.25  # other programs give memory back without telling
RETURN_S: Final = 1.0  # what the system gets to take an ended process's memory back
SETTLED_S: Final = 0.2  # without more of it
NOTICEABLE: Final = 64 * 2**20  # bytes: less is lost in what other programs do

Act = Callable[[Loaded], Awaitable[None]]


class Room:
    """Counts bytes. `entries` are all loaded models; `let_go` and `doze` end one or its context."""

    def __init__(
        self,
        settings: Settings,
        memory: Callable[[], Memory],
        look: Look,
        entries: Callable[[], list[Loaded]],
        let_go: Act,
        doze: Act,
    ) -> None:
        self._settings, self._memory, self._look = settings, memory, look
        self._entries, self._let_go, self._doze = entries, let_go, doze
        self.siblings: Callable[[Model], list[Model]] = (
            lambda _: []
        )  # other variants, largest first
        self.turnover = Turnover()
        self.leaving: set[Loaded] = set()  # their memory is not back yet
        self.changed = asyncio.Event()  # somebody became idle, or is gone
        self._turn = asyncio.Lock()  # loads find room one after the other
        self._count = asyncio.Lock()  # held while what is free is counted and given

    # ---- counting -------------------------------------------------------------------------------
    def limit(self) -> int | None:
        """Bytes that all models may take together, where a setting says so."""
        wish = self._settings.memory_limit
        if isinstance(wish, str):
            return int(self._memory().total_bytes * float(wish.rstrip("%")) / 100)
        return wish or None

    def budget(self) -> tuple[int, int]:
        """Bytes that models may take together, and those of them that none has been given."""
        known = (*self._entries(), *self.leaving)
        given = sum(entry.reserved_bytes for entry in known)
        memory = self._memory()
        # Pages of mapped files count as available, and are wanted by whom they belong to.
        coming = sum(max(0, entry.reserved_bytes - entry.private_bytes) for entry in known)
        spare = min(SPARE_BYTES, int(memory.total_bytes * SPARE_SHARE))
        free = max(0, memory.available_bytes - spare - coming)
        if (limit := self.limit()) is not None:
            free = min(free, max(0, limit - given))  # a limit makes no memory
        return given + free, free

    def accelerators(self) -> Accelerators:
        """Devices with what is free there, less what models are about to take."""
        found = self._look()
        coming: dict[str, int] = {}
        for entry in self._entries():
            if entry.state in ("loading", "restarting") and entry.reserved_bytes:
                for device, taken in entry.device_bytes.items():
                    coming[device] = coming.get(device, 0) + taken
        left = (
            replace(one, free_bytes=max(0, one.free_bytes - coming.get(one.id, 0)))
            for one in found.devices
        )
        return replace(found, devices=tuple(left))

    def judge(self) -> Callable[[Model | int], Verdict]:
        """Says of any model, or of one with so many bytes of weights, whether it would fit now.

        Idle models would make way. Good for as long as nothing is loaded: ask anew for each list.
        """
        machine, settings = self.accelerators(), self._settings
        idle = reclaimable((entry.resident() for entry in self._entries()), busy=False)
        available = self.budget()[1] + idle

        def verdict(what: Model | int) -> Verdict:
            model = guessed("this", weight_bytes=what) if isinstance(what, int) else what
            try:
                return judge(model, settings, available, machine)
            except (
                errors.InvalidRequest,
                errors.NotAvailableHere,
            ) as error:  # what the operator set cannot be
                return Verdict(
                    fits="no",
                    required_bytes=0,
                    available_bytes=available,
                    device=settings.device,
                    reason=error.detail,
                )

        return verdict

    def fits(self, what: Model | int) -> Verdict:
        """Whether one model would fit now."""
        return self.judge()(what)

    # ---- giving ---------------------------------------------------------------------------------
    async def give(self, entry: Loaded, options: LoadOptions) -> Placement:
        """Find room for a load, at the cost of models that nobody uses; waits for those in use.

        The room is the entry's when this returns. Raises OutOfMemory when the model would not fit
        even alone beside what is pinned, or when nobody made way in time.
        """
        async with self._turn:
            entry.reserved_bytes = 0
            deadline = monotonic() + self._settings.queue_wait_s
            while True:
                self.changed.clear()
                async with self._count:
                    placement, refusal = await self._try(entry, options)
                    if placement is not None:
                        entry.placement, entry.reserved_bytes = placement, placement.bytes
                        return placement
                if refusal is not None and monotonic() > deadline:
                    raise refusal
                if refusal is not None:
                    await self._wait(deadline)

    async def _try(
        self, entry: Loaded, options: LoadOptions
    ) -> tuple[Placement | None, errors.OutOfMemory | None]:
        """A placement; or why there is none now; or neither, when somebody has just made way."""
        model, settings, machine = entry.model, self._settings, self.accelerators()
        others = [other.resident() for other in self._entries() if other is not entry]
        _, free = self.budget()
        try:
            wanted = place(model, options, settings, None, machine)
        except errors.OutOfMemory as error:  # of a device; asked for, so given or refused
            device = str(error.members["device"])
            if there := victim_on(others, device):
                await self._evict(there, model)
                return None, None
            if not any(one.device_bytes.get(device) and not one.pinned for one in others):
                raise
            return None, error
        if wanted.layers_left_out:  # rather than on the CPU beside somebody's idle model
            for used in wanted.devices:
                if there := victim_on(others, used.id):
                    await self._evict(there, model)
                    return None, None
        if await self._make_way(wanted.bytes - free, entry):
            return None, None
        try:
            return place(model, options, settings, free, machine), None
        except errors.OutOfMemory as error:
            # Would it fit if those that answer now had ended? Then they are waited for.
            most = free + reclaimable(others, busy=True)
            try:
                place(model, options, settings, most, machine)
            except errors.OutOfMemory as final:
                raise self._with_variant(final, model, most) from None
            return None, error

    async def wake(self, entry: Loaded) -> None:
        """Give a sleeping model its context's room again. Raises OutOfMemory."""
        deadline = monotonic() + self._settings.queue_wait_s
        while True:
            self.changed.clear()
            async with self._count:
                missing = entry.placement.bytes - entry.reserved_bytes
                free = self.budget()[1]
                if missing <= free:
                    entry.reserved_bytes = entry.placement.bytes
                    return
                if await self._make_way(missing - free, entry):
                    continue
            if monotonic() > deadline:
                raise errors.OutOfMemory(
                    f"{entry.model.id} needs {gb(missing)} more to answer; {gb(free)} are free",
                    required_bytes=missing,
                    available_bytes=free,
                    device="cpu",
                    largest_context=None,
                )
            await self._wait(deadline)

    async def _make_way(self, missing: int, for_whom: Loaded) -> bool:
        """Take contexts or whole models away from those who are idle; whether anything came of it."""
        by_id = {entry.model.id: entry for entry in self._entries() if entry is not for_whom}
        others = [entry.resident() for entry in by_id.values()]
        if dozing := sleepers(others, missing):
            before = self.budget()[1]
            for model_id in dozing:
                await self._doze(by_id[model_id])
            if self.budget()[1] > before:
                return True
        going = victims(others, missing)
        for model_id in going:
            await self._evict(model_id, for_whom.model)
        return bool(going)

    async def _evict(self, model_id: str, for_whom: Model) -> None:
        log.info("model_evicted", model=model_id, for_model=for_whom.id)
        for entry in self._entries():
            if entry.model.id == model_id and not entry.users:
                self.turnover.evictions[model_id] += 1
                await self._let_go(entry)

    async def _wait(self, deadline: float) -> None:
        """Until somebody makes way, or it is time to look again."""
        rest = max(0.01, min(LOOK_S, deadline - monotonic() + 0.01))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(rest):
                await self.changed.wait()

    def _with_variant(
        self, error: errors.OutOfMemory, model: Model, available: int
    ) -> errors.OutOfMemory:
        """The error, which names the largest variant of the model that would fit."""
        for sibling in self.siblings(model):
            with contextlib.suppress(errors.OutOfMemory):
                place(sibling, LoadOptions(), self._settings, available, self.accelerators())
                error.detail += f"; {sibling.id} would fit"
                error.members["fitting_variant"] = sibling.id
                break
        return error

    async def returned(self, before: Memory, private_bytes: int) -> None:
        """Wait until an ended process's memory is back, as measured; a second at most.

        Some systems give a part of it back much later, such as a virtual machine's to its host:
        when no more has come for a while, what there is counts.
        """
        if private_bytes < NOTICEABLE:
            return
        began = grown = monotonic()
        most = before.available_bytes
        while most < before.available_bytes + private_bytes // 2:
            now, available = monotonic(), self._memory().available_bytes
            if available > most:
                most, grown = available, now
            if now > min(grown + SETTLED_S, began + RETURN_S):
                came = most - before.available_bytes
                log.info("memory_not_back", bytes=private_bytes, came=came)
                return
            await asyncio.sleep(0.02)
