"""How models lie in ONNX Runtime: whole, on one device or on the processor.

Which execution provider runs where, and what a text of full length takes. What an operation needs
was measured on workers: ONNX Runtime keeps attention's matrix of every head, and twice.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from tabagent.catalog.models import Model
from tabagent.catalog.shape import Shape
from tabagent.engine.estimate import Estimate
from tabagent.engine.offload import Share
from tabagent.engine.placement import Placement
from tabagent.hardware.devices import Accelerators, Device, Kind

PACKAGES: Final[dict[str, Kind]] = {
    "onnxruntime-gpu": "cuda", "onnxruntime-rocm": "rocm", "onnxruntime-migraphx": "rocm",
    "onnxruntime-directml": "vulkan", "onnxruntime-openvino": "sycl",
}  # fmt: skip
PROVIDERS: Final[dict[Kind, tuple[str, ...]]] = {
    "cuda": ("CUDAExecutionProvider",),
    "rocm": ("MIGraphXExecutionProvider", "ROCMExecutionProvider"),
    "metal": ("CoreMLExecutionProvider",),
    "vulkan": ("DmlExecutionProvider",),
    "sycl": ("OpenVINOExecutionProvider",),
}
BUDGET: Final = 512  # tokens of a batch; several run at once
LANES: Final = 4  # at most
ALONE: Final = 1024  # a longer text runs by itself
FLOAT: Final = 4
PROCESS: Final = 100 * 2**20  # Python, ONNX Runtime, numpy and what they import
TORCH_PROCESS: Final = 560 * 2**20  # the same with torch and transformers
TOKEN: Final = 600  # bytes of a tokenizer's tables for one token
MATRICES: Final = 2  # of attention at once
ARRAYS: Final = 8  # of a model's width at once
READ: Final = 256  # tokens of a prompt at once
LOGITS: Final = 64 * 2**20  # of them at most
BEFORE_AND_AFTER: Final = 2
CONVERTED: Final = 3  # times a half-precision file's size: the processor computes in floats


@cache  # packages do not change under a running server
def kinds() -> frozenset[Kind]:
    """What the installed ONNX Runtime was built for beside the processor."""
    found: set[Kind] = {"metal"} if sys.platform == "darwin" else set()
    for package, kind in PACKAGES.items():
        try:
            version(package)
        except PackageNotFoundError:
            continue
        found.add(kind)
    return frozenset(found)


def runs(model: Model) -> bool:
    """Whether a model runs whole, as those of this module do."""
    return model.backend.startswith(("onnx", "sentences"))


def machine_for(model: Model, machine: Accelerators) -> Accelerators:
    """What this model's engine can use of a machine."""
    if not runs(model):
        return machine
    if model.backend == "sentences":  # torch says what it can use when it is imported, not before
        return replace(machine, kinds=frozenset(("cuda", "rocm", "metal")), engine="torch")
    return replace(machine, kinds=kinds(), engine="ONNX Runtime")


def left_out(model: Model, wish: str, machine: Accelerators) -> tuple[str, ...]:
    """Why a model runs on the processor though there is a device and nobody asked for that."""
    if not runs(model) or wish != "auto" or not machine.devices:
        return ()
    able = machine_for(model, machine)
    found = sorted({device.kind for device in machine.devices} - able.kinds)
    if not found or any(device.kind in able.kinds for device in machine.devices):
        return ()
    return (f"it runs on the CPU: the installed {able.engine} cannot use {' or '.join(found)}",)


def providers_of(placed: Placement) -> list[str]:
    """What ONNX Runtime shall try, the best first; none is the processor."""
    if not placed.n_gpu_layers or not placed.devices:
        return []
    return list(PROVIDERS[placed.devices[0].kind])


def estimate_whole(model: Model, placed: Placement) -> Estimate:
    """An encoder on the processor, with texts of full length; a lookup where there are no layers."""
    shape = model.shape or Shape(
        width=model.embedding_length,
        heads=0,
        feed_forward=0,
        vocabulary=0,
        layers=(),
        input_bytes=0,
        output_bytes=0,
        other_bytes=model.size_bytes,
    )
    if model.pooling is None:
        return _estimate_decoder(model, placed, shape)
    lanes = min(placed.threads, LANES)
    batch, alone = min(BUDGET, placed.n_ctx), placed.n_ctx
    beside = lanes * _computing(shape, batch)
    return Estimate(
        weights=model.size_bytes * (CONVERTED if _in_halves(model) else 1),
        cache=0,
        state=0,
        compute=max(beside, (1 if alone > ALONE else lanes) * _computing(shape, alone)),
        logits=0,
        vocabulary=shape.vocabulary * TOKEN,
        kept=0,
        process=TORCH_PROCESS if model.backend == "sentences" else PROCESS,
    )


def _estimate_decoder(model: Model, placed: Placement, shape: Shape) -> Estimate:
    """A decoder with contexts that are full: a step's keys and values are those before it and anew."""
    return Estimate(
        weights=model.size_bytes * (CONVERTED if _in_halves(model) else 1),
        cache=sum(shape.rows) * FLOAT * placed.kv_tokens * BEFORE_AND_AFTER,
        state=0,
        compute=_computing(shape, min(READ, placed.n_ctx), seen=placed.n_ctx),
        logits=min(READ * shape.vocabulary * FLOAT, LOGITS),
        vocabulary=shape.vocabulary * TOKEN,
        kept=placed.kept_bytes,
        process=PROCESS,
    )


def _in_halves(model: Model) -> bool:
    return any(word in model.quantisation.upper() for word in ("FP16", "F16", "BF16"))


def on_one_device(model: Model, placed: Placement) -> Placement:
    """The whole model on the first device that has room for it, else where it is; that is said."""
    whole, shape = placed.estimate, model.shape
    if not placed.devices or whole is None or shape is None:
        return placed
    layers = len(shape.layers) + 1
    share = Share(
        device="",
        layers=layers,
        weights=model.size_bytes,
        cache=0,
        state=0,
        compute=whole.compute,
    )
    for device in placed.devices:
        if share.total <= device.free_bytes:
            return replace(
                placed,
                devices=(device,),
                tensor_split=(),
                n_gpu_layers=layers,
                every_layer=layers,
                estimate=replace(whole, weights=0, compute=0),
                shares=(replace(share, device=device.id),),
            )
    return replace(placed, devices=(), tensor_split=(), notes=(_no_room(placed.devices),))


def _no_room(devices: tuple[Device, ...]) -> str:
    return f"it runs on the CPU: {'+'.join(device.id for device in devices)} has no room for it"


def _computing(shape: Shape, tokens: int, seen: int = 0) -> int:
    """Bytes that `tokens` need together, as one text of that length, or behind others."""
    linear = tokens * (ARRAYS * shape.width + 2 * shape.feed_forward)
    return FLOAT * (linear + MATRICES * shape.heads * tokens * (seen or tokens))
