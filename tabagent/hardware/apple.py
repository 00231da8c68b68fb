"""Apple's machines: what `sysctl` and `system_profiler` say, and memory that is everybody's.

Metal may take about two thirds of the memory, three quarters of more than 36 GiB, unless
`iogpu.wired_limit_mb` says otherwise; the system keeps the rest.
"""

from __future__ import annotations

import json
from typing import Any, Final

from tabagent.hardware.findings import Gpu
from tabagent.hardware.machine import Machine, Unreadable

SYSCTL: Final = ("/usr/sbin/sysctl", "hw", "machdep.cpu", "iogpu")
DISPLAYS: Final = ("/usr/sbin/system_profiler", "-json", "SPDisplaysDataType")
LARGE: Final = 36 * 2**30


def sysctl(machine: Machine) -> dict[str, str]:
    """`name: value` of the processor, the hardware and its graphics. Raises Unreadable."""
    pairs = (line.partition(": ") for line in machine.command(SYSCTL).splitlines())
    return {name: value.strip() for name, _, value in pairs}


def apple_gpus(machine: Machine) -> list[Gpu]:
    """The graphics processors of a Mac. Raises Unreadable."""
    try:
        shown = json.loads(machine.command(DISPLAYS))["SPDisplaysDataType"]
    except (ValueError, KeyError) as error:
        raise Unreadable("system_profiler speaks no JSON that is known") from error
    return [_gpu(machine, one, index) for index, one in enumerate(shown)]


def metal_limit(machine: Machine) -> int:
    """Bytes of unified memory that Metal may take. Raises Unreadable."""
    said = sysctl(machine)
    if wired := int(said.get("iogpu.wired_limit_mb", "0")):
        return wired * 2**20
    total = int(said["hw.memsize"])
    return total * 3 // 4 if total > LARGE else total * 2 // 3


def _gpu(machine: Machine, shown: dict[str, Any], index: int) -> Gpu:
    unified = machine.architecture == "arm64"
    limit = metal_limit(machine) if unified else None
    cores = shown.get("sppci_cores")
    name = str(shown.get("sppci_model", "unknown"))
    free = None if limit is None else min(limit, machine.counts().available_bytes)
    return Gpu(
        vendor="apple" if unified else "other",
        name=f"{name} ({cores} cores)" if cores else name,
        device=f"metal:{index}" if unified else None,
        unified=unified,
        total_bytes=limit,
        free_bytes=free,
        capability=_metal(str(shown.get("spdisplays_mtlgpufamilysupport", ""))),
        source="system_profiler, sysctl",
    )


def _metal(family: str) -> str | None:
    """`spdisplays_metal3` is Metal 3."""
    number = family.removeprefix("spdisplays_metal")
    return f"Metal {number}".strip() if number != family else None
