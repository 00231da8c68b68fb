"""The server about itself: is it well, what does it run on, what can it be asked."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Awaitable, Callable, Iterable
from time import monotonic
from typing import Final, Literal

from pydantic import Field

from tabagent import __version__
from tabagent.engine.supervisor import State, Supervisor
from tabagent.errors import ShuttingDown
from tabagent.hardware.engines import LLAMA
from tabagent.hardware.findings import Report
from tabagent.operation import Access, Call, NoParameters, Operation, Reply
from tabagent.replies.hardware import CpuInfo, GpuInfo, HardwareInfo, MemoryInfo, NoteInfo

ACCESS: Final[dict[Access, Literal["public", "user", "admin"]]] = {
    Access.PUBLIC: "public",
    Access.USER: "user",
    Access.ADMIN: "admin",
}


class Health(Reply):
    """The server is up; `models` has the state of each loaded model."""

    status: Literal["ok"] = "ok"
    version: str
    uptime_s: float
    models: dict[str, State]


class Live(Reply):
    """The server answers."""

    status: Literal["ok"] = "ok"


class Ready(Reply):
    """The server takes work."""

    status: Literal["ready"] = "ready"


class SystemInfo(Reply):
    """This machine and what is installed on it."""

    version: str
    python: str
    platform: str
    cpu: CpuInfo
    memory: MemoryInfo
    gpus: list[GpuInfo]
    engines: dict[str, str | None] = Field(description="Versions; null is not installed.")
    llama_cpp: str | None = Field(description="Its own version and the commit it was built from.")
    notes: list[NoteInfo] = Field(description="What could not be found out.")


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
    """`read` looks at the machine and blocks. `table` is set once the table, which holds this
    service too, has been built, and `draining` says whether the server is about to leave. `usable`
    raises DatabaseBusy where the database is not.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        read: Callable[[], Report],
        usable: Callable[[], Awaitable[None]],
    ) -> None:
        self._supervisor, self._read, self._usable = supervisor, read, usable
        self.draining: Callable[[], bool] = lambda: False
        self.table: Iterable[Operation] = ()
        self._started = monotonic()

    async def health(self, request: NoParameters, call: Call) -> Health:
        """Say that the server is up, from what it knows itself: no worker is asked."""
        return Health(
            version=__version__,
            uptime_s=round(monotonic() - self._started, 3),
            models={entry.model.id: entry.state for entry in self._supervisor.loaded()},
        )

    async def live(self, request: NoParameters, call: Call) -> Live:
        """Say that the server answers at all: one that does not is to be started anew."""
        return Live()

    async def ready(self, request: NoParameters, call: Call) -> Ready:
        """Say whether to send work here: the database can be used and the server is not about to leave.

        Models are loaded when they are asked for, so none has to be there.
        """
        if self.draining():
            raise ShuttingDown(retry_after=5)
        await self._usable()
        return Ready()

    async def info(self, request: NoParameters, call: Call) -> SystemInfo:
        """Describe the machine and the engines installed on it."""
        report = await asyncio.to_thread(self._read)
        found = HardwareInfo.of(report)
        return SystemInfo(
            version=__version__,
            python=platform.python_version(),
            platform=platform.platform(),
            cpu=found.cpu,
            memory=found.memory,
            gpus=found.gpus,
            engines={engine.name: engine.version for engine in found.engines},
            llama_cpp=report.engine(LLAMA).build,
            notes=found.notes,
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
