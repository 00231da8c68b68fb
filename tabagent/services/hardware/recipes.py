"""Engines and devices: which combination works on this machine, and what another would take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import Field

from tabagent.hardware.devices import KINDS, Kind, how_to_build
from tabagent.hardware.engines import LLAMA, ONNX, SENTENCES
from tabagent.hardware.findings import Engine, Gpu, Report
from tabagent.operation import Reply

Runs = Literal["gguf", "onnx", "sentence-transformers"]
NAMES: Final[dict[str, str]] = {
    "cuda": "NVIDIA card", "rocm": "AMD card that ROCm knows", "vulkan": "graphics processor",
    "metal": "Apple graphics processor", "sycl": "Intel graphics processor",
}  # fmt: skip
PREFIXES: Final[dict[Kind, tuple[str, ...]]] = {
    "cuda": ("cuda",), "rocm": ("rocm", "hip"), "vulkan": ("vulkan",),
    "metal": ("mtl", "metal"), "sycl": ("sycl",),
}  # fmt: skip
"""How llama.cpp names its devices: CUDA0, ROCm0, Vulkan0, MTL0, SYCL0."""


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider of ONNX Runtime, and the package that has it."""

    device: str
    name: str
    package: str


PROVIDERS: Final = (
    Provider("cpu", "CPUExecutionProvider", "onnxruntime"),
    Provider("cuda", "CUDAExecutionProvider", "onnxruntime-gpu"),
    Provider("rocm", "MIGraphXExecutionProvider", "onnxruntime-migraphx"),
    Provider("directml", "DmlExecutionProvider", "onnxruntime-directml"),
    Provider("coreml", "CoreMLExecutionProvider", "onnxruntime"),
    Provider("openvino", "OpenVINOExecutionProvider", "onnxruntime-openvino"),
)
TORCH: Final[tuple[tuple[str, Kind | None], ...]] = (
    ("cpu", None), ("cuda", "cuda"), ("rocm", "rocm"), ("metal", "metal"),
)  # fmt: skip
"""Devices of torch, and the kind of card that each needs."""


class Recipe(Reply):
    """An engine on a kind of device."""

    recipe: str
    runs: Runs = Field(description="The format of models.")
    engine: str
    device: str
    works: bool
    devices: list[str] = Field(description="What it would run on, by name.")
    reason: str | None = Field(description="Why it does not work here.")
    fix: str | None = Field(description="What would get it to work, where something would.")


class RecipeList(Reply):
    """Every combination."""

    recipes: list[Recipe]


@dataclass(frozen=True, slots=True)
class Missing:
    """Why something does not work, and what would help."""

    reason: str
    fix: str | None = None


def recipes(report: Report) -> list[Recipe]:
    """Those of llama.cpp, of ONNX Runtime, and of sentence-transformers."""
    return [*_llama(report), *_onnx(report), *_sentences(report)]


def _llama(report: Report) -> Iterator[Recipe]:
    engine = report.engine(LLAMA)
    missing = None
    if engine.version is None:
        missing = Missing("llama.cpp is not installed", "pip install llama-cpp-python")
    elif engine.build is None:
        missing = Missing("llama.cpp does not start; `notes` of the hardware say why")
    yield _recipe("gguf", LLAMA, "cpu", [report.cpu.name], missing)
    for kind in KINDS:
        cards = [gpu for gpu in report.gpus if _can(gpu, kind)]
        lacking = missing or _lacking(engine, kind, cards)
        yield _recipe("gguf", LLAMA, kind, [card.name for card in cards], lacking)


def _can(gpu: Gpu, kind: Kind) -> bool:
    match kind:
        case "cuda":
            return gpu.vendor == "nvidia"
        case "rocm":
            return gpu.vendor == "amd" and gpu.capability is not None
        case "metal":
            return gpu.vendor == "apple"
        case "sycl":
            return gpu.vendor == "intel"
        case "vulkan":
            return gpu.vendor != "apple"


def _lacking(engine: Engine, kind: Kind, cards: list[Gpu]) -> Missing | None:
    if not cards:
        return Missing(f"no {NAMES[kind]} is found")
    if all(card.driver is None and card.vendor != "apple" for card in cards):
        return Missing(f"{cards[0].name} has no driver", "install its maker's driver")
    if kind not in engine.kinds:
        return Missing(f"the installed llama.cpp cannot use {kind}", how_to_build(kind))
    if not any(device.name.lower().startswith(PREFIXES[kind]) for device in engine.devices):
        return Missing(
            f"llama.cpp is built for {kind} and finds no such device",
            "see whether the driver is as new as the build wants it",
        )
    return None


def _onnx(report: Report) -> Iterator[Recipe]:
    engine = report.engine(ONNX)
    for provider in PROVIDERS:
        missing = None
        if engine.version is None:
            missing = Missing("ONNX Runtime is not installed", f"pip install {provider.package}")
        elif provider.name not in engine.providers:
            missing = Missing(
                f"the installed ONNX Runtime has no {provider.name}",
                f"pip install {provider.package}, which replaces it",
            )
        yield _recipe("onnx", ONNX, provider.device, [], missing)


def _sentences(report: Report) -> Iterator[Recipe]:
    engine = report.engine(SENTENCES)
    missing = None
    if engine.version is None:
        missing = Missing("it is not installed", 'pip install "tabagent[sentence-transformers]"')
    for device, kind in TORCH:
        cards = [gpu.name for gpu in report.gpus if kind and _can(gpu, kind)]
        lacking = missing
        if lacking is None and kind and not cards:
            lacking = Missing(f"no {NAMES[kind]} is found")
        yield _recipe("sentence-transformers", SENTENCES, device, cards, lacking)


def _recipe(
    runs: Runs, engine: str, device: str, devices: list[str], missing: Missing | None
) -> Recipe:
    return Recipe(
        recipe=f"{runs}-{device}",
        runs=runs,
        engine=engine,
        device=device,
        works=missing is None,
        devices=devices,
        reason=missing.reason if missing else None,
        fix=missing.fix if missing else None,
    )
