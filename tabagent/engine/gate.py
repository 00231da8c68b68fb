"""The gate: what fits into memory, how, and what would where it does not. Arithmetic alone.

What nobody asked for shrinks until it fits, and is said; what was asked for is given or refused.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import Final

from tabagent.catalog.models import Model
from tabagent.config import Settings
from tabagent.engine import runtimes
from tabagent.engine.device_choice import BOUNDLESS
from tabagent.engine.estimate import (
    CACHE_STEP,
    Estimate,
    cache_bytes_per_token,
    estimate,
    estimate_pooling,
    together,
)
from tabagent.engine.offload import most_layers, spread
from tabagent.engine.placement import LoadOptions, Placement, lay_out
from tabagent.errors import OutOfMemory
from tabagent.hardware.devices import CPU_ALONE, Accelerators
from tabagent.hardware.limits import memory

SMALLEST_CONTEXT: Final = 512  # tokens; nothing shorter is given unasked
LARGEST_CONTEXT: Final = 2**22
KV_SHARE: Final = 0.25  # of the memory available now, for all sequences together, unasked
KEPT_SHARE: Final = 1 / 16  # of it, for what is computed and nobody runs


def place(
    model: Model,
    options: LoadOptions,
    settings: Settings,
    available: int | None = None,
    machine: Accelerators = CPU_ALONE,
) -> Placement:
    """Everything that a worker needs to know.

    With `available` bytes of memory what nobody asked for shrinks until it fits: first what is kept
    of ended sequences, then the room of all sequences together, then the context of each. Layers
    that a device has no room for stay on the CPU. Raises InvalidRequest for what cannot go
    together, NotAvailableHere for what is not installed, OutOfMemory for what cannot fit.
    """
    wanted = lay_out(model, options, settings, runtimes.machine_for(model, machine))
    return _Fitting(model, wanted, settings, options).fitted(available)


@dataclass(frozen=True, slots=True)
class _Fitting:
    model: Model
    wanted: Placement
    settings: Settings
    options: LoadOptions

    def fitted(self, available: int | None) -> Placement:
        wanted, model = self.wanted, self.model
        asked = bool(self.options.n_ctx or self.settings.n_ctx)
        per_token = 0.0
        if model.shape is not None:
            per_token = cache_bytes_per_token(model.shape, wanted.cache_type_k, wanted.cache_type_v)
        free = memory().available_bytes if available is None else available
        room = wanted.kv_tokens
        if per_token and wanted.kv_layout != "separate":
            room = max(wanted.n_ctx, min(room, int(free * KV_SHARE / per_token)))
        kept = self.settings.prompt_cache_bytes
        if kept is None:
            kept = 0 if model.pooling else int(min(per_token * room, free * KEPT_SHARE))
        placed = self.sized(wanted.n_ctx, room, kept)
        if available is None or placed.bytes <= available:
            return placed
        fits = self._largest(available)
        if wanted.kv_layout != "separate" and fits >= wanted.n_ctx:
            room = min(room, fits)
            spare = available - self.sized(wanted.n_ctx, room, 0).bytes
            return self.sized(wanted.n_ctx, room, max(0, min(kept, spare)), available)
        if not asked and SMALLEST_CONTEXT <= fits < wanted.n_ctx:
            return self.sized(fits, fits, 0, available)
        raise too_big(model, self.sized(wanted.n_ctx, wanted.n_ctx, 0), available, fits)

    def sized(
        self, n_ctx: int, tokens: int, kept_bytes: int, available: int | None = None
    ) -> Placement:
        """The layout with so much room; says what is less than wanted."""
        placed = replace(self.wanted, n_ctx=n_ctx, kv_tokens=tokens, kept_bytes=kept_bytes)
        placed = self._offloaded(replace(placed, estimate=estimate_of(self.model, placed)))
        notes = list(placed.notes)
        if available is not None and n_ctx < self.wanted.n_ctx:
            notes.append(
                f"the context is {n_ctx} tokens instead of {self.wanted.n_ctx}, "
                f"since {gb(available)} are free"
            )
        elif available is not None and tokens < self.wanted.kv_tokens and not self.model.pooling:
            notes.append(
                f"{placed.slots} sequences share room for {tokens} tokens, "
                f"since {gb(available)} are free"
            )
        return replace(placed, notes=tuple(notes))

    def _offloaded(self, placed: Placement) -> Placement:
        """With as many layers on the devices as were asked for, or as fit."""
        shape, whole, asked = self.model.shape, placed.estimate, self.options.n_gpu_layers
        if not placed.devices:
            return placed
        if runtimes.runs(self.model):
            return runtimes.on_one_device(self.model, placed)
        if shape is None or whole is None:
            return replace(placed, n_gpu_layers=asked or 0)
        split = placed.tensor_split or (1.0,)
        ids = [device.id for device in placed.devices]
        types = {"cache_type_k": placed.cache_type_k, "cache_type_v": placed.cache_type_v}
        every = len(shape.layers) + 1
        layers = asked
        if layers is None:
            layers = most_layers(
                shape, whole, placed.devices, split, kv_tokens=placed.kv_tokens, **types
            )
        layers = min(layers, every)
        host, shares = spread(shape, whole, layers, ids, split, kv_tokens=placed.kv_tokens, **types)
        free = {device.id: device.free_bytes for device in placed.devices}
        for share in shares:
            if share.total > free[share.device]:
                raise OutOfMemory(
                    f"{self.model.id} needs {gb(share.total)} of {share.device} for {share.layers} "
                    f"layers; {gb(free[share.device])} are free there",
                    required_bytes=share.total,
                    available_bytes=free[share.device],
                    device=share.device,
                    largest_context=None,
                )
        notes = []
        if any(device.free_bytes == BOUNDLESS for device in placed.devices):
            notes.append(f"how much memory {ids[0]} has is not known")
        if layers < every and asked is None:
            where = "+".join(ids)
            notes.append(f"{layers} of {every} layers are on {where}: there is no room for more")
        return replace(
            placed,
            n_gpu_layers=layers,
            every_layer=every if asked is None else layers,
            estimate=host,
            shares=shares,
            notes=tuple(notes),
        )

    def _largest(self, available: int) -> int:
        """Most tokens that fit into a cache that all share; 0 when not even the fewest do."""
        longest = LARGEST_CONTEXT if not self.model.pooling else self.wanted.n_ctx
        steps = range(CACHE_STEP, longest + 1, CACHE_STEP)

        def bytes_of(tokens: int) -> int:
            n_ctx = tokens if self.model.pooling else min(tokens, self.wanted.n_ctx)
            return self.sized(n_ctx, tokens, 0).bytes

        if bytes_of(CACHE_STEP) > available or bytes_of(CACHE_STEP) == bytes_of(4 * CACHE_STEP):
            return 0  # nothing, or nothing that a shorter context would change
        return bisect_right(steps, available, key=bytes_of) * CACHE_STEP


def too_big(model: Model, least: Placement, available: int, fits: int) -> OutOfMemory:
    """Says what is missing, and what would go."""
    assert least.estimate is not None
    parts = least.estimate
    smaller = fits if SMALLEST_CONTEXT <= fits < least.n_ctx else None
    advice = f"a context of {smaller} tokens would fit" if smaller else "no context of it fits"
    return OutOfMemory(
        f"{model.id} needs {gb(parts.total)}: {gb(parts.weights)} of weights, "
        f"{gb(parts.cache)} for a context of {least.n_ctx} tokens and "
        f"{gb(parts.total - parts.weights - parts.cache)} to compute with; "
        f"{gb(available)} are free; {advice}",
        required_bytes=parts.total,
        available_bytes=available,
        device="cpu",
        largest_context=smaller,
    )


def estimate_of(model: Model, placed: Placement) -> Estimate | None:
    """What this layout takes on the CPU; None where the measures are unknown."""
    if runtimes.runs(model):
        return runtimes.estimate_whole(model, placed)
    shape = model.shape
    if shape is None:
        return None
    if model.pooling:
        return estimate_pooling(
            shape,
            n_ctx=placed.n_ctx,
            chunked=model.pooling in ("last", "rank") and any(shape.rows),
            flash_attention=placed.flash_attention,
            cache_type_k=placed.cache_type_k,
            cache_type_v=placed.cache_type_v,
        )
    found = estimate(
        shape,
        n_ctx=placed.n_ctx,
        kv_tokens=placed.kv_tokens,
        slots=placed.slots,
        cache_type_k=placed.cache_type_k,
        cache_type_v=placed.cache_type_v,
        kept_bytes=placed.kept_bytes,
        flash_attention=placed.flash_attention,
        draft_tokens=placed.draft_tokens,
        kv_layout=placed.kv_layout,
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
        flash_attention=placed.flash_attention,
    )
    return together(found, guesser)


def gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count < 1e11 else f"{count / 1e9:.0f} GB"
