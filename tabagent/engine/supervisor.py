"""Which worker serves which model: loaded once, watched, restarted, let go.

However many requests name a model, it is loaded once. A model that cannot be loaded says why and
leaves nothing behind. A worker that crashed is started again by itself, within a budget. A model
that nobody uses makes room for another, and goes when its time is up; one that answers never does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from time import monotonic, time
from typing import Final

import structlog

from tabagent import errors, wire
from tabagent.catalog.models import Model
from tabagent.config import Settings
from tabagent.engine import runtimes
from tabagent.engine.loaded import Loaded, Moment, State
from tabagent.engine.placement import LoadOptions, LoadWish, Placement, lay_out
from tabagent.engine.process import WorkerProcess
from tabagent.engine.room import Room
from tabagent.engine.states import States
from tabagent.hardware.devices import Look
from tabagent.hardware.findings import Memory
from tabagent.hardware.limits import memory
from tabagent.hardware.look import devices_now

log = structlog.get_logger(__name__)

CRASH_WINDOW_S: Final = 300.0
UNLOAD_S: Final = 5.0
SLEEP_S: Final = 10.0  # what a worker gets to give its context back
TRIES: Final = 6  # of a load that runs out of memory
SHORTEST_CONTEXT: Final = 512
BAD_FILE_SIGNALS: Final = {"SIGABRT", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL"}

Spawn = Callable[..., Awaitable[WorkerProcess]]
Prefer = Callable[[Model], Awaitable[LoadWish]]
Tell = Callable[[Loaded, Moment, errors.TabAgentError | None], None]
__all__ = ["Loaded", "State", "Supervisor"]


class Supervisor:
    """Owns every worker. `spawn` is what starts one.

    `memory` says what is free now, `look` which devices there are, `tell` hears what becomes of
    every model. `prefer` says how a model is loaded where nobody says otherwise.
    """

    def __init__(
        self,
        settings: Settings,
        spawn: Spawn = WorkerProcess.start,
        memory: Callable[[], Memory] = memory,
        look: Look = devices_now,
        tell: Tell | None = None,
    ) -> None:
        self._settings, self._spawn, self.memory = settings, spawn, memory
        self._listener = tell
        self.prefer: Prefer = _as_it_comes
        self._loaded: dict[str, Loaded] = {}
        self.room = Room(settings, memory, look, self.loaded, self._let_go, self._doze)
        self._states = States(settings.data_dir / "states", settings.keep_state_bytes)
        self._crashes: dict[str, deque[float]] = {}
        self.turnover = self.room.turnover
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
            wish = await self.prefer(model)
            entry = self._loaded.get(model.id)  # somebody else may have begun it meanwhile
            if entry is None or entry.state == "crashed":
                entry = self._begin(model, LoadOptions(), wish)
        if keep_alive_s is not None:
            entry.keep_alive_s = keep_alive_s
        with self._used(entry):
            worker = await self._await_worker(entry)
            if entry.asleep or entry.turning.locked():
                await self._rouse(entry)
            yield worker

    @contextmanager
    def _used(self, entry: Loaded) -> Iterator[None]:
        entry.users += 1
        entry.wake()
        try:
            yield
        finally:
            entry.users -= 1
            if not entry.users and self._loaded.get(entry.model.id) is entry:
                self._rest(entry)
                self.room.changed.set()

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
        self._laid_out(model, options)  # refuses nonsense
        wish = await self.prefer(model)
        entry = self._loaded.get(model.id)
        if entry and force_reload:
            await self.unload(model.id, force=True)
            entry = None
        if entry and (other := _different(options, entry)):
            raise errors.Conflict(
                f"{model.id} is loaded with {other}; send force_reload to change that"
            )
        self._crashes.pop(model.id, None)
        if entry is None or entry.state == "crashed":
            entry = self._begin(model, options, wish)
        if keep_alive_s is not None:
            entry.keep_alive_s = keep_alive_s
        if pin is not None:
            entry.pinned = pin
        with self._used(entry):
            await self._await_worker(entry)
        return entry

    def differs(self, model_id: str, wish: LoadWish) -> bool:
        """Whether a model is loaded otherwise than it would be loaded by this wish."""
        entry = self._loaded.get(model_id)
        return entry is not None and bool(_different(wish.options, entry))

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

    def _tell(
        self, entry: Loaded, moment: Moment, error: errors.TabAgentError | None = None
    ) -> None:
        if self._listener:
            self._listener(entry, moment, error)

    # ---- who rests ------------------------------------------------------------------------------
    def _rest(self, entry: Loaded) -> None:
        def soon(act: Coroutine[None, None, None]) -> None:
            task = asyncio.get_running_loop().create_task(act)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        entry.rest(
            self._settings.sleep_s,
            lambda: soon(self._doze(entry)),
            lambda: soon(self._leave_unused(entry)),
        )

    async def _leave_unused(self, entry: Loaded) -> None:
        if not entry.users and self._loaded.get(entry.model.id) is entry:
            log.info("model_unused", model=entry.model.id, seconds=entry.keep_alive_s)
            await self._let_go(entry)

    async def _doze(self, entry: Loaded) -> None:
        """Let an idle model give its context back; its weights stay.

        Never waits for the lock: who wakes it holds that, and may wait for whom this serves.
        """
        if entry.turning.locked():
            return
        async with entry.turning:
            process = entry.process
            if entry.users or entry.asleep or entry.state != "ready" or not process:
                return
            try:
                async with asyncio.timeout(SLEEP_S):
                    answer = await process.ask(wire.Sleep)
            except (TimeoutError, errors.TabAgentError):
                return  # it has died, or is on its way out
            if answer.get("asleep") and self._loaded.get(entry.model.id) is entry:
                entry.asleep = True
                if entry.reserved_bytes:
                    entry.reserved_bytes = min(entry.reserved_bytes, entry.asleep_bytes)
                log.info("model_asleep", model=entry.model.id)
                self._tell(entry, "asleep")
        self.room.changed.set()

    async def _rouse(self, entry: Loaded) -> None:
        """Find room for the context again, which the worker makes with the next request."""
        async with entry.turning:
            if entry.asleep:
                await self.room.wake(entry)
                entry.asleep = False
                self._tell(entry, "ready")

    async def _let_go(self, entry: Loaded) -> None:
        """Forget a model at once; returns when its process is gone and its memory back."""
        known = self._loaded.get(entry.model.id) is entry
        if known:
            del self._loaded[entry.model.id]
        entry.wake()
        self.room.leaving.add(entry)
        before, private = self.memory(), entry.private_bytes
        try:
            await self._end(entry)
            await self.room.returned(before, private)
            if entry.placement.keep_state:
                await asyncio.to_thread(self._states.trim)
        finally:
            self.room.leaving.discard(entry)
            self.room.changed.set()
            if known:
                self._tell(entry, "unloaded")

    # ---- how a worker comes and goes ------------------------------------------------------------
    def _begin(self, model: Model, asked: LoadOptions, wish: LoadWish) -> Loaded:
        if self._stopping:
            raise errors.ShuttingDown
        if model.task == "adapter":
            raise errors.WrongModelTask(
                f"{model.id} is an adapter: name it in `lora` of a request to a model",
                param="model",
            )
        if model.problem is not None:
            raise model.problem.with_traceback(None)  # kept in the catalogue, raised often
        options = asked.over(wish.options)
        saved = sorted(wish.options.given().keys() - asked.given().keys())
        try:
            placement = self._laid_out(model, options)
        except errors.TabAgentError as error:
            _naming(error, saved)
            raise
        keep_alive_s = wish.keep_alive_s
        entry = self._loaded[model.id] = Loaded(
            model,
            options,
            placement,
            self._settings.keep_alive_s if keep_alive_s is None else keep_alive_s,
            pinned=bool(wish.pin),
            saved=saved,
        )
        self._spin_up(entry)
        self._tell(entry, "loading")
        return entry

    def _laid_out(self, model: Model, options: LoadOptions) -> Placement:
        machine = runtimes.machine_for(model, self.room.accelerators())
        return lay_out(model, options, self._settings, machine)

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
        model, started = entry.model, monotonic()
        wish = entry.options.device or self._settings.device
        entry.asleep = False
        entry.fallbacks = list(runtimes.left_out(model, wish, self.room.accelerators()))
        if not entry.placement.keep_state:  # what an earlier load kept is nobody's any more
            await asyncio.to_thread(self._states.drop, model)
        try:
            async with asyncio.timeout(None) as limit:
                process = await self._start(entry, limit)
        except BaseException as error:
            known = self._loaded.get(model.id) is entry
            if known:
                del self._loaded[model.id]
            if entry.process:
                entry.process.kill("its model could not be loaded")
            self.room.changed.set()
            failure = self._load_error(model, error)
            if failure:
                self.turnover.failures[model.id, failure.slug] += 1
            if isinstance(failure, errors.OutOfMemory | errors.NotAvailableHere):
                _naming(failure, entry.saved)
            if known:
                self._tell(entry, "failed", failure)
            if failure is None or failure is error:
                raise
            raise failure from error
        entry.state, entry.progress = "ready", 1.0
        entry.loaded_at, entry.load_s = time(), monotonic() - started
        self.turnover.loaded(model.id, entry.load_s)
        log.info("model_loaded", model=model.id, seconds=round(entry.load_s, 2), pid=process.pid)
        self._tell(entry, "ready")
        return process

    async def _start(self, entry: Loaded, limit: asyncio.Timeout) -> WorkerProcess:
        """Find room and load; with less when the worker runs out of memory, and that is said."""
        options = entry.options
        for tries_left in reversed(range(TRIES)):
            limit.reschedule(None)  # who waits for room is not late
            placement = await self.room.give(entry, options)
            limit.reschedule(asyncio.get_running_loop().time() + self._settings.load_s)
            try:
                return await self._spawn_and_load(entry, placement)
            except errors.OutOfMemory as error:
                smaller = _step_down(placement, entry.options, self._settings, tries_left)
                if smaller is None or not tries_left:
                    raise
                options, note = smaller
                log.warning("load_stepped_down", model=entry.model.id, note=note)
                entry.fallbacks.append(f"{note}, since {error.detail}")
                assert entry.process is not None
                await entry.process.stop(UNLOAD_S)
        raise AssertionError("the last try raises")

    async def _spawn_and_load(self, entry: Loaded, placement: Placement) -> WorkerProcess:
        def progress(fraction: float) -> None:
            entry.progress = fraction
            self._tell(entry, "restarting" if entry.state == "restarting" else "loading")

        process = entry.process = await self._spawn(
            entry.model.backend,
            beat_s=self._settings.worker_beat_s,
            stall_s=self._settings.stall_s,
            on_exit=lambda dead: self._exited(entry, dead),
        )
        entry.facts = await process.ask(
            lambda id_: self._load_command(id_, entry.model, placement), progress
        )
        return process

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
            state_path=str(self._states.path(model)) if placement.keep_state else None,
            pooling=model.pooling,
            reading=model.reading,
            speaking=model.speaking,
            providers=runtimes.providers_of(placement) if runtimes.runs(model) else [],
            graph_path=str(self._settings.data_dir / "graphs"),
            graph_bytes=self._settings.graph_cache_bytes,
            n_gpu_layers=placement.n_gpu_layers,
            main_gpu=placement.main_gpu if len(placement.devices) == 1 else None,
            tensor_split=list(placement.tensor_split),
        )

    def _load_error(self, model: Model, error: BaseException) -> errors.TabAgentError | None:
        """What those who wait for the load are told; None when it was called off or is a defect."""
        if isinstance(error, TimeoutError):
            return errors.ModelLoading(f"{model.id} took too long to load")
        if isinstance(error, errors.WorkerCrashed):
            return self._crashed_loading(model, error)
        return error if isinstance(error, errors.TabAgentError) else None

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

    def _exited(self, entry: Loaded, dead: WorkerProcess) -> None:
        """Called by the process when it has died, after its waiters were answered."""
        model_id = entry.model.id
        if self._stopping or self._loaded.get(model_id) is not entry or entry.state != "ready":
            return
        if entry.process is not dead:
            return  # a try of its load that came before
        crashes = self._crashes.setdefault(model_id, deque())
        crashes.append(monotonic())
        assert entry.process is not None
        log.warning(
            "worker_crashed", model=model_id, pid=entry.process.pid, code=entry.process.exit_code
        )
        if self._crash_loop(model_id):
            entry.state = "crashed"
            self._tell(entry, "crashed")
            return
        entry.state, entry.process, entry.progress = "restarting", None, 0.0
        self._tell(entry, "restarting")
        entry.restarts += 1
        self.turnover.restarts[model_id] += 1
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


async def _as_it_comes(model: Model) -> LoadWish:  # the model does not matter
    return LoadWish()


def _naming(error: errors.TabAgentError, saved: list[str]) -> None:
    """Say which saved settings may be why: who reads the error did not ask for them just now."""
    if saved:
        error.detail += (
            f" ({', '.join(saved)} of this model's saved settings counted: "
            "save others, or say otherwise when loading)"
        )


def _step_down(
    placement: Placement, asked: LoadOptions, settings: Settings, tries_left: int
) -> tuple[LoadOptions, str] | None:
    """What to try when a worker ran out of memory: fewer layers, then a smaller context.

    None when all that is left was asked for.
    """
    layers, context = placement.n_gpu_layers, placement.n_ctx
    if layers and asked.n_gpu_layers is None:
        fewer = layers * 3 // 4 if layers > 4 and tries_left > 2 else 0
        wish = replace(asked, n_gpu_layers=fewer)
        return wish, f"{fewer} layers are on {placement.device} instead of {layers}"
    shorter = context // 2
    if shorter < SHORTEST_CONTEXT or asked.n_ctx or settings.n_ctx:
        return None
    wish = replace(asked, n_gpu_layers=placement.n_gpu_layers, n_ctx=shorter)
    return wish, f"the context is {shorter} tokens instead of {context}"


def _different(options: LoadOptions, entry: Loaded) -> str:
    """What of a loaded model is otherwise than asked for, in words; empty when nothing is."""
    return " and ".join(
        f"{name}={found.id if isinstance(found, Model) else found}"
        for name, wanted in options.given().items()
        if getattr(entry.options, name) != wanted
        and (found := getattr(entry.placement, name)) != wanted
        and not (name == "device" and _means(wanted, found))
    )


def _means(wish: str, device: str) -> bool:
    return wish == "auto" or device.startswith(f"{wish}:") or (wish == "gpu" and device != "cpu")


def _retrieved(task: asyncio.Task[WorkerProcess]) -> None:
    """Every waiter may have hung up; the error was theirs, not the event loop's."""
    if not task.cancelled():
        task.exception()
