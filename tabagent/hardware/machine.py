"""Where a probe reads from: this machine, or a recorded one.

All that is read outside the process goes through here, so that a machine can be written down.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import psutil

from tabagent.hardware.devices import Kind, build_kinds

COMMAND_S: Final = 20.0  # system_profiler takes a second or two, an engine's first import more


class Unreadable(Exception):
    """A source that says nothing; the message says why."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers that the operating system gives on every platform, by psutil."""

    total_bytes: int
    available_bytes: int
    logical_cores: int
    physical_cores: int
    usable_cores: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Machine:
    """`nvml` gives NVML's binding, `command` a program's output, `child` what a module of ours
    prints as JSON; all raise Unreadable. `version` is that of an installed distribution, `kinds`
    are the devices that llama.cpp was built for.
    """

    system: str  # Linux, Darwin, Windows
    architecture: str
    root: Path  # /proc, /sys and /dev lie below it
    counts: Callable[[], Counts]
    nvml: Callable[[], Any]
    command: Callable[[Sequence[str]], str]
    child: Callable[[str], Any]
    version: Callable[[str], str | None]
    kinds: Callable[[], frozenset[Kind]]
    environment: Mapping[str, str]

    def text(self, path: str) -> str:
        """A file's text, empty where there is none."""
        try:
            return (self.root / path).read_text(errors="replace")
        except OSError:
            return ""

    def number(self, path: str) -> int | None:
        text = self.text(path).strip()
        return int(text) if text.isdigit() else None

    def exists(self, *paths: str) -> bool:
        return any((self.root / path).exists() for path in paths)


@cache
def this_machine() -> Machine:
    """The one that this process runs on. Reads nothing yet."""
    return Machine(
        system=platform.system(),
        architecture=platform.machine(),
        root=Path("/"),
        counts=_counts,
        nvml=_nvml,
        command=_output,
        child=_child,
        version=_version,
        kinds=build_kinds,
        environment=os.environ,
    )


def _counts() -> Counts:
    memory, logical = psutil.virtual_memory(), psutil.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    return Counts(
        total_bytes=memory.total,
        available_bytes=memory.available,
        logical_cores=logical,
        physical_cores=psutil.cpu_count(logical=False) or logical,
        usable_cores=usable,
    )


def _nvml() -> Any:
    try:
        return import_module("pynvml")  # 50 ms, which machines without such a card need not wait
    except ImportError as error:
        raise Unreadable("nvidia-ml-py is not installed") from error


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unreadable(str(error)) from error
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise Unreadable(words[-1] if words else f"{command[0]} ended with {done.returncode}")
    return done.stdout


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


@cache  # what is installed does not change under a running process; what was raised is not kept
def _child(module: str) -> Any:
    try:
        return json.loads(_output((sys.executable, "-P", "-m", module)))
    except ValueError as error:
        raise Unreadable(f"{module} printed no JSON") from error
