"""Which worker serves which model: loaded once, watched, restarted, let go.

However many requests name a model, it is loaded once. A model that cannot be loaded says why and
leaves nothing behind. A worker that crashed is started again by itself, within a budget.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections import deque
from collections.abc import Awaitable, Callable
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
    placement: Placement
    worker: asyncio.Task[WorkerProcess] = field(init=False)
    state: State = "loading"
    progress: float = 0.0
    process: WorkerProcess | None = None
    facts: dict[str, Any] = field(default_factory=dict)  # what the worker said of the model
    loaded_at: float = 0.0  # unix seconds
    load_s: float = 0.0
    restarts: int = 0


class Supervisor:
    """Owns every worker. `spawn` is what starts one."""

    def __init__(self, settings: Settings, spawn: Spawn = WorkerProcess.start) -> None:
        self._settings, self._spawn = settings, spawn
        self._loaded: dict[str, Loaded] = {}
        self._crashes: dict[str, deque[float]] = {}
        self._stopping = False

    def loaded(self) -> list[Loaded]:
        return list(self._loaded.values())

    def get(self, model_id: str) -> Loaded | None:
        return self._loaded.get(model_id)

    async def worker(self, model: Model) -> WorkerProcess:
        """A live worker for `model`, loading it when that is allowed."""
        entry = self._loaded.get(model.id)
        if entry is None or entry.state == "crashed":
            if not self._settings.auto_load:
                raise errors.ModelNotLoaded(
                    f"{model.id} is not loaded", load_hint=f"tabagent load {model.id}"
                )
            self._check_crash_loop(model.id)
            entry = self._begin(model, place(model, LoadOptions(), self._settings))
        return await self._await_worker(entry)

    async def load(self, model: Model, options: LoadOptions, *, force_reload: bool) -> Loaded:
        """Load by hand: forgives past crashes. Raises Conflict when it is loaded otherwise."""
        placement = place(model, options, self._settings)
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
            entry = self._begin(model, placement)
        await self._await_worker(entry)
        return entry

    async def unload(self, model_id: str, *, force: bool) -> None:
        """Let a model go. Raises ModelNotLoaded, or ModelBusy when it is answering and not forced."""
        entry = self._loaded.get(model_id)
        if entry is None:
            raise errors.ModelNotLoaded(f"{model_id} is not loaded", load_hint="")
        answering = entry.state == "ready" and entry.process and entry.process.in_flight
        if answering and not force:
            raise errors.ModelBusy(f"{model_id} is answering {answering} request(s)", retry_after=5)
        del self._loaded[model_id]
        await self._end(entry)

    async def stop(self) -> None:
        """End every worker; waiters get ShuttingDown."""
        self._stopping = True
        entries, self._loaded = self.loaded(), {}
        await asyncio.gather(*(self._end(entry) for entry in entries))

    # ---- how a worker comes and goes ------------------------------------------------------------
    def _begin(self, model: Model, placement: Placement) -> Loaded:
        if self._stopping:
            raise errors.ShuttingDown
        if model.task == "adapter":
            raise errors.WrongModelTask(
                f"{model.id} is an adapter: name it in `lora` of a request to a model",
                param="model",
            )
        if model.problem is not None:
            raise model.problem.with_traceback(None)  # kept in the catalogue, raised often
        entry = self._loaded[model.id] = Loaded(model, placement)
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
        model, placement, started = entry.model, entry.placement, monotonic()
        settings = self._settings
        if not placement.keep_state:  # what an earlier load kept is nobody's any more
            await asyncio.to_thread(shutil.rmtree, self._state_of(model), ignore_errors=True)

        def progress(fraction: float) -> None:
            entry.progress = fraction

        try:
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
