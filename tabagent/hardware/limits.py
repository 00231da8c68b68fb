"""How much memory this process may take: the machine's, or the control group's if that is less.

Source: `memory.max`, `memory.current` and `memory.stat` of cgroup v2, `memory.limit_in_bytes` and
`memory.usage_in_bytes` of v1, in the kernel's documentation. Every group on the way up counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

from tabagent.hardware.probe import Memory

CGROUP: Final = Path("/sys/fs/cgroup")
OWN: Final = Path("/proc/self/cgroup")
UNLIMITED: Final = 2**60  # v1 says a number near 2^63 for none


def memory(cgroup: Path = CGROUP, own: Path = OWN) -> Memory:
    """Main memory in bytes as this process has it. Reads small files: a millisecond."""
    machine = psutil.virtual_memory()
    total, available = machine.total, machine.available
    for limit, used in _limits(cgroup, own):
        total = min(total, limit)
        available = min(available, max(0, limit - used))
    return Memory(total_bytes=total, available_bytes=available)


def _limits(cgroup: Path, own: Path) -> Iterator[tuple[int, int]]:
    """(limit, bytes in use that cannot be given back) of each group with a limit."""
    for folder, limit_name, used_name, file_names in _groups(cgroup, own):
        limit, used = _number(folder / limit_name), _number(folder / used_name)
        if limit is not None and used is not None and limit < UNLIMITED:
            # Cached and mapped file pages count as used and are given back when memory is wanted.
            pages = _stat(folder / "memory.stat", *file_names)
            yield limit, max(0, used - pages)


def _groups(cgroup: Path, own: Path) -> Iterator[tuple[Path, str, str, tuple[str, str]]]:
    for line in _text(own).splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root, files = cgroup, ("active_file", "inactive_file")
            names = ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root, files = cgroup / "memory", ("total_active_file", "total_inactive_file")
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        # In a container the path is that of the host, and the root is already the own group.
        folder = root / path.lstrip("/")
        while not folder.is_dir() and folder != root:
            folder = folder.parent
        yield folder, *names, files
        while folder != root:
            folder = folder.parent
            yield folder, *names, files


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
