"""How much memory and processor this process may take: the machine's, or its control groups'.

Source: `memory.max`, `memory.current`, `memory.stat` and `cpu.max` of cgroup v2,
`memory.limit_in_bytes`, `memory.usage_in_bytes` and `cpu.cfs_quota_us` of v1, in the kernel's
documentation. Every group on the way up counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

from tabagent.hardware.findings import MainMemory, Memory

CGROUP: Final = Path("/sys/fs/cgroup")
OWN: Final = Path("/proc/self/cgroup")
UNLIMITED: Final = 2**60  # v1 says a number near 2^63 for none
FILES: Final = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes",
        "total_active_file", "total_inactive_file"),
    2: ("memory.max", "memory.current", "active_file", "inactive_file"),
}  # fmt: skip


def memory(cgroup: Path = CGROUP, own: Path = OWN) -> Memory:
    """Main memory in bytes as this process has it. Reads small files: a millisecond."""
    machine = psutil.virtual_memory()
    found = within(machine.total, machine.available, cgroup, own)
    return Memory(found.total_bytes, found.available_bytes)


def within(total: int, available: int, cgroup: Path = CGROUP, own: Path = OWN) -> MainMemory:
    """What is left of a machine's memory within the control groups."""
    found, source = total, "psutil"
    for limit, used, file in _limits(cgroup, own):
        if limit < found:
            found, source = limit, f"cgroup {file}"
        available = min(available, max(0, limit - used))
    return MainMemory(
        total_bytes=found, available_bytes=available, machine_bytes=total, source=source
    )


def cpu_quota(cgroup: Path = CGROUP, own: Path = OWN) -> float:
    """How many processors may be kept busy; infinity without a limit."""
    least = math.inf
    for folder, version in _groups(cgroup, own, "cpu"):
        if version == 2:
            quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
        else:
            quota = _text(folder / "cpu.cfs_quota_us").strip()
            period = _text(folder / "cpu.cfs_period_us").strip()
        if quota.isdigit() and period.isdigit() and int(period):  # else "max" or -1: none
            least = min(least, int(quota) / int(period))
    return least


def _limits(cgroup: Path, own: Path) -> Iterator[tuple[int, int, str]]:
    """(limit, bytes in use that cannot be given back, its file) of each group with a limit."""
    for folder, version in _groups(cgroup, own, "memory"):
        limit_name, used_name, *file_names = FILES[version]
        limit, used = _number(folder / limit_name), _number(folder / used_name)
        if limit is not None and used is not None and limit < UNLIMITED:
            # Cached and mapped file pages count as used and are given back when memory is wanted.
            pages = _stat(folder / "memory.stat", *file_names)
            yield limit, max(0, used - pages), limit_name


def _groups(cgroup: Path, own: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """(folder, version) of this process's groups that have the controller, each with its parents."""
    for line in _text(own).splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root, version = cgroup, 2
        elif controller in controllers.split(","):
            root, version = cgroup / controller, 1
        else:
            continue
        # In a container the path is that of the host, and the root is already the own group.
        folder = root / path.lstrip("/")
        while not folder.is_dir() and folder != root:
            folder = folder.parent
        yield folder, version
        while folder != root:
            folder = folder.parent
            yield folder, version


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # not Linux, or no such group


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _stat(path: Path, *names: str) -> int:
    """The sum of these numbers, as far as they are there."""
    pairs = (line.partition(" ") for line in _text(path).splitlines())
    return sum(int(value) for key, _, value in pairs if key in names)
