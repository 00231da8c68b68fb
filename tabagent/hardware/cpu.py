"""The processor: who made it, how many cores, and which instructions engines have fast code for.

Source: /proc/cpuinfo on Linux, `sysctl` on macOS. ARM names by implementer and part are those that
`lscpu` prints.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from tabagent.hardware import limits
from tabagent.hardware.apple import sysctl
from tabagent.hardware.findings import Cpu
from tabagent.hardware.machine import Counts, Machine

VENDORS: Final = {
    "GenuineIntel": "Intel", "AuthenticAMD": "AMD", "HygonGenuine": "Hygon",
    "0x41": "ARM", "0x42": "Broadcom", "0x46": "Fujitsu", "0x48": "HiSilicon", "0x4e": "NVIDIA",
    "0x51": "Qualcomm", "0x61": "Apple", "0xc0": "Ampere",
}  # fmt: skip
PARTS: Final = {
    ("0x41", "0xd03"): "Cortex-A53", ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd08"): "Cortex-A72", ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1", ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd42"): "Cortex-A78AE", ("0x41", "0xd49"): "Neoverse-N2",
    ("0x41", "0xd4f"): "Neoverse-V2", ("0x41", "0xd80"): "Cortex-A520",
    ("0x41", "0xd81"): "Cortex-A720", ("0x41", "0xd85"): "Cortex-X925",
    ("0x41", "0xd87"): "Cortex-A725", ("0xc0", "0xac3"): "Ampere-1",
}  # fmt: skip
FEATURES: Final = {  # as the kernel writes them, and as people do, in the order of our list
    "avx": "avx", "f16c": "f16c", "fma": "fma", "avx2": "avx2", "avx_vnni": "avx-vnni",
    "avx512f": "avx512", "avx512_vnni": "avx512-vnni", "avx512_bf16": "avx512-bf16",
    "amx_tile": "amx", "amx_int8": "amx-int8",
    "asimd": "neon", "asimdhp": "fp16", "asimddp": "dotprod", "i8mm": "i8mm", "bf16": "bf16",
    "sve": "sve", "sve2": "sve2", "sme": "sme",
}  # fmt: skip
APPLE_FEATURES: Final = {
    "hw.optional.AdvSIMD": "neon", "hw.optional.neon": "neon", "hw.optional.arm.FEAT_FP16": "fp16",
    "hw.optional.arm.FEAT_DotProd": "dotprod", "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16", "hw.optional.arm.FEAT_SME": "sme",
    "hw.optional.avx1_0": "avx", "hw.optional.f16c": "f16c", "hw.optional.fma": "fma",
    "hw.optional.avx2_0": "avx2", "hw.optional.avx512f": "avx512",
}  # fmt: skip


def cpu(machine: Machine) -> Cpu:
    """Raises Unreadable on macOS without `sysctl`; knows less elsewhere."""
    counts = machine.counts()
    if machine.system == "Darwin":
        return _apple(machine, counts)
    if machine.system == "Linux":
        return _linux(machine, counts)
    return plain(machine)


def plain(machine: Machine) -> Cpu:
    """What is known of any processor."""
    counts = machine.counts()
    return Cpu(
        name=machine.environment.get("PROCESSOR_IDENTIFIER", machine.architecture),
        vendor="unknown",
        architecture=machine.architecture,
        physical_cores=counts.physical_cores,
        logical_cores=counts.logical_cores,
        usable_cores=counts.usable_cores,
        source="psutil",
    )


def _linux(machine: Machine, counts: Counts) -> Cpu:
    processors, rest = _cpuinfo(machine.text("proc/cpuinfo"))
    first = processors[0] if processors else {}
    maker = first.get("vendor_id") or first.get("CPU implementer", "")
    board = machine.text("proc/device-tree/model").rstrip("\0\n") or rest.get("Model")
    quota = limits.cpu_quota(machine.root / "sys/fs/cgroup", machine.root / "proc/self/cgroup")
    return Cpu(
        name=first.get("model name") or _parts(processors) or machine.architecture,
        vendor=VENDORS.get(maker, maker or "unknown"),
        architecture=machine.architecture,
        physical_cores=_physical(processors) or counts.physical_cores,
        logical_cores=len(processors) or counts.logical_cores,
        usable_cores=max(1, math.ceil(min(counts.usable_cores, quota))),
        features=_features(first.get("flags", first.get("Features", "")).split()),
        board=board,
        quota=None if math.isinf(quota) else quota,
        source="/proc/cpuinfo",
    )


def _cpuinfo(text: str) -> tuple[list[dict[str, str]], dict[str, str]]:
    """One block for each logical processor, and what is said of the machine as a whole."""
    processors: list[dict[str, str]] = []
    rest: dict[str, str] = {}
    for block in text.split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines() if ":" in line)
        found = {key.strip(): value.strip() for key, _, value in pairs}
        if "processor" in found:
            processors.append(found)
        else:
            rest |= found
    return processors, rest


def _parts(processors: Iterable[dict[str, str]]) -> str:
    """What ARM's cores are called; there may be large and small ones."""
    keys = ((p.get("CPU implementer", ""), p.get("CPU part", "")) for p in processors)
    return " + ".join(dict.fromkeys(PARTS[key] for key in keys if key in PARTS))


def _physical(processors: Iterable[dict[str, str]]) -> int:
    """Different cores; 0 where processors do not say which they belong to, as on ARM."""
    return len({(p["physical id"], p["core id"]) for p in processors if "core id" in p})


def _features(flags: Iterable[str]) -> tuple[str, ...]:
    known = set(flags)
    return tuple(name for flag, name in FEATURES.items() if flag in known)


def _apple(machine: Machine, counts: Counts) -> Cpu:
    said = sysctl(machine)
    name = said.get("machdep.cpu.brand_string", machine.architecture)
    yes = (name for key, name in APPLE_FEATURES.items() if said.get(key) == "1")
    return Cpu(
        name=name,
        vendor=VENDORS.get(said.get("machdep.cpu.vendor", ""), name.partition(" ")[0]),
        architecture=machine.architecture,
        physical_cores=int(said.get("hw.physicalcpu", counts.physical_cores)),
        logical_cores=int(said.get("hw.logicalcpu", counts.logical_cores)),
        usable_cores=counts.usable_cores,
        features=tuple(dict.fromkeys(yes)),
        board=said.get("hw.model"),
        source="sysctl",
    )
