"""How a model is laid into this machine: context, slots and threads, before a process starts."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import psutil

from tabagent import wire
from tabagent.catalog.models import Model
from tabagent.config import Settings
from tabagent.engine.estimate import (
    BITS,
    CACHE_STEP,
    MASK,
    MICRO_BATCH,
    Estimate,
    cache_bytes_per_token,
    estimate,
    together,
)
from tabagent.errors import InvalidRequest, OutOfMemory
from tabagent.hardware.limits import memory

LARGEST_DEFAULT_CONTEXT: Final = 8192  # tokens; a longer one is given when it is asked for
SMALLEST_CONTEXT: Final = 512  # nothing shorter is given unasked
TINY: Final = 32 * 2**20  # bytes of weights
KV_SHARE: Final = 0.25  # of the memory available now, for all sequences together, unasked
KEPT_SHARE: Final = 1 / 16  # of it, for what is computed and nobody runs
DRAFT_TOKENS: Final = {"off": 0, "ngram": 7, "draft": 3}  # checked at once, unless told otherwise
PROBE: Final = 1024  # tokens: where the estimate grows in a straight line
CGROUP: Final = Path("/sys/fs/cgroup")


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
    """What a worker is told. `kv_tokens` is the room of all its sequences together."""

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
    estimate: Estimate | None = None  # None: nothing is known of the model's measures
    notes: tuple[str, ...] = ()  # what is less than it would be with more memory

    @property
    def bytes(self) -> int:
        """Main memory that it will take; 0 when that is unknown."""
        return self.estimate.total if self.estimate else 0


def place(
    model: Model,
    options: LoadOptions,
    settings: Settings,
    available: int | None = None,
) -> Placement:
    """Everything that a worker needs to know.

    With `available` bytes of memory what nobody asked for shrinks until it fits: first what is kept
    of ended sequences, then the room of all sequences together, then the context of each. Raises
    InvalidRequest for what cannot go together, OutOfMemory for what cannot fit.
    """

    def chosen(name: str) -> Any:
        own = getattr(options, name)
        return own if own is not None else getattr(settings, name)

    own = model.context_length or LARGEST_DEFAULT_CONTEXT
    context = chosen("n_ctx") or min(own, LARGEST_DEFAULT_CONTEXT)
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
    wanted = Placement(
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
    return _fitted(model, wanted, settings, available, asked=bool(chosen("n_ctx")))


def _fitted(
    model: Model, wanted: Placement, settings: Settings, available: int | None, *, asked: bool
) -> Placement:
    """Give `wanted` the room that it gets. `asked`: the context is the caller's choice."""
    shape = model.shape
    per_token = 0.0
    if shape is not None:
        per_token = cache_bytes_per_token(shape, wanted.cache_type_k, wanted.cache_type_v)
    free = memory().available_bytes if available is None else available
    room, notes = wanted.kv_tokens, list[str]()
    if per_token and wanted.kv_layout != "separate":
        room = max(wanted.n_ctx, min(room, int(free * KV_SHARE / per_token)))
    kept = settings.prompt_cache_bytes
    if kept is None:
        kept = int(min(per_token * room, free * KEPT_SHARE))

    def sized(n_ctx: int, tokens: int, kept_bytes: int) -> Placement:
        placed = replace(wanted, n_ctx=n_ctx, kv_tokens=tokens, kept_bytes=kept_bytes)
        return replace(placed, estimate=_estimate(model, placed), notes=tuple(notes))

    placed = sized(wanted.n_ctx, room, kept)
    if available is None or placed.bytes <= available:
        return placed
    fits = _largest(sized(PROBE, PROBE, 0), per_token, available)
    if wanted.kv_layout != "separate" and fits >= wanted.n_ctx:
        if fits < room:
            room = fits
            notes.append(
                f"{wanted.slots} sequences share room for {room} tokens, since {_gb(available)} are free"
            )
        spare = available - sized(wanted.n_ctx, room, 0).bytes
        return sized(wanted.n_ctx, room, min(kept, spare))
    if not asked and SMALLEST_CONTEXT <= fits < wanted.n_ctx:
        notes.append(
            f"the context is {fits} tokens instead of {wanted.n_ctx}, since {_gb(available)} are free"
        )
        return sized(fits, fits, 0)
    raise _too_big(model, sized(wanted.n_ctx, wanted.n_ctx, 0), available, fits)


def _largest(placed: Placement, per_token: float, available: int) -> int:
    """Most tokens that fit into a cache that all share, when `placed` has room for PROBE."""
    slope = per_token + MICRO_BATCH * MASK
    tokens = PROBE + (available - placed.bytes) / slope if per_token else 0.0
    return max(0, int(tokens) // CACHE_STEP * CACHE_STEP)


def _too_big(model: Model, least: Placement, available: int, fits: int) -> OutOfMemory:
    """Says what is missing, and what would go."""
    assert least.estimate is not None
    parts = least.estimate
    advice = "no context of it fits"
    if SMALLEST_CONTEXT <= fits < least.n_ctx:
        advice = f"a context of {fits} tokens would fit"
    return OutOfMemory(
        f"{model.id} needs {_gb(parts.total)}: {_gb(parts.weights)} of weights, "
        f"{_gb(parts.cache)} for a context of {least.n_ctx} tokens and "
        f"{_gb(parts.total - parts.weights - parts.cache)} to compute with; "
        f"{_gb(available)} are free; {advice}",
        required_bytes=parts.total,
        available_bytes=available,
        device="cpu",
        largest_context=fits if SMALLEST_CONTEXT <= fits < least.n_ctx else None,
    )


def _estimate(model: Model, placed: Placement) -> Estimate | None:
    if model.shape is None:
        return None
    found = estimate(
        model.shape,
        n_ctx=placed.n_ctx,
        kv_tokens=placed.kv_tokens,
        slots=placed.slots,
        cache_type_k=placed.cache_type_k,
        cache_type_v=placed.cache_type_v,
        kept_bytes=placed.kept_bytes,
    )
    if placed.draft is None or placed.draft.shape is None:
        return found
    guesser = estimate(
        placed.draft.shape,
        n_ctx=placed.n_ctx,
        kv_tokens=placed.kv_tokens,
        slots=placed.slots,
        cache_type_k="f16",
        cache_type_v="f16",
    )
    return together(found, guesser)


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count < 1e11 else f"{count / 1e9:.0f} GB"


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
