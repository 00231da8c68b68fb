"""Graphics processors that models may run on, and which kinds the installed llama.cpp can use.

The engine is never imported here: what a build can use, its shared libraries say by their names.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal, get_args

Kind = Literal["cuda", "rocm", "vulkan", "metal", "sycl"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
LIBRARIES: Final[dict[str, Kind]] = {
    "ggml-cuda": "cuda", "ggml-hip": "rocm", "ggml-vulkan": "vulkan",
    "ggml-metal": "metal", "ggml-sycl": "sycl",
}  # fmt: skip
FLAGS: Final[dict[Kind, str]] = {
    "cuda": "GGML_CUDA", "rocm": "GGML_HIP", "vulkan": "GGML_VULKAN",
    "metal": "GGML_METAL", "sycl": "GGML_SYCL",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Device:
    """A processor with memory of its own. `index` counts those of its kind, as llama.cpp does."""

    kind: Kind
    index: int
    name: str
    total_bytes: int
    free_bytes: int

    @property
    def id(self) -> str:
        return f"{self.kind}:{self.index}"


@dataclass(frozen=True, slots=True)
class Accelerators:
    """What there is beside the CPU: kinds that the engine can use, and devices that were found.

    Of `absent` kinds there is certainly no device; of others without one, nobody could say.
    """

    kinds: frozenset[Kind] = frozenset()
    devices: tuple[Device, ...] = ()
    absent: frozenset[Kind] = frozenset()
    engine: str = "llama.cpp"


Look = Callable[[], Accelerators]
CPU_ALONE: Final = Accelerators()


@cache
def build_kinds() -> frozenset[Kind]:
    """What the installed llama.cpp was built for beside the processor."""
    found = find_spec("llama_cpp")
    folders = found.submodule_search_locations if found else None
    names = [file.name for folder in folders or () for file in Path(folder, "lib").glob("*ggml-*")]
    kinds = {kind for part, kind in LIBRARIES.items() if any(part in name for name in names)}
    return frozenset(kinds)


def how_to_build(kind: Kind) -> str:
    """What gets llama.cpp to use this kind of device, in words."""
    if kind == "metal" and sys.platform != "darwin":
        return "Metal is Apple's alone"
    return (
        "install llama.cpp built for it: "
        f'CMAKE_ARGS="-D{FLAGS[kind]}=on" pip install --force-reinstall --no-binary '
        "llama-cpp-python llama-cpp-python"
    )
