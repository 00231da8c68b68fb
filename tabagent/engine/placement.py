"""How a model is laid into this machine: context, slots and threads, before a process starts."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import psutil

from tabagent import wire
from tabagent.catalog.models import Model
from tabagent.config import Settings
from tabagent.errors import InvalidRequest

LARGEST_DEFAULT_CONTEXT: Final = 8192  # tokens; a longer one is given when it is asked for
TINY: Final = 32 * 2**20  # bytes of weights
KV_SHARE: Final = 0.25  # of the memory available now, for all sequences together
KEPT_SHARE: Final = 1 / 16  # of it, for what is computed and nobody runs
DRAFT_TOKENS: Final = {"off": 0, "ngram": 7, "draft": 3}  # checked at once, unless told otherwise
CGROUP: Final = Path("/sys/fs/cgroup")
BITS: Final[dict[wire.CacheType, float]] = {
    "f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q5_1": 6, "q5_0": 5.5, "q4_1": 5, "q4_0": 4.5,
}  # fmt: skip
"""Of one number of a key or value; quantised types keep a scale for every 32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What a caller may choose; None leaves it to the settings, then to what fits."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What a worker is told. `kv_tokens` is the room that all its sequences share."""

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


def place(model: Model, options: LoadOptions, settings: Settings) -> Placement:
    """Everything that a worker needs to know. Raises InvalidRequest for what cannot go together."""

    def chosen(name: str) -> Any:
        own = getattr(options, name)
        return own if own is not None else getattr(settings, name)

    own = model.context_length or LARGEST_DEFAULT_CONTEXT
    context = chosen("n_ctx") or min(own, LARGEST_DEFAULT_CONTEXT)
    slots = chosen("slots")
    keys, values = chosen("cache_type_k"), chosen("cache_type_v")
    flash = chosen("flash_attention")
    if flash == "off" and BITS[values] < 16:
        raise _refused("cache_type_v", "values can be quantised with flash attention only")
    speculation: wire.Speculation = "draft" if options.draft else chosen("speculation")
    if speculation == "draft" and options.draft is None:
        raise _refused("draft_model", "speculation by draft needs a draft model")
    # A step of a tiny model is over before threads have met at its barriers: on a busy machine one
    # thread gave 900 to 1,850 tokens a second where two gave 96 to 2,100.
    tiny = 0 < model.size_bytes < TINY
    threads = chosen("threads") or (1 if tiny else cores())
    share_of_f16 = (BITS[keys] + BITS[values]) / 32
    layout: wire.KvLayout = chosen("kv_layout")
    whole = layout == "separate"
    room = context * slots if whole else _room(model, context, slots, share_of_f16)
    return Placement(
        n_ctx=context,
        slots=slots,
        kv_tokens=room,
        threads=threads,
        threads_batch=chosen("threads_batch") or threads,
        flash_attention=flash,
        cache_type_k=keys,
        cache_type_v=values,
        kv_layout=layout,
        kept_bytes=_kept_bytes(model, settings, room * share_of_f16),
        mmap=chosen("mmap"),
        mlock=chosen("mlock"),
        speculation=speculation,
        draft=options.draft,
        draft_tokens=options.draft_tokens or DRAFT_TOKENS[speculation],
        keep_state=chosen("keep_state"),
    )


def _room(model: Model, context: int, slots: int, share_of_f16: float) -> int:
    room = context * slots
    if model.kv_bytes_per_token:
        spare = int(psutil.virtual_memory().available * KV_SHARE)
        room = min(room, int(spare / (model.kv_bytes_per_token * share_of_f16)))
    return max(context, room)


def _kept_bytes(model: Model, settings: Settings, kv_tokens: float) -> int:
    if settings.prompt_cache_bytes is not None:
        return settings.prompt_cache_bytes
    spare = psutil.virtual_memory().available * KEPT_SHARE
    return int(min(model.kv_bytes_per_token * kv_tokens, spare))


def _refused(param: str, detail: str) -> InvalidRequest:
    return InvalidRequest(detail, param=param, errors=[{"pointer": f"/{param}", "detail": detail}])


def cores() -> int:
    """Cores this process may use: physical ones, for hyper-threads slow matrix work down."""
    physical = psutil.cpu_count(logical=False) or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else physical
    return max(1, math.ceil(min(physical, allowed, cpu_quota(CGROUP))))


def cpu_quota(cgroup: Path) -> float:
    """How many CPUs a container may keep busy; infinity without a limit.

    Source: cgroup v2 `cpu.max` and v1 `cpu.cfs_quota_us` in the kernel's documentation.
    """
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return math.inf
    limited = quota not in ("max", "-1") and int(period) > 0
    return int(quota) / int(period) if limited else math.inf
