"""The devices that models can be laid on now, with what is free there: llama.cpp's own count."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from time import monotonic
from typing import Final

import structlog

from tabagent.hardware.apple import metal_limit, sysctl
from tabagent.hardware.devices import Accelerators, Device, Kind
from tabagent.hardware.findings import Gpu
from tabagent.hardware.machine import Machine, this_machine
from tabagent.hardware.nvidia import NoDriver, cuda_order, read
from tabagent.hardware.sysfs import HIDING, sysfs_gpus

log = structlog.get_logger(__name__)

MOMENT_S: Final = 0.05
"""One request may ask for each of many models; what a load takes must be seen by the next one."""

Found = list[Device] | None  # None: there may be some, and nobody can say


class Looker:
    """Calls answer within a millisecond for each card, and never raise."""

    def __init__(
        self, machine: Machine | None = None, clock: Callable[[], float] = monotonic
    ) -> None:
        self._machine, self._clock = machine or this_machine(), clock
        self._last: tuple[float, Accelerators] | None = None
        self._said: set[str] = set()

    def __call__(self) -> Accelerators:
        now = self._clock()
        if self._last is None or now - self._last[0] > MOMENT_S:
            self._last = now, self._look()
        return self._last[1]

    def _look(self) -> Accelerators:
        kinds = self._machine.kinds()
        devices: list[Device] = []
        absent: set[Kind] = set()
        for kind, find in FINDERS.items():
            if kind in kinds:
                found = self._careful(kind, find)
                devices += found or []
                if found is not None and not found:
                    absent.add(kind)
        return Accelerators(kinds, tuple(devices), frozenset(absent))

    def _careful(self, kind: Kind, find: Callable[[Machine], Found]) -> Found:
        try:
            return find(self._machine)
        except Exception as error:  # whatever a driver does, models run without it
            if str(error) not in self._said:  # once, for this is asked all the time
                self._said.add(str(error))
                log.warning("devices_unknown", kind=kind, why=str(error))
            return None


def _cuda(machine: Machine) -> Found:
    try:
        cards = cuda_order(read(machine), machine)
    except NoDriver:
        return []
    if cards is None:
        return None
    main = machine.counts()  # a card that names no memory of its own has the machine's
    return [
        Device(
            "cuda",
            index,
            card.name,
            main.total_bytes if card.total_bytes is None else card.total_bytes,
            main.available_bytes if card.free_bytes is None else card.free_bytes,
        )
        for index, card in enumerate(cards)
    ]


def _rocm(machine: Machine) -> Found:
    if any(name in machine.environment for name in HIDING):
        return None
    if machine.system == "Linux" and not machine.exists("dev/kfd"):
        return []
    found = [gpu for gpu in sysfs_gpus(machine)[0] if (gpu.device or "").startswith("rocm:")]
    found.sort(key=_number)
    if not found or any(gpu.total_bytes is None or gpu.free_bytes is None for gpu in found):
        return None
    return [
        Device("rocm", _number(gpu), gpu.name, gpu.total_bytes or 0, gpu.free_bytes or 0)
        for gpu in found
    ]


def _number(gpu: Gpu) -> int:
    return int((gpu.device or ":0").partition(":")[2])


def _metal(machine: Machine) -> Found:
    if machine.architecture != "arm64":
        return None  # a card of its own, of which nobody says what is free
    name, limit = _apple_silicon(machine)
    return [Device("metal", 0, name, limit, min(limit, machine.counts().available_bytes))]


@cache  # two programs are run for it, and it stays as it is
def _apple_silicon(machine: Machine) -> tuple[str, int]:
    return sysctl(machine).get("machdep.cpu.brand_string", "Apple"), metal_limit(machine)


FINDERS: Final[dict[Kind, Callable[[Machine], Found]]] = {
    "cuda": _cuda,
    "rocm": _rocm,
    "metal": _metal,
}
"""Vulkan and SYCL count as their drivers like, so nothing is said of their devices."""


devices_now: Final = Looker()
"""The devices of this machine, as a server sees them."""
