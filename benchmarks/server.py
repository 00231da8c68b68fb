"""A server under test, ours or the peer: where it listens and which process answers HTTP."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil


@dataclass(frozen=True, slots=True)
class Layout:
    """How a model is laid out, the same on both sides. `n_ctx` is one sequence's, in tokens."""

    model: Path
    slots: int
    n_ctx: int
    threads: int


@dataclass(frozen=True, slots=True)
class Server:
    """`began` is when it was started, in seconds of `time.perf_counter`."""

    name: str
    port: int
    process: psutil.Popen
    began: float
    tokenize: str = ""  # the path that cuts a text into tokens
    text: str = ""  # the field that holds the text


@contextmanager
def child(
    command: list[str], environment: Mapping[str, str], *, log: IO[Any] | None = None
) -> Iterator[tuple[psutil.Popen, float]]:
    """Run `command` while the block does; the process, and when it was started.

    Without a `log` only its complaints are shown.
    """
    began = time.perf_counter()
    out = log or subprocess.DEVNULL
    process = psutil.Popen(command, stdout=out, stderr=log, env=dict(environment))
    try:
        yield process, began
    finally:
        process.terminate()
        try:
            process.wait(30)
        except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
            process.kill()
            process.wait(30)


def wait(what: str, process: psutil.Popen, ready: Callable[[], bool], pause: float) -> None:
    """Ask every `pause` seconds until it is ready; leave when it ended or two minutes passed."""
    began = time.perf_counter()
    while not ready():
        if process.poll() is not None or time.perf_counter() - began > 120:
            sys.exit(f"{what} did not start")
        time.sleep(pause)


def healthy(port: int) -> bool:
    """Whether /health says 200; a server that is starting refuses, or says 503."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=30) as response:
            return bool(response.read())
    except (urllib.error.URLError, ConnectionError):
        return False
