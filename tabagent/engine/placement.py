"""How a model is laid into this machine: device, context, slots, threads, before a process starts."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Final

import psutil

from tabagent import wire
from tabagent.catalog.models import Model
from tabagent.config import Settings
from tabagent.engine.device_choice import choose
from tabagent.engine.estimate import BITS, Estimate
from tabagent.engine.offload import Share
from tabagent.errors import InvalidRequest
from tabagent.hardware.devices import CPU_ALONE, Accelerators, Device
from tabagent.hardware.limits import cpu_quota

LARGEST_DEFAULT_CONTEXT: Final = 8192  # tokens; a longer one is given when it is asked for
TINY: Final = 32 * 2**20  # bytes of weights
DRAFT_TOKENS: Final = {"off": 0, "ngram": 7, "draft": 3}  # checked at once, unless told otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What a caller may choose; None leaves it to the settings, then to what fits."""

    device: str | None = None  # auto, cpu, gpu, cuda, cuda:1 ...
    n_gpu_layers: int | None = None  # the output layer counts
    main_gpu: int | None = None  # the only one to use
    tensor_split: tuple[float, ...] | None = None  # what part of the layers each device gets
    n_ctx: int | None = None  # tokens of one sequence
    slots: int | None = None  # sequences decoded together
    threads: int | None = None
    threads_batch: int | None = None  # for prompts
    flash_attention: wire.FlashAttention | None = None
    cache_type_k: wire.CacheType | None = None
    cache_type_v: wire.CacheType | None = None
    kv_layout: wire.KvLayout | None = None
    mmap: bool | None = None
    mlock: bool | None = None
    speculation: wire.Speculation | None = None
    draft: Model | None = None
    draft_tokens: int | None = None
    keep_state: bool | None = None

    def given(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def over(self, other: LoadOptions) -> LoadOptions:
        """These, and the other's where these say nothing."""
        return replace(other, **self.given())


@dataclass(frozen=True, slots=True)
class LoadWish:
    """What was saved for a model: how it is loaded, and how long it stays."""

    options: LoadOptions = LoadOptions()  # frozen
    keep_alive_s: float | None = None
    pin: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What a worker is told. `kv_tokens` is the room of all its sequences together."""

    devices: tuple[Device, ...] = ()  # none: the CPU alone
    n_gpu_layers: int = 0
    tensor_split: tuple[float, ...] = ()
    n_ctx: int
    slots: int
    kv_tokens: int
    threads: int
    threads_batch: int
    flash_attention: wire.FlashAttention
    cache_type_k: wire.CacheType
    cache_type_v: wire.CacheType
    kv_layout: wire.KvLayout
    kept_bytes: int  # for computed prompts outside the KV cache
    mmap: bool
    mlock: bool
    speculation: wire.Speculation
    draft: Model | None
    draft_tokens: int
    keep_state: bool
    estimate: Estimate | None = None  # of main memory; None: nothing is known of the measures
    every_layer: int = 0  # that could lie on a device; 0 where none may
    shares: tuple[Share, ...] = ()  # of the devices' memory
    notes: tuple[str, ...] = ()  # what is less than it would be with more memory

    @property
    def device(self) -> str:
        """Where it runs, in a word."""
        used = self.devices if self.n_gpu_layers else ()
        return "+".join(device.id for device in used) or "cpu"

    @property
    def layers_left_out(self) -> bool:
        """Whether a device that is used had no room for all layers."""
        return bool(self.devices) and self.every_layer > self.n_gpu_layers

    @property
    def main_gpu(self) -> int:
        return self.devices[0].index if len(self.devices) == 1 else 0

    @property
    def bytes(self) -> int:
        """Main memory that it will take; 0 when that is unknown."""
        return self.estimate.total if self.estimate else 0


def lay_out(
    model: Model,
    options: LoadOptions,
    settings: Settings,
    machine: Accelerators = CPU_ALONE,
) -> Placement:
    """What is asked for, where nothing is short.

    Raises InvalidRequest for what cannot go together, NotAvailableHere for a device that is missing.
    """

    def chosen(name: str) -> Any:
        own = getattr(options, name)
        return own if own is not None else getattr(settings, name)

    own = model.context_length or LARGEST_DEFAULT_CONTEXT
    context = chosen("n_ctx") or min(own, LARGEST_DEFAULT_CONTEXT)
    keys, values = chosen("cache_type_k"), chosen("cache_type_v")
    flash = chosen("flash_attention")
    if flash == "off" and BITS[values] < 16:
        raise refused("cache_type_v", "values can be quantised with flash attention only")
    speculation: wire.Speculation = "draft" if options.draft else chosen("speculation")
    if speculation == "draft" and options.draft is None:
        raise refused("draft_model", "speculation by draft needs a draft model")
    used = choose(
        chosen("device"),
        machine,
        n_gpu_layers=options.n_gpu_layers,
        main_gpu=options.main_gpu,
    )
    split = options.tensor_split or tuple(float(device.free_bytes) for device in used)
    if options.tensor_split and (len(split) != len(used) or not sum(split)):
        raise refused("tensor_split", f"needs a part for each of {len(used)} devices")
    # A step of a tiny model is over before threads have met at its barriers: on a busy machine one
    # thread gave 900 to 1,850 tokens a second where two gave 96 to 2,100.
    tiny = 0 < model.size_bytes < TINY
    threads = chosen("threads") or (1 if tiny else cores())
    return Placement(
        devices=tuple(used),
        n_gpu_layers=0,
        tensor_split=split if len(used) > 1 else (),
        n_ctx=context,
        slots=chosen("slots"),
        kv_tokens=context * chosen("slots"),
        threads=threads,
        threads_batch=chosen("threads_batch") or threads,
        flash_attention=flash,
        cache_type_k=keys,
        cache_type_v=values,
        kv_layout=chosen("kv_layout"),
        kept_bytes=0,
        mmap=chosen("mmap"),
        mlock=chosen("mlock"),
        speculation=speculation,
        draft=options.draft,
        draft_tokens=options.draft_tokens or DRAFT_TOKENS[speculation],
        keep_state=chosen("keep_state"),
    )


def refused(param: str, detail: str) -> InvalidRequest:
    return InvalidRequest(detail, param=param, errors=[{"pointer": f"/{param}", "detail": detail}])


@cache
def cores() -> int:
    """Cores this process may use: physical ones, for hyper-threads slow matrix work down.

    Read once: a verdict on a model asks, and a list asks for hundreds of them.
    """
    physical = psutil.cpu_count(logical=False) or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else physical
    return max(1, math.ceil(min(physical, allowed, cpu_quota())))
