"""What the processes of a server hold: memory, descriptors, threads; second by second."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import psutil

GATEWAY: Final = "gateway"


@dataclass(slots=True)
class Vitals:
    """Of one process, or of several that do the same. Memory is in MB (10^6 bytes)."""

    own: float = 0.0  # memory that is no file's: a leak is in here
    resident: float = 0.0
    descriptors: int = 0
    threads: int = 0
    processes: int = 0

    def add(self, process: psutil.Process) -> None:
        with process.oneshot():
            memory, descriptors = process.memory_info(), process.num_fds()
            threads = process.num_threads()
        # Pages of programs, libraries and models come and go with what else runs on the machine;
        # they would hide a small leak. Only Linux tells them apart.
        self.own += (memory.rss - getattr(memory, "shared", 0)) / 1e6
        self.resident += memory.rss / 1e6
        self.descriptors += descriptors
        self.threads += threads
        self.processes += 1


def vitals(gateway: psutil.Process, workers: Mapping[int, str]) -> dict[str, Vitals]:
    """By role: the gateway, each worker by its model, and a worker's children by their module.

    `workers`: models by process id.
    """
    found: dict[str, Vitals] = defaultdict(Vitals)
    found[GATEWAY].add(gateway)
    parents: dict[int, str] = {gateway.pid: GATEWAY}
    for process in gateway.children(recursive=True):  # parents come before their children
        with suppress(psutil.NoSuchProcess):  # it ended while we looked
            role = workers.get(process.pid)
            if role is None:
                role = f"{parents.get(process.ppid(), '?')}: {_program(process)}"
            parents[process.pid] = role
            found[role].add(process)
    return dict(found)


def _program(process: psutil.Process) -> str:
    """The last part of the module that a Python runs, else the program's name."""
    words = process.cmdline()
    with suppress(ValueError, IndexError):
        return words[words.index("-m") + 1].rpartition(".")[2]
    return process.name()


@dataclass(slots=True)
class History:
    """One role's vitals over time; `at` is in seconds since the load began."""

    at: list[float] = field(default_factory=list)
    seen: list[Vitals] = field(default_factory=list)

    def add(self, at: float, vitals: Vitals) -> None:
        self.at.append(at)
        self.seen.append(vitals)

    @property
    def own(self) -> Sequence[float]:
        return [vitals.own for vitals in self.seen]

    @property
    def slope(self) -> float:
        """MB a minute: the line that fits the second half best."""
        half = len(self.at) // 2
        if len(self.at) - half < 2:
            return 0.0
        return statistics.linear_regression(self.at[half:], self.own[half:]).slope * 60

    def fifth(self, number: int) -> float:
        """The median memory of one fifth of the samples, 1 to 5; too few samples count as one."""
        size = len(self.seen) / 5
        part = self.own[round((number - 1) * size) : round(number * size)]
        return statistics.median(part or self.own)

    @property
    def growth(self) -> float:
        """MB from the second fifth to the last: the first is spent on growing to size."""
        return self.fifth(5) - self.fifth(2)
