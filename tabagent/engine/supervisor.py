"""Which worker serves which model: loaded once, watched, restarted, let go.

However many requests name a model, it is loaded once. A model that cannot be loaded says why and
leaves nothing behind. A worker that crashed is started again by itself, within a budget. A model
that nobody uses makes room for another, and goes when its time is up; one that answers never does.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time
from typing import Any, Final, Literal

import structlog

from tabagent import errors, wire
from tabagent.catalog.models import Model
from tabagent.config import Settings
from tabagent.engine.placement import LoadOptions, Placement, place
from tabagent.engine.process import WorkerProcess
from tabagent.engine.residency import Resident, reclaimable, victims
from tabagent.hardware.limits import memory
from tabagent.hardware.probe import Memory

log = structlog.get_logger(__name__)

CRASH_WINDOW_S: Final = 300.0
UNLOAD_S: Final = 5.0
BAD_FILE_SIGNALS: Final = {"SIGABRT", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL"}

Spawn = Callable[..., Awaitable[WorkerProcess]]
State = Literal["loading", "ready", "restarting", "crashed"]


@dataclass(eq=False)
class Loaded:
    """A model that is loaded, or on its way. `worker` is awaited by everyone who needs it."""

    model: Model
    options: LoadOptions
    placement: Placement
    keep_alive_s: float  # how long it stays when nobody uses it; below 0 for ever
    pinned: bool = False  # never evicted
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
    _timer: asyncio.TimerHandle | None = None

    def resident(self) -> Resident:
        busy = self.users > 0 or self.state == "loading"
        idle_since = None if busy else self.idle_since
        return Resident(self.model.id, self.reserved_bytes, idle_since, self.pinned)

    def wait_until(self, leave: Callable[[], None]) -> None:
        """Nobody uses it any more: `leave` is called when its time is up."""
        self.idle_since = monotonic()
        if not self.pinned and self.keep_alive_s >= 0:
            self.leaves_at = time() + self.keep_alive_s
            self._timer = asyncio.get_running_loop().call_later(self.keep_alive_s, leave)

    def wake(self) -> None:
        """Somebody uses it, or it is gone."""
        self.leaves_at = None
        if self._timer:
            self._timer.cancel()
            self._timer = None


class Supervisor:
    """Owns every worker. `spawn` is what starts one, `memory` says what is free now."""

    def __init__(
        self,
        settings: Settings,
        spawn: Spawn = WorkerProcess.start,
        memory: Callable[[], Memory] = memory,
    ) -> None:
        self._settings, self._spawn, self.memory = settings, spawn, memory
        self.siblings: Callable[[Model], list[Model]] = (
            lambda _: []
        )  # other variants, largest first
        self._loaded: dict[str, Loaded] = {}
        self._leaving: set[Loaded] = set()  # their memory is not back yet
        self._crashes: dict[str, deque[float]] = {}
        self._room = asyncio.Lock()  # one load at a time counts what is free
        self._changed = asyncio.Event()  # somebody became idle, or is gone
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    def loaded(self) -> list[Loaded]:
        return list(self._loaded.values())

    def get(self, model_id: str) -> Loaded | None:
        return self._loaded.get(model_id)

    @asynccontextmanager
    async def using(
        self, model: Model, keep_alive_s: float | None = None
    ) -> AsyncGenerator[WorkerProcess, None]:
        """A live worker for `model`, loading it when that is allowed; it stays while it is used.

        `keep_alive_s` is how long it stays loaded afterwards, from now on.
        """
        entry = self._loaded.get(model.id)
        if entry is None or entry.state == "crashed":
            if not self._settings.auto_load:
                raise errors.ModelNotLoaded(
                    f"{model.id} is not loaded", load_hint=f"tabagent load {model.id}"
                )
            self._check_crash_loop(model.id)
            entry = self._begin(model, LoadOptions())
        if keep_alive_s is not None:
            entry.keep_alive_s = keep_alive_s
        with self._used(entry):
            yield await self._await_worker(entry)

    @contextmanager
    def _used(self, entry: Loaded) -> Iterator[None]:
        entry.users += 1
        entry.wake()
        try:
            yield
        finally:
            entry.users -= 1
            if not entry.users and self._loaded.get(entry.model.id) is entry:
                entry.wait_until(lambda: self._time_is_up(entry))
                self._changed.set()

    async def load(
        self,
        model: Model,
        options: LoadOptions,
        *,
        force_reload: bool,
        keep_alive_s: float | None = None,
        pin: bool | None = None,
    ) -> Loaded:
        """Load by hand: forgives past crashes. Raises Conflict when it is loaded otherwise."""
        place(model, options, self._settings)  # refuses what cannot go together
        entry = self._loaded.get(model.id)
        if entry and force_reload:
            await self.unload(model.id, force=True)
            entry = None
        if entry and (other := _different(options, entry.placement)):
            raise errors.Conflict(
                f"{model.id} is loaded with {other}; send force_reload to change that"
            )
        self._crashes.pop(model.id, None)
        if entry is None or entry.state == "crashed":
            entry = self._begin(model, options)
        if keep_alive_s is not None:
            entry.keep_alive_s = keep_alive_s
        if pin is not None:
            entry.pinned = pin
        with self._used(entry):
            await self._await_worker(entry)
        return entry

    async def unload(self, model_id: str, *, force: bool) -> None:
        """Let a model go. Raises ModelNotLoaded, or ModelBusy when it is answering and not forced."""
        entry = self._loaded.get(model_id)
        if entry is None:
            raise errors.ModelNotLoaded(f"{model_id} is not loaded", load_hint="")
        if entry.state == "ready" and entry.users and not force:
            raise errors.ModelBusy(
                f"{model_id} is answering {entry.users} request(s)", retry_after=5
            )
        await self._let_go(entry)

    async def stop(self) -> None:
        """End every worker; waiters get ShuttingDown."""
        self._stopping = True
        await asyncio.gather(*(self._let_go(entry) for entry in self.loaded()))
        await asyncio.gather(*self._tasks)

    # ---- memory ---------------------------------------------------------------------------------
    def _time_is_up(self, entry: Loaded) -> None:
        if not entry.users and self._loaded.get(entry.model.id) is entry:
            log.info("model_unused", model=entry.model.id, seconds=entry.keep_alive_s)
            task = asyncio.get_running_loop().create_task(self._let_go(entry))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def budget(self) -> tuple[int, int]:
        """Bytes that models may take together, and those of them that none has been given."""
        given = sum(entry.reserved_bytes for entry in (*self.loaded(), *self._leaving))
        if limit := self._settings.memory_limit:
            return limit, max(0, limit - given)
        coming = sum(
            max(
                0,
                entry.reserved_bytes - (entry.process.beat.resident_bytes if entry.process else 0),
            )
            for entry in (*self.loaded(), *self._leaving)
        )
        free = max(0, self.memory().available_bytes - coming)
        return given + free, free

    async def _place(self, entry: Loaded) -> Placement:
        """Find room, at the cost of models that nobody uses; waits a while for those in use.

        Raises OutOfMemory when it would not fit even alone beside what is pinned.
        """
        model, options, settings = entry.model, entry.options, self._settings
        deadline = monotonic() + settings.queue_wait_s
        while True:
            self._changed.clear()
            others = [e.resident() for e in self.loaded() if e is not entry]
            _, free = self.budget()
            wanted = place(model, options, settings)
            if going := victims(others, wanted.bytes - free):
                for model_id in going:
                    log.info("model_evicted", model=model_id, for_model=model.id)
                    await self._let_go(self._loaded[model_id])
                continue
            try:
                return place(model, options, settings, free)
            except errors.OutOfMemory:
                # Would it fit if those that answer now had ended? Then they are waited for.
                most = free + reclaimable(others, busy=True)
                try:
                    place(model, options, settings, most)
                except errors.OutOfMemory as error:
                    raise self._with_variant(error, model, most) from None
                if monotonic() > deadline:
                    raise
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, deadline - monotonic()) + 0.01):
                    await self._changed.wait()

    def _with_variant(
        self, error: errors.OutOfMemory, model: Model, available: int
    ) -> errors.OutOfMemory:
        """The error, which names the largest variant of the model that would fit."""
        for sibling in self.siblings(model):
            with contextlib.suppress(errors.OutOfMemory):
                place(sibling, LoadOptions(), self._settings, available)
                error.detail += f"; {sibling.id} would fit"
                error.members["fitting_variant"] = sibling.id
                break
        return error

    async def _let_go(self, entry: Loaded) -> None:
        """Forget a model at once; returns when its process is gone and its memory back."""
        if self._loaded.get(entry.model.id) is entry:
            del self._loaded[entry.model.id]
        entry.wake()
        self._leaving.add(entry)
        try:
            await self._end(entry)
        finally:
            self._leaving.discard(entry)
            self._changed.set()

    # ---- how a worker comes and goes ------------------------------------------------------------
    def _begin(self, model: Model, options: LoadOptions) -> Loaded:
        if self._stopping:
            raise errors.ShuttingDown
        if model.task == "adapter":
            raise errors.WrongModelTask(
                f"{model.id} is an adapter: name it in `lora` of a request to a model",
                param="model",
            )
        if model.problem is not None:
            raise model.problem.with_traceback(None)  # kept in the catalogue, raised often
        entry = self._loaded[model.id] = Loaded(
            model, options, place(model, options, self._settings), self._settings.keep_alive_s
        )
        self._spin_up(entry)
        return entry

    def _spin_up(self, entry: Loaded) -> None:
        entry.worker = asyncio.create_task(self._load(entry))
        entry.worker.add_done_callback(_retrieved)

    async def _await_worker(self, entry: Loaded) -> WorkerProcess:
        # Shielded: the first who asked may hang up while others still wait for the same load.
        try:
            return await asyncio.shield(entry.worker)
        except asyncio.CancelledError:
            if entry.worker.cancelled():
                raise errors.ShuttingDown(f"{entry.model.id} was unloaded while loading") from None
            raise

    async def _load(self, entry: Loaded) -> WorkerProcess:
        model, started, settings = entry.model, monotonic(), self._settings
        if not entry.placement.keep_state:  # what an earlier load kept is nobody's any more
            await asyncio.to_thread(shutil.rmtree, self._state_of(model), ignore_errors=True)

        def progress(fraction: float) -> None:
            entry.progress = fraction

        try:
            async with self._room:
                entry.reserved_bytes = 0
                placement = entry.placement = await self._place(entry)
                entry.reserved_bytes = placement.bytes
            process = entry.process = await self._spawn(
                model.backend,
                beat_s=settings.worker_beat_s,
                stall_s=settings.stall_s,
                on_exit=lambda _: self._exited(entry),
            )
            async with asyncio.timeout(settings.load_s):
                entry.facts = await process.ask(
                    lambda id_: self._load_command(id_, model, placement),
                    progress,
                )
        except BaseException as error:
            if self._loaded.get(model.id) is entry:
                del self._loaded[model.id]
            if entry.process:
                entry.process.kill("its model could not be loaded")
            self._changed.set()
            if isinstance(error, TimeoutError):
                raise errors.ModelLoading(f"{model.id} took too long to load") from error
            if isinstance(error, errors.WorkerCrashed):
                raise self._crashed_loading(model, error) from error
            raise
        entry.state, entry.progress = "ready", 1.0
        entry.loaded_at, entry.load_s = time(), monotonic() - started
        log.info("model_loaded", model=model.id, seconds=round(entry.load_s, 2), pid=process.pid)
        return process

    def _state_of(self, model: Model) -> Path:
        return self._settings.data_dir / "states" / re.sub("[/:]", "--", model.id)

    def _load_command(self, id_: int, model: Model, placement: Placement) -> wire.Load:
        return wire.Load(
            id_,
            path=str(model.path),
            n_ctx=placement.n_ctx,
            slots=placement.slots,
            kv_tokens=placement.kv_tokens,
            threads=placement.threads,
            queue_wait_s=self._settings.queue_wait_s,
            threads_batch=placement.threads_batch,
            flash_attention=placement.flash_attention,
            cache_type_k=placement.cache_type_k,
            cache_type_v=placement.cache_type_v,
            kv_layout=placement.kv_layout,
            kept_bytes=placement.kept_bytes,
            mmap=placement.mmap,
            mlock=placement.mlock,
            speculation=placement.speculation,
            draft_path=str(placement.draft.path) if placement.draft else None,
            draft_tokens=placement.draft_tokens,
            state_path=str(self._state_of(model)) if placement.keep_state else None,
            pooling=model.pooling,
        )

    def _crashed_loading(self, model: Model, error: errors.WorkerCrashed) -> errors.TabAgentError:
        """A file that makes the engine abort is a bad file; anything else is a crash."""
        if error.members.get("signal") not in BAD_FILE_SIGNALS:
            self._crashes.setdefault(model.id, deque()).append(monotonic())
            return error
        return errors.ModelCorrupt(
            "the engine gave up on this file",
            file=model.path.name,
            check="engine",
            expected="a model that loads",
            actual=error.members.get("last_words") or error.members["signal"],
        )

    def _exited(self, entry: Loaded) -> None:
        """Called by the process when it has died, after its waiters were answered."""
        model_id = entry.model.id
        if self._stopping or self._loaded.get(model_id) is not entry or entry.state != "ready":
            return
        crashes = self._crashes.setdefault(model_id, deque())
        crashes.append(monotonic())
        assert entry.process is not None
        log.warning(
            "worker_crashed", model=model_id, pid=entry.process.pid, code=entry.process.exit_code
        )
        if self._crash_loop(model_id):
            entry.state = "crashed"
            return
        entry.state, entry.process = "restarting", None
        entry.restarts += 1
        self._spin_up(entry)

    def _crash_loop(self, model_id: str) -> bool:
        crashes = self._crashes.get(model_id, deque())
        while crashes and monotonic() - crashes[0] > CRASH_WINDOW_S:
            crashes.popleft()
        return len(crashes) > self._settings.worker_restarts

    def _check_crash_loop(self, model_id: str) -> None:
        if self._crash_loop(model_id):
            wait = CRASH_WINDOW_S - (monotonic() - self._crashes[model_id][0])
            raise errors.ModelCrashLoop(
                f"{model_id} crashed {len(self._crashes[model_id])} times in "
                f"{CRASH_WINDOW_S:.0f} seconds",
                retry_after=wait,
            )

    async def _end(self, entry: Loaded) -> None:
        if not entry.worker.done():
            entry.worker.cancel()
        if entry.process and entry.process.exit_code is None:
            await entry.process.stop(UNLOAD_S)


def _different(options: LoadOptions, placement: Placement) -> str:
    """What of a loaded model is otherwise than asked for, in words; empty when nothing is."""
    return " and ".join(
        f"{name}={found.id if isinstance(found, Model) else found}"
        for name, wanted in options.given().items()
        if (found := getattr(placement, name)) != wanted
    )


def _retrieved(task: asyncio.Task[WorkerProcess]) -> None:
    """Every waiter may have hung up; the error was theirs, not the event loop's."""
    if not task.cancelled():
        task.exception()
