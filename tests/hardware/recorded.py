"""Machines written down in `machines/*.toml`: their files, counts, cards, and what a probe must find.

The files are in the form in which the kernel, `sysctl` and `system_profiler` write; /proc/cpuinfo is
kept as one processor's block and how many there are.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml

from tabagent.hardware.devices import Kind
from tabagent.hardware.findings import Report
from tabagent.hardware.machine import Counts, Machine, Unreadable

FOLDER = Path(__file__).parent / "machines"
NAMES = sorted(file.stem for file in FOLDER.glob("*.toml"))
LLAMA = {
    "version": "0.5.0",
    "commit": "abc1234",
    "devices": [{"name": "CPU", "description": "a processor", "kind": "cpu"}],
}


class Nvml:
    """The binding's functions that are used, answering from a record; its errors are the real."""

    NVMLError = pynvml.NVMLError
    NVML_ERROR_LIBRARY_NOT_FOUND = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    NVML_ERROR_DRIVER_NOT_LOADED = pynvml.NVML_ERROR_DRIVER_NOT_LOADED

    def __init__(self, said: dict[str, Any]) -> None:
        self._said = said
        self.asked = 0

    def nvmlInit(self) -> None:  # noqa: N802  # NVML's own names
        self.asked += 1
        if error := self._said.get("error"):
            raise pynvml.NVMLError(getattr(pynvml, f"NVML_ERROR_{error}"))

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self._said["cards"])

    def nvmlSystemGetDriverVersion(self) -> Any:  # noqa: N802
        return self._get(self._said, "driver")

    def nvmlSystemGetCudaDriverVersion(self) -> Any:  # noqa: N802
        return self._get(self._said, "cuda")

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:  # noqa: N802
        return self._said["cards"][index]

    def nvmlDeviceGetName(self, card: dict[str, Any]) -> Any:  # noqa: N802
        return self._get(card, "name")

    def nvmlDeviceGetUUID(self, card: dict[str, Any]) -> Any:  # noqa: N802
        return self._get(card, "uuid")

    def nvmlDeviceGetPciInfo(self, card: dict[str, Any]) -> Any:  # noqa: N802
        return SimpleNamespace(busId=self._get(card, "bus"))

    def nvmlDeviceGetMemoryInfo(self, card: dict[str, Any]) -> Any:  # noqa: N802
        total = self._get(card, "total")
        return SimpleNamespace(total=total, free=card["free"], used=total - card["free"])

    def nvmlDeviceGetCudaComputeCapability(self, card: dict[str, Any]) -> Any:  # noqa: N802
        return self._get(card, "capability")

    def nvmlDeviceGetMigMode(self, card: dict[str, Any]) -> Any:  # noqa: N802
        return [self._get(card, "mig"), 0]

    def _get(self, said: dict[str, Any], key: str) -> Any:
        if key not in said:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return said[key]


def record(name: str) -> dict[str, Any]:
    return tomllib.loads((FOLDER / f"{name}.toml").read_text())


def machine(
    said: dict[str, Any],
    root: Path,
    *,
    kinds: frozenset[Kind] = frozenset(),
    versions: dict[str, str] | None = None,
    children: dict[str, Any] | None = None,
) -> Machine:
    """A recorded machine; without `versions` no engine is installed on it."""
    for path, text in said.get("files", {}).items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.lstrip("\n"))
    if "cpuinfo" in said:
        (root / "proc").mkdir(parents=True, exist_ok=True)
        (root / "proc/cpuinfo").write_text(cpuinfo(**said["cpuinfo"]))
    nvml = Nvml(said.get("nvml", {"error": "LIBRARY_NOT_FOUND"}))
    return Machine(
        system=said["system"],
        architecture=said["architecture"],
        root=root,
        counts=lambda: Counts(**said["counts"]),
        nvml=lambda: nvml,
        command=_by_name(said.get("commands", {})),
        child=_child(children or {}),
        version=(versions or {}).get,
        kinds=lambda: kinds,
        environment=said.get("environment", {}),
    )


def cpuinfo(
    block: str,
    *,
    sockets: int = 1,
    cores: int = 0,
    per_core: int = 1,
    threads: Sequence[int] = (),
    rest: str = "",
) -> str:
    """/proc/cpuinfo of so many processors; `threads` says of each core how many it has."""
    counts = list(threads) or [per_core] * cores
    places = [
        (socket, core)
        for socket in range(sockets)
        for core, many in enumerate(counts)
        for _ in range(many)
    ]
    blocks = (
        block.strip("\n").format(
            processor=number, socket=socket, core=core, cores=len(counts), siblings=sum(counts)
        )
        for number, (socket, core) in enumerate(places)
    )
    return "\n\n".join([*blocks, *filter(None, [rest.strip("\n")])]) + "\n\n"


def plain(report: Report) -> dict[str, Any]:
    """The report as TOML could have it: lists for tuples, and what is None or empty left out."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            kept = ((key, clean(inside)) for key, inside in value.items())
            return {key: inside for key, inside in kept if inside not in (None, [], {})}
        if isinstance(value, list | tuple):
            return [clean(inside) for inside in value]
        return value

    found: dict[str, Any] = clean(asdict(report))
    return found


def _by_name(said: dict[str, str]) -> Callable[[Sequence[str]], str]:
    def command(words: Sequence[str]) -> str:
        try:
            return said[" ".join(words)].lstrip("\n")
        except KeyError:
            raise Unreadable(f"No such file or directory: {words[0]!r}") from None

    return command


def _child(said: dict[str, Any]) -> Callable[[str], Any]:
    def child(module: str) -> Any:
        if module not in said:
            raise Unreadable(f"{module} ended with 1")
        return said[module]

    return child


def each() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in NAMES:
        yield name, record(name)
