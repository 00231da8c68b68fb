"""One worker process: spawned, shaken hands with, listened to, and outlived.

Every wait on a worker ends: with its answer, with its last words, or with a deadline. Cancelling is
closing the generator of `generate`; it reaches the worker as one synchronous write in a `finally`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from itertools import accumulate
from time import monotonic
from typing import Any, Final

import structlog
from msgspec.structs import replace

from tabagent import errors, frames, wire
from tabagent.exchange import request_id
from tabagent.spawn import Spawned, spawn

log = structlog.get_logger(__name__)

START_S: Final = 30.0  # interpreter and engine imports, on a slow disk
PIPES_S: Final = 0.25  # what a dead child wrote has arrived by then
LAST_WORDS: Final = 8192  # bytes of stderr kept
REMEMBERED: Final = 1024  # commands whose requests are known; its log may come to one late
SECRET = re.compile("TOKEN|SECRET|PASSWORD|API_KEY|CREDENTIAL|OTLP")

Answer = wire.Done | wire.Failed | wire.Finished | wire.Progress | wire.Piece
Inbox = asyncio.Queue[Answer | errors.TabAgentError]


class WorkerProcess:
    """A child running `python -m tabagent.worker BACKEND`.

    Build one with `await WorkerProcess.start(...)`. `on_exit(process)` is called once when it has
    died, after every waiter was answered.
    """

    def __init__(self, beat_s: float, stall_s: float, on_exit: Callable[[WorkerProcess], None]):
        self.pid = 0
        self.engine = ""
        self.beat = wire.Beat(resident_bytes=0)
        self.exit_code: int | None = None
        self.stopping = False
        self._beat_s, self._stall_s, self._on_exit = beat_s, stall_s, on_exit
        self._inboxes: dict[int, Inbox] = {}
        self._last_id = 0
        self._requests: dict[int, str] = {}  # whose the last commands were
        self._decoder = frames.FrameDecoder()
        self._words = bytearray()
        self._heard = self._stepped = monotonic()
        self._steps = -1
        self._killed_for = ""
        self._greeted: asyncio.Future[wire.Hello] = asyncio.get_running_loop().create_future()
        self._exited = asyncio.Event()
        self._open_pipes = {1, 2}
        self._watchdog: asyncio.Task[None] | None = None
        self._child: Spawned | None = None

    @classmethod
    async def start(
        cls,
        backend: str,
        *,
        beat_s: float,
        stall_s: float,
        on_exit: Callable[[WorkerProcess], None],
    ) -> WorkerProcess:
        """Spawn the child and shake hands within START_S. Raises WorkerCrashed."""
        process = cls(beat_s, stall_s, on_exit)
        command = [sys.executable, "-P", "-m", "tabagent.worker", backend, str(beat_s)]
        if log.is_enabled_for(logging.DEBUG):
            command.append("debug")
        environment = {k: v for k, v in os.environ.items() if not SECRET.search(k.upper())}
        environment.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as NVML counts them
        await spawn(process, command, env=environment, words=True)
        try:
            async with asyncio.timeout(START_S):
                hello = await process._greeted
        except TimeoutError:
            process.kill("it did not start in time")
            await process._exited.wait()
            raise process.obituary() from None
        except BaseException:
            process.kill("its start was called off")
            raise
        if hello.protocol != wire.PROTOCOL:
            process.kill("it speaks another protocol")
            raise errors.InternalError("the worker belongs to another version of TabAgent")
        process.engine = hello.engine
        process._watchdog = asyncio.create_task(process._watch())
        return process

    # ---- asking ---------------------------------------------------------------------------------
    @property
    def alive(self) -> bool:
        return self.exit_code is None and not self.stopping

    @property
    def in_flight(self) -> int:
        """Commands that have not been answered yet."""
        return len(self._inboxes)

    async def ask(
        self,
        build: Callable[[int], wire.Command],
        progress: Callable[[float], None] | None = None,
    ) -> dict[str, Any]:
        """Send one command and return the worker's answer; raises what the worker raised.

        Whoever stops waiting for it cancels the command.
        """
        inbox: Inbox = asyncio.Queue()
        id_ = self._open(inbox)
        answered = False
        try:
            self._send(build(id_))
            while True:
                match await inbox.get():
                    case wire.Done(result=result):
                        answered = True
                        return result
                    case wire.Progress(fraction=fraction) if progress:
                        progress(fraction)
                    case wire.Failed() as failed:
                        answered = True
                        raise errors.from_slug(failed.slug, failed.detail, failed.members)
                    case errors.TabAgentError() as died:
                        raise died
        finally:
            self._close(id_)
            if not answered:
                self._cancel([id_])

    async def generate(
        self,
        commands: Sequence[wire.Generate],
        *,
        limit_s: float,
        on_start: Callable[[Callable[[], None]], None],
    ) -> AsyncGenerator[wire.Piece | wire.Finished, None]:
        """Yield the pieces of all `commands`, and at last one Finished with their sums.

        The choices of a command are numbered after those of the commands before it. Raises what the
        worker raised, or GenerationTimeout after `limit_s`. `on_start` is given a function that
        halts the generation: the worker then finishes it in order. Closing the generator frees the
        slots without an answer.
        """
        inbox: Inbox = asyncio.Queue()
        first_choice = accumulate((command.n for command in commands[:-1]), initial=0)
        open_ = {self._open(inbox): first for first in first_choice}  # commands not ended, by id
        said: dict[int, int] = {}  # tokens delivered, by choice
        usages: list[wire.Usage] = []
        late = errors.GenerationTimeout(f"the generation took longer than {limit_s:g} s")
        # A timer, not asyncio.timeout: a generator's steps may run in more than one task.
        timer = asyncio.get_running_loop().call_later(limit_s, inbox.put_nowait, late)
        try:
            for id_, command in zip(open_, commands, strict=True):
                self._send(replace(command, id=id_))
            on_start(lambda: self._cancel(open_, halt=True))
            while open_:
                match await inbox.get():
                    case wire.Piece() as piece:
                        piece.index += open_[piece.id]
                        said[piece.index] = piece.tokens
                        yield piece
                    case wire.Finished() as end:
                        self._close(end.id)
                        del open_[end.id]
                        usages.append(end.usage)
                    case wire.Failed() as failed:
                        self._close(failed.id)
                        del open_[failed.id]
                        raise errors.from_slug(failed.slug, failed.detail, failed.members)
                    case errors.WorkerCrashed() as died:
                        died.members["tokens_sent"] = sum(said.values())
                        raise died
                    case errors.TabAgentError() as failure:
                        raise failure
            yield wire.Finished(0, _together(usages))
        finally:
            timer.cancel()
            # After a hang-up every await here would be cancelled: these are synchronous writes.
            for id_ in open_:
                self._close(id_)
            self._cancel(open_)

    async def stop(self, grace_s: float) -> None:
        """Ask the child to leave, make it leave after `grace_s`; returns once it is gone."""
        self.stopping = True
        self._send(wire.Shutdown())
        try:
            async with asyncio.timeout(grace_s):
                await self._exited.wait()
        except TimeoutError:
            self.kill("it did not leave in time")
            await self._exited.wait()

    def kill(self, reason: str) -> None:
        """End the child now; `reason` goes into the error its waiters see."""
        if self.exit_code is None and self._child:
            self._killed_for = self._killed_for or reason
            self._child.kill()

    def obituary(self) -> errors.TabAgentError:
        """The error for someone who waited on this child."""
        if self.stopping:
            return errors.ShuttingDown("the model was unloaded")
        code = self.exit_code or 0
        name = signal.Signals(-code).name if code < 0 else None
        how = self._killed_for or (f"signal {name}" if name else f"exit code {code}")
        return errors.WorkerCrashed(
            f"the worker died: {how}",
            signal=name,
            last_words=self.last_words,
            tokens_sent=0,
            retry_after=1,
        )

    @property
    def last_words(self) -> str:
        """The end of the child's stderr, without directories."""
        text = self._words.decode(errors="replace")
        return re.sub(r"(?:[A-Za-z]:)?(?:[/\\][\w.@+ -]+)+[/\\]", "", text).strip()

    # ---- the pipe -------------------------------------------------------------------------------
    def _open(self, inbox: Inbox) -> int:
        if self.exit_code is not None or self.stopping:
            raise self.obituary()
        self._last_id += 1
        self._inboxes[self._last_id] = inbox
        if whose := request_id():
            self._requests[self._last_id] = whose
            if len(self._requests) > REMEMBERED:
                del self._requests[next(iter(self._requests))]
        return self._last_id

    def _close(self, id_: int) -> None:
        self._inboxes.pop(id_, None)

    def _cancel(self, ids: Iterable[int], *, halt: bool = False) -> None:
        for id_ in ids:
            self._send(wire.Cancel(id_, halt=halt))

    def _send(self, command: wire.Command) -> None:
        if self.exit_code is None and self._child:
            self._child.write(frames.encode(wire.encode(command)))

    # ---- what the child does --------------------------------------------------------------------
    def spawned(self, child: Spawned) -> None:
        self._child, self.pid = child, child.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self._words += data
            del self._words[:-LAST_WORDS]
            return
        self._heard = monotonic()
        try:
            for body in self._decoder.feed(data):
                self._hear(wire.decode_event(body))
        except ValueError as error:  # FrameError and msgspec's errors: nothing after it is sense
            log.error("worker_spoke_nonsense", pid=self.pid, error=str(error))
            self.kill("it broke the protocol")

    def _hear(self, event: wire.Event) -> None:
        match event:
            case wire.Pieces(items=items):
                for piece in items:
                    if inbox := self._inboxes.get(piece.id):
                        inbox.put_nowait(piece)
            case wire.Beat():
                if event.steps != self._steps or not event.slots_used:
                    self._steps, self._stepped = event.steps, self._heard
                self.beat = event
            case wire.Note():
                whose = (
                    {"request_id": self._requests[event.id]} if event.id in self._requests else {}
                )
                getattr(log, event.level)(event.event, pid=self.pid, **event.facts, **whose)
            case wire.Hello():
                if not self._greeted.done():
                    self._greeted.set_result(event)
            case _:
                if inbox := self._inboxes.get(event.id):
                    inbox.put_nowait(event)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._beat_s / 2)
            now = monotonic()
            if now - self._heard > 3 * self._beat_s:
                self.kill("it stopped answering")
            elif now - self._stepped > self._stall_s:
                self.kill("it made no progress")

    def process_exited(self) -> None:
        assert self._child is not None
        self.exit_code = self._child.get_returncode() or 0
        if not self._open_pipes:
            self._bury()
        else:  # its last events and words may still be in the pipes, which a grandchild may hold
            asyncio.get_running_loop().call_later(PIPES_S, self._bury)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._open_pipes.discard(fd)
        if not self._open_pipes and self.exit_code is not None:
            self._bury()

    def _bury(self) -> None:
        if self._exited.is_set():
            return
        if self._watchdog:
            self._watchdog.cancel()
        if not self._greeted.done():
            self._greeted.set_exception(self.obituary())
        for inbox in self._inboxes.values():
            inbox.put_nowait(self.obituary())
        self._exited.set()
        self._on_exit(self)


def _together(usages: list[wire.Usage]) -> wire.Usage:
    """The usage of commands that ran side by side: counts add up, times are those of the longest."""
    if len(usages) == 1:
        return usages[0]
    fields = wire.Usage.__struct_fields__
    return wire.Usage(
        **{
            name: (max if name.endswith("_ms") else sum)(getattr(usage, name) for usage in usages)
            for name in fields
        }
    )
