"""What a confined child does to itself: see confined.py for the side that asks."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

Main = Callable[[Callable[[int], bytes], Callable[[bytes], Any]], None]
"""Reads frames with the first function and writes them with the second, until the input ends."""
COMPUTE_S: Final = 2.0  # seconds of a core that one question may take


def die_with_parent(code: int = 0) -> None:
    """Have the kernel end this process with the one that started it. Linux alone can."""
    if sys.platform == "linux":
        parent = os.getppid()
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(code)


def budget(seconds: float = COMPUTE_S) -> None:
    """The process ends when it has computed for so many seconds; 0 calls it off.

    The kernel does it, also when nobody is left to end this process, and what else the machine
    does is not counted. Windows has no such clock: there the side that asks waits, and kills.
    """
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, seconds)


def run(main: Main, memory: int) -> None:
    """Serve stdin and stdout within `memory` bytes of address space."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main(lambda size: os.read(0, size), lambda data: os.write(1, data))
