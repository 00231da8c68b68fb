"""Which engines are installed, and what they can run on, without importing any of them here."""

from __future__ import annotations

from typing import Final

from tabagent.hardware.findings import Engine, EngineDevice
from tabagent.hardware.machine import Machine

LLAMA: Final = "llama-cpp-python"
ONNX: Final = "onnxruntime"
SENTENCES: Final = "sentence-transformers"
ONNX_BUILDS: Final = (
    ONNX, "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino",
    "onnxruntime-migraphx", "onnxruntime-silicon",
)  # fmt: skip
INSTALLED: Final = "installed packages"


def llama(machine: Machine) -> Engine:
    """llama.cpp, as it describes itself. Raises Unreadable when it cannot be asked."""
    version = machine.version(LLAMA)
    if version is None:
        return Engine(name=LLAMA, source=INSTALLED)
    said = machine.child("tabagent.worker.gguf.report")
    return Engine(
        name=LLAMA,
        version=version,
        build=f"llama.cpp {said['version']} ({said['commit']})",
        devices=tuple(EngineDevice(**device) for device in said["devices"]),
        kinds=tuple(sorted(machine.kinds())),
        source="llama.cpp",
    )


def onnx(machine: Machine) -> Engine:
    """ONNX Runtime, under whichever name it is installed. Raises Unreadable."""
    builds = [name for name in ONNX_BUILDS if machine.version(name)]
    if not builds:
        return Engine(name=ONNX, source=INSTALLED)
    return Engine(
        name=ONNX,
        version=machine.version(builds[0]),
        build=", ".join(builds),
        providers=tuple(machine.child("tabagent.worker.providers")["providers"]),
        source="onnxruntime",
    )


def unasked(machine: Machine, name: str) -> Engine:
    """What is known of an engine that does not answer."""
    names = ONNX_BUILDS if name == ONNX else (name,)
    version = next(filter(None, map(machine.version, names)), None)
    kinds = tuple(sorted(machine.kinds())) if name == LLAMA else ()
    return Engine(name=name, version=version, kinds=kinds, source=INSTALLED)
