"""A child process that answers one question at a time, and is killed when it takes too long.

For work on what strangers wrote (templates, grammars) in code that can be made to hang, to eat
memory or to crash. Frames of JSON in, frames of JSON out; the first frame says that it is ready.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from tabagent.errors import InternalError
from tabagent.frames import FrameDecoder, encode

START_S: Final = 20.0
WAIT_S: Final = 8.0  # for an answer, on a machine that has other things to do; see `budget`
LEAVE_S: Final = 0.3


class Confined:
    """One `python -m module`. It asks for one caller at a time; the caller holds the lock.

    `greeting` is a frame that it gets before any question. `close` ends it.
    """

    def __init__(self, module: str, *, greeting: bytes | None = None) -> None:
        self._module, self._greeting = module, greeting
        self._decoder = FrameDecoder()
        self._ready = False
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: bytes) -> dict[str, Any] | None:
        """The answer, or None when the child died or had to be killed, which ends it."""
        if not self._ready:
            if self._within(START_S, self._start) is None:
                raise InternalError(f"{self._module} did not start")
            self._ready = True

        def exchange() -> bytes | None:
            self._write(request)
            return self._read()

        body = self._within(WAIT_S, exchange)
        return None if body is None else json.loads(body)

    def _start(self) -> bytes | None:
        if self._greeting is not None:
            self._write(self._greeting)
        return self._read()

    def _within(self, seconds: float, work: Callable[[], bytes | None]) -> bytes | None:
        """Run `work`; the child is killed after `seconds`, which ends every wait on it."""
        timer = threading.Timer(seconds, self._process.kill)
        timer.start()
        try:
            answer = work()
        except (OSError, ValueError):  # a broken pipe; a pipe that `close` has closed
            answer = None
        timer.cancel()
        timer.join()
        if answer is None:
            self._process.kill()
            self._process.wait()
        return answer

    def _write(self, body: bytes) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        view = memoryview(encode(body))
        while view:
            view = view[stdin.write(view) or 0 :]

    def _read(self) -> bytes | None:
        stdout = self._process.stdout
        assert stdout is not None
        while data := stdout.read(1 << 16):
            if bodies := self._decoder.feed(data):
                return bodies[0]
        return None

    def close(self) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.close()
        try:
            self._process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:  # in the middle of an answer
            self._process.kill()
            self._process.wait()
        stdout.close()
