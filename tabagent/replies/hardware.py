"""A machine as replies describe it: shared by `get_hardware_info` and `system`."""

from __future__ import annotations

from typing import Self

from pydantic import ConfigDict, Field

from tabagent.hardware.findings import Report, Vendor
from tabagent.operation import Reply


class Found(Reply):
    """Base of what a probe found: read from the finding's own fields."""

    model_config = ConfigDict(from_attributes=True)


class CpuInfo(Found):
    """The processor."""

    name: str
    vendor: str
    architecture: str
    physical_cores: int
    logical_cores: int
    usable_cores: int = Field(description="That this process may keep busy.")
    features: list[str] = Field(description="Instructions that engines have fast code for.")
    board: str | None = Field(description="A small computer's or a Mac's own name.")
    quota: float | None = Field(description="Processors that a container's limit allows.")
    source: str


class MemoryInfo(Found):
    """Main memory."""

    total_bytes: int = Field(description="The machine's, or a container's limit if that is less.")
    available_bytes: int
    machine_bytes: int = Field(description="What is built in.")
    source: str


class GpuInfo(Found):
    """A graphics processor."""

    vendor: Vendor
    name: str
    device: str | None = Field(description="As a load names it: `cuda:0`.")
    unified: bool = Field(description="Whether its memory is main memory.")
    total_bytes: int | None
    free_bytes: int | None
    driver: str | None
    capability: str | None = Field(description="CUDA's compute capability, gfx version, Metal's.")
    pci: str | None
    source: str


class EngineDeviceInfo(Found):
    """A device as llama.cpp names it."""

    name: str
    description: str
    kind: str


class EngineInfo(Found):
    """What runs models; without a version it is not installed."""

    name: str
    version: str | None
    build: str | None = Field(description="llama.cpp's own version and commit, or the package.")
    devices: list[EngineDeviceInfo]
    kinds: list[str] = Field(description="Devices that it was built for beside the processor.")
    providers: list[str] = Field(description="ONNX Runtime's execution providers.")
    source: str


class NoteInfo(Found):
    """What could not be found out, and why."""

    source: str
    text: str


class HardwareInfo(Found):
    """What this machine has, each finding with its source."""

    cpu: CpuInfo
    memory: MemoryInfo
    gpus: list[GpuInfo]
    nvidia_driver: str | None
    cuda_version: str | None = Field(description="The newest that the NVIDIA driver can run.")
    engines: list[EngineInfo]
    notes: list[NoteInfo]

    @classmethod
    def of(cls, report: Report) -> Self:
        return cls.model_validate(report)
