"""Reads documents in a child process that may hang, run out of memory or crash, and is replaced.

One document at a time. Whatever becomes of the child, its caller gets an answer in bounded time,
and the next document a child that works.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Final

import structlog

from tabagent import errors, frames
from tabagent.paper import PART, Kind, Paper, Read, Splitting, Unreadable, decode_answer, encode
from tabagent.spawn import Spawned, spawn

log = structlog.get_logger(__name__)

START_S: Final = 30.0  # interpreter and parsers, on a slow disk
ANSWER_S: Final = 60.0
IDLE_S: Final = 60.0
UPLOAD: Final = 64 * 2**20  # bytes of a document
LARGE: Final = 4 * 2**20  # a child that read more keeps the memory, so it is not kept
# All that an interpreter needs to start. Tokens, keys and settings are not among it.
ENVIRONMENT: Final = (
    "PATH LD_LIBRARY_PATH DYLD_LIBRARY_PATH SYSTEMROOT TEMP TMP LANG LC_ALL LC_CTYPE"
    " PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX PYTHONWARNINGS"
    " COVERAGE_PROCESS_START COVERAGE_PROCESS_CONFIG"
)
COMMAND: Final = (sys.executable, "-P", "-m", "tabagent.worker.reading")
NO_START: Final = "the process that reads documents did not start"
TOO_LONG: Final = "reading it took too long"
CRASHED: Final = "it took too much memory or crashed the reader"


class Reader:
    """`await read(...)` as often as you like, `await close()` at last. Built without a child."""

    def __init__(
        self, *, upload: int = UPLOAD, answer_s: float = ANSWER_S, idle_s: float = IDLE_S
    ) -> None:
        self.upload, self._answer_s, self._idle_s = upload, answer_s, idle_s
        self._turn = asyncio.Lock()
        self._child: _Child | None = None
        self._ended: _Child | None = None  # the last that was killed, perhaps not yet gone
        self._leave: asyncio.TimerHandle | None = None
        self._closed = False

    async def read(
        self, data: bytes, kind: Kind, splitting: Splitting, *, url: str = "", charset: str = ""
    ) -> Paper:
        """The document as text and chunks.

        Raises DocumentUnreadable, PayloadTooLarge, ShuttingDown, or InternalError when no child
        starts. Cancelling ends the child.
        """
        if len(data) > self.upload:
            raise errors.PayloadTooLarge(
                f"the document is over {self.upload:,} bytes", limit_bytes=self.upload
            )
        request = Read(kind, -(-len(data) // PART), splitting, url, charset)
        async with self._turn:
            child = await self._ready()
            kept = False
            try:
                answer = await self._ask(child, request, data)
                kept = isinstance(answer, Paper) and len(data) <= LARGE
            finally:
                self._put_back(child) if kept else self._end()
        if isinstance(answer, Unreadable):
            raise errors.from_slug(answer.slug, answer.detail, answer.members)
        return answer

    async def close(self) -> None:
        """End the child, also in mid-document; whoever waits for one is told."""
        self._closed = True
        self._end()
        if self._ended:
            await self._ended.gone.wait()

    @property
    def pid(self) -> int | None:
        """Of the child, when there is one."""
        return self._child.pid if self._child else None

    async def _ready(self) -> _Child:
        if self._leave:
            self._leave.cancel()
        if self._closed:
            raise errors.ShuttingDown("documents are no longer read")
        if self._child is None or not self._child.alive:
            if self._ended:  # never two of them
                await self._ended.gone.wait()
            self._child = _Child()
            try:
                await self._child.start()
            except BaseException as error:
                self._end()
                if not isinstance(error, TimeoutError | _Died | OSError):
                    raise
                if self._closed:
                    raise errors.ShuttingDown("documents are no longer read") from None
                raise errors.InternalError(NO_START) from None
        return self._child

    async def _ask(self, child: _Child, request: Read, data: bytes) -> Paper | Unreadable:
        try:
            async with asyncio.timeout(self._answer_s):
                answer: Paper | Unreadable = decode_answer(await child.ask(request, data))
                return answer
        except TimeoutError:
            failure = TOO_LONG
        except _Died as died:
            if self._closed:
                raise errors.ShuttingDown("documents are no longer read") from None
            # The kernel's clock ends a child that computed for longer than it may.
            late = died.code == -getattr(signal, "SIGPROF", 0)
            failure = TOO_LONG if late else CRASHED
        except ValueError:  # frames and msgspec: nothing after it is sense
            failure = CRASHED
        log.warning("reader_killed", reason=failure, kind=request.kind, bytes=len(data))
        raise errors.DocumentUnreadable(failure) from None

    def _put_back(self, child: _Child) -> None:
        loop = asyncio.get_running_loop()
        self._leave = loop.call_later(self._idle_s, self._end)

    def _end(self) -> None:
        if self._leave:
            self._leave.cancel()
        if self._child:
            self._child.kill()
            self._ended, self._child = self._child, None


class _Died(Exception):
    """The child ended before it answered."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Child:
    """One `python -m tabagent.worker.reading`. `start` comes first."""

    def __init__(self) -> None:
        self.pid = 0
        self.gone = asyncio.Event()
        self.gone.set()
        self._code: int | None = None
        self._decoder = frames.FrameDecoder()
        self._answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._piped = True
        self._child: Spawned | None = None

    async def start(self) -> None:
        """Spawn it and wait until it is ready. Raises TimeoutError, OSError and _Died."""
        names = ENVIRONMENT.split()
        environment = {k: v for k, v in os.environ.items() if k.upper() in names}
        # One thread: its memory and its time are counted for all of them.
        environment |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
        await spawn(self, COMMAND, env=environment, words=False)
        async with asyncio.timeout(START_S):
            await self._answer

    @property
    def alive(self) -> bool:
        return self._code is None and self._piped

    async def ask(self, request: Read, data: bytes) -> bytes:
        """The body of its answer. Raises _Died, and ValueError when it broke the framing."""
        self._answer = asyncio.get_running_loop().create_future()
        if not self.alive:
            raise _Died(self._code or 0)
        assert self._child is not None
        self._child.write(frames.encode(encode(request)))
        for at in range(0, len(data), PART):
            self._child.write(frames.encode(data[at : at + PART]))
        return await self._answer

    def kill(self) -> None:
        if self._code is None and self._child:
            self._child.kill()

    def spawned(self, child: Spawned) -> None:
        self._child, self.pid = child, child.get_pid()
        self.gone.clear()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        try:
            bodies = self._decoder.feed(data)
        except frames.FrameError as error:
            self._settle(error)
            self.kill()
            return
        for body in bodies:
            if not self._answer.done():
                self._answer.set_result(body)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            self._piped = False
            self._bury()

    def process_exited(self) -> None:
        assert self._child is not None
        self._code = self._child.get_returncode() or 0
        self._bury()

    def _bury(self) -> None:
        if self._code is not None and not self._piped:
            self._settle(_Died(self._code))
            assert self._child is not None
            self._child.close()
            self.gone.set()

    def _settle(self, error: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(error)
            self._answer.exception()  # it may be that nobody asks
