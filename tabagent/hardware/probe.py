"""What this machine has, read from the system and nowhere else."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processor. `usable_cores` is what this process may use."""

    name: str
    architecture: str
    physical_cores: int
    logical_cores: int
    usable_cores: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Main memory in bytes."""

    total_bytes: int
    available_bytes: int


def cpu() -> Cpu:
    logical = psutil.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    return Cpu(
        name=_cpu_name(),
        architecture=platform.machine(),
        physical_cores=psutil.cpu_count(logical=False) or logical,
        logical_cores=logical,
        usable_cores=usable,
    )


def memory() -> Memory:
    now = psutil.virtual_memory()
    return Memory(total_bytes=now.total, available_bytes=now.available)


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
