"""The server about itself: is it well, what does it run on, what can it be asked."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from time import monotonic
from typing import Final, Literal

from tabagent import __version__
from tabagent.engine.supervisor import State, Supervisor
from tabagent.hardware import probe
from tabagent.operation import Access, Call, NoParameters, Operation, Reply

ACCESS: Final[dict[Access, Literal["public", "user", "admin"]]] = {
    Access.PUBLIC: "public",
    Access.USER: "user",
    Access.ADMIN: "admin",
}
ENGINES: Final = ("llama-cpp-python", "onnxruntime", "sentence-transformers")


class Health(Reply):
    """The server is up; `models` has the state of each loaded model."""

    status: Literal["ok"] = "ok"
    version: str
    uptime_s: float
    models: dict[str, State]


class CpuInfo(Reply):
    """The processor."""

    name: str
    architecture: str
    physical_cores: int
    logical_cores: int
    usable_cores: int


class MemoryInfo(Reply):
    """Main memory."""

    total_bytes: int
    available_bytes: int


class SystemInfo(Reply):
    """This machine and what is installed on it."""

    version: str
    python: str
    platform: str
    cpu: CpuInfo
    memory: MemoryInfo
    engines: dict[str, str | None]


class RouteInfo(Reply):
    """One operation."""

    route: str
    method: str
    path: str
    access: Literal["public", "user", "admin"]
    streams: bool
    summary: str


class RouteList(Reply):
    """Every operation, aliases included."""

    routes: list[RouteInfo]


class System:
    """`table` is set once the table, which holds this service too, has been built."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.table: Iterable[Operation] = ()
        self._started = monotonic()

    async def health(self, request: NoParameters, call: Call) -> Health:
        """Say that the server is up, from what it knows itself: no worker is asked."""
        return Health(
            version=__version__,
            uptime_s=round(monotonic() - self._started, 3),
            models={entry.model.id: entry.state for entry in self._supervisor.loaded()},
        )

    async def info(self, request: NoParameters, call: Call) -> SystemInfo:
        """Describe the machine and the engines installed on it."""
        cpu, memory = probe.cpu(), probe.memory()
        return SystemInfo(
            version=__version__,
            python=platform.python_version(),
            platform=platform.platform(),
            cpu=CpuInfo(
                name=cpu.name,
                architecture=cpu.architecture,
                physical_cores=cpu.physical_cores,
                logical_cores=cpu.logical_cores,
                usable_cores=cpu.usable_cores,
            ),
            memory=MemoryInfo(
                total_bytes=memory.total_bytes, available_bytes=memory.available_bytes
            ),
            engines={name: _installed(name) for name in ENGINES},
        )

    async def routes(self, request: NoParameters, call: Call) -> RouteList:
        """List every operation: its route name, path, access and whether it can stream."""
        return RouteList(
            routes=[
                RouteInfo.model_construct(
                    route=op.name,
                    method=method,
                    path=path,
                    access=ACCESS[op.access],
                    streams=op.streams,
                    summary=op.summary,
                )
                for op in self.table
                for method, path in op.routes
            ]
        )


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
