"""Starting a child process from an event loop without any of our code running between fork and exec.

uvloop forks as `os.fork` does, and then Python and every library may run what they registered for a
forked child, in a process of which all threads but one are missing: LanceDB starts a thread there.
`subprocess` uses vfork and runs nothing, so a child cannot hang before it is itself.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol


class Spawned(Protocol):
    """A child; the methods are those of asyncio's SubprocessTransport."""

    def get_pid(self) -> int: ...

    def get_returncode(self) -> int | None: ...

    def write(self, data: bytes) -> None: ...

    def kill(self) -> None: ...

    def close(self) -> None: ...


class Parent(Protocol):
    """Who hears of a child; but for the first the methods are asyncio's SubprocessProtocol's."""

    def spawned(self, child: Spawned) -> None:
        """It runs. Comes before all else."""

    def pipe_data_received(self, fd: int, data: bytes) -> None: ...

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None: ...

    def process_exited(self) -> None: ...


async def spawn(
    parent: Parent,
    command: Sequence[str],
    *,
    env: dict[str, str],
    words: bool,
) -> None:
    """Start `command`; `parent` hears of its output, of its last words if wanted, and of its end.

    The child is in a session of its own. It belongs to the thread that runs the loop: where it asks
    to die with its parent, that is whose death counts. Raises OSError.
    """
    process = subprocess.Popen(  # noqa: ASYNC220  # in a thread the child would die with that
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if words else subprocess.DEVNULL,
        env=env,
        bufsize=0,
        start_new_session=sys.platform != "win32",
    )
    child = _Child(process, parent, asyncio.get_running_loop())
    parent.spawned(child)
    await child.connect()


class _Pipe(asyncio.Protocol):
    """Hands on what comes out of one pipe."""

    def __init__(self, parent: Parent, fd: int) -> None:
        self._parent, self._fd = parent, fd

    def data_received(self, data: bytes) -> None:
        self._parent.pipe_data_received(self._fd, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._parent.pipe_connection_lost(self._fd, exc)


class _Child:
    def __init__(
        self,
        process: subprocess.Popen[bytes],
        parent: Parent,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._process, self._parent, self._loop = process, parent, loop
        self._stdin: asyncio.WriteTransport | None = None
        self._outputs: list[asyncio.BaseTransport] = []
        self._code: int | None = None

    async def connect(self) -> None:
        loop, process = self._loop, self._process
        transport, _ = await loop.connect_write_pipe(asyncio.Protocol, process.stdin)
        self._stdin = transport
        for fd, pipe in ((1, process.stdout), (2, process.stderr)):
            if pipe is not None:
                reader = partial(_Pipe, self._parent, fd)
                out, _ = await loop.connect_read_pipe(reader, pipe)
                self._outputs.append(out)
        threading.Thread(target=self._wait, name=f"child-{process.pid}", daemon=True).start()

    def get_pid(self) -> int:
        return self._process.pid

    def get_returncode(self) -> int | None:
        return self._code

    def write(self, data: bytes) -> None:
        """Never waits; after the child's end it does nothing."""
        if self._stdin is not None and not self._stdin.is_closing():
            self._stdin.write(data)

    def kill(self) -> None:
        if self._code is None:
            self._process.kill()

    def close(self) -> None:
        """Let go of the pipes: a child that reads comes to the end of its input."""
        for transport in (self._stdin, *self._outputs):
            if transport is not None:
                transport.close()

    def _wait(self) -> None:
        code = self._process.wait()
        # A loop that is closed has nobody who wants to know.
        if not self._loop.is_closed():
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._ended, code)

    def _ended(self, code: int) -> None:
        self._code = code
        if self._stdin is not None:
            self._stdin.close()
        self._parent.process_exited()
