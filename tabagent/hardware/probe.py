"""Everything about a machine, read once: a part that says nothing is a note, never an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tabagent.hardware import engines, limits
from tabagent.hardware.apple import apple_gpus
from tabagent.hardware.cpu import cpu, plain
from tabagent.hardware.findings import Engine, Gpu, Note, Report
from tabagent.hardware.machine import Machine, Unreadable
from tabagent.hardware.nvidia import NoDriver, Nvidia, nvidia_gpus
from tabagent.hardware.sysfs import sysfs_gpus

T = TypeVar("T")


def probe(machine: Machine) -> Report:
    """Look at the machine. Blocks, for a second the first time, since engines are asked."""
    return _Probe(machine).report()


class _Probe:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._notes: list[Note] = []
        self._nvidia: Nvidia | None = None

    def report(self) -> Report:
        machine, counts = self._machine, self._machine.counts()
        processor = self._noted("cpu", lambda: cpu(machine), lambda: plain(machine))
        gpus = self._gpus()
        runtimes = (
            self._engine(engines.LLAMA, engines.llama),
            self._engine(engines.ONNX, engines.onnx),
            engines.unasked(machine, engines.SENTENCES),
        )
        return Report(
            cpu=processor,
            memory=limits.within(
                counts.total_bytes,
                counts.available_bytes,
                machine.root / "sys/fs/cgroup",
                machine.root / "proc/self/cgroup",
            ),
            gpus=tuple(gpus),
            nvidia_driver=self._nvidia.driver if self._nvidia else None,
            cuda_version=self._nvidia.cuda if self._nvidia else None,
            engines=runtimes,
            notes=tuple(self._notes),
        )

    def _noted(self, source: str, read: Callable[[], T], instead: Callable[[], T]) -> T:
        try:
            return read()
        except Unreadable as error:
            self._notes.append(Note(source, str(error)))
        except Exception as error:  # a form that nobody has seen yet must not cost all the rest
            self._notes.append(Note(source, f"not understood: {type(error).__name__}: {error}"))
        return instead()

    def _engine(self, name: str, read: Callable[[Machine], Engine]) -> Engine:
        machine = self._machine
        return self._noted(name, lambda: read(machine), lambda: engines.unasked(machine, name))

    def _gpus(self) -> list[Gpu]:
        """Cards by whoever knows most of them: NVML, then the kernel; a Mac's by its own tools."""
        if self._machine.system == "Darwin":
            return self._noted("system_profiler", lambda: apple_gpus(self._machine), _none)
        nvidia = self._noted("nvml", self._nvidia_gpus, _none)
        others = self._noted("sysfs", self._sysfs_gpus, _none)
        known = {gpu.pci for gpu in nvidia}
        return [*nvidia, *(gpu for gpu in others if gpu.pci not in known)]

    def _nvidia_gpus(self) -> list[Gpu]:
        try:
            gpus, self._nvidia = nvidia_gpus(self._machine)
        except NoDriver:
            return []  # of most machines; a card without its driver is noted where it is found
        self._notes += self._nvidia.notes
        return gpus

    def _sysfs_gpus(self) -> list[Gpu]:
        gpus, notes = sysfs_gpus(self._machine)
        self._notes += notes
        return gpus


def _none() -> list[Gpu]:
    return []
