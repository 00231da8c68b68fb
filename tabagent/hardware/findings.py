"""What a probe finds: each finding with its source, in the words that people use of hardware."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Vendor = Literal["nvidia", "amd", "intel", "apple", "other"]


@dataclass(frozen=True, slots=True)
class Memory:
    """Main memory in bytes, as this process may take it."""

    total_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """The processor. `usable_cores` is what this process may keep busy: affinity and quota."""

    name: str
    vendor: str
    architecture: str
    physical_cores: int
    logical_cores: int
    usable_cores: int
    features: tuple[str, ...] = ()  # instructions that engines have fast code for
    board: str | None = None  # a small computer's own name
    quota: float | None = None  # processors that a control group may keep busy
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MainMemory:
    """`machine_bytes` is what is built in, `total_bytes` the control group's limit if that is less."""

    total_bytes: int
    available_bytes: int
    machine_bytes: int
    source: str

    @property
    def limited(self) -> bool:
        return self.total_bytes < self.machine_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A graphics processor; bytes are None where nobody says."""

    vendor: Vendor
    name: str
    device: str | None = None  # as llama.cpp counts it: cuda:0
    unified: bool = False  # its memory is main memory
    total_bytes: int | None = None
    free_bytes: int | None = None
    driver: str | None = None
    capability: str | None = None  # compute capability, gfx version or Metal family
    pci: str | None = None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDevice:
    """A device as llama.cpp itself names it."""

    name: str
    description: str
    kind: str  # cpu, gpu, integrated, accelerator


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What runs models. `version` is None where it is not installed."""

    name: str
    version: str | None = None
    build: str | None = None  # of llama.cpp: its version and commit
    devices: tuple[EngineDevice, ...] = ()
    kinds: tuple[str, ...] = ()  # of devices that it was built for, beside the processor
    providers: tuple[str, ...] = ()  # of ONNX Runtime
    source: str


@dataclass(frozen=True, slots=True)
class Note:
    """What could not be found out, and why."""

    source: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that was found."""

    cpu: Cpu
    memory: MainMemory
    gpus: tuple[Gpu, ...] = ()
    nvidia_driver: str | None = None
    cuda_version: str | None = None  # the newest that the driver can run
    engines: tuple[Engine, ...] = ()
    notes: tuple[Note, ...] = field(default=())

    def engine(self, name: str) -> Engine:
        return next(engine for engine in self.engines if engine.name == name)
