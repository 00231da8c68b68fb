"""How many bytes a worker will take, from a model's shape alone: arithmetic, no I/O.

What llama.cpp allocates, term by term. Weights, cache, mask, attention and logits follow from its
source (llama-kv-cache.cpp, llama-graph.cpp); how many arrays of a micro-batch are alive at once is
what it logs as "compute buffer size" for models of twelve shapes; what a token of the vocabulary
and the process itself take was measured on workers.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from tabagent import wire
from tabagent.catalog.shape import Shape

BITS: Final[dict[wire.CacheType, float]] = {
    "f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q5_1": 6, "q5_0": 5.5, "q4_1": 5, "q4_0": 4.5,
}  # fmt: skip
"""Of one number of a key or value; quantised types keep a scale for every 32."""
MICRO_BATCH: Final = 512  # tokens that llama.cpp computes at once
CACHE_STEP: Final = 256  # tokens; a sequence's part of the cache is a multiple of it
FLOAT: Final = 4
HALF: Final = 2
MIB: Final = 2**20
WHOLE: Final = 64  # sequences that an encoder reads together
CHUNKED: Final = 32  # and a causal model that pools
PROCESS: Final = 53 * 2**20  # Python, llama.cpp's libraries and what they import
POOLING_PROCESS: Final = 44 * 2**20  # of which a model that says nothing needs less
TOKEN: Final = 280  # bytes of the vocabulary's tables for one token
SCORED_ROWS: Final = 32  # logits of a batch beside each sequence's own, as the scheduler asks
KEPT_PLACES: Final = 32  # sequences of a shared cache beside those that run
BLOCK: Final = 1.0625  # bytes of a number that is multiplied with quantised weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Bytes of main memory by what they are for."""

    weights: int
    cache: int
    state: int  # of recurrent layers
    compute: int
    logits: int
    vocabulary: int
    kept: int  # computed prompts outside the cache
    process: int

    @property
    def total(self) -> int:
        return sum(int(getattr(self, field.name)) for field in fields(self))

    @property
    def asleep(self) -> int:
        """What stays when its context is given back."""
        return self.weights + self.vocabulary + self.process


def together(one: Estimate, other: Estimate) -> Estimate:
    """Two models in one process."""
    sums = {f.name: getattr(one, f.name) + getattr(other, f.name) for f in fields(one)}
    return Estimate(**(sums | {"process": one.process}))


def cache_bytes_per_token(shape: Shape, keys: wire.CacheType, values: wire.CacheType) -> float:
    key_row, value_row = shape.rows
    return (key_row * BITS[keys] + value_row * BITS[values]) / 8


def cells_of(tokens: int) -> int:
    return -(-tokens // CACHE_STEP) * CACHE_STEP


def estimate(
    shape: Shape,
    *,
    n_ctx: int,
    kv_tokens: int,
    slots: int,
    cache_type_k: wire.CacheType,
    cache_type_v: wire.CacheType,
    kept_bytes: int = 0,
    flash_attention: wire.FlashAttention = "auto",
    draft_tokens: int = 0,
    kv_layout: wire.KvLayout = "auto",
) -> Estimate:
    """A model that generates, on the CPU, with contexts that are full.

    A sliding window takes as much as any other layer: the worker keeps all of it (`swa_full`).
    """
    cells = cells_of(kv_tokens)
    state = sum(layer.state for layer in shape.layers)
    possible = not state and not shape.sliding and kv_layout != "shared"
    apart = possible and (kv_tokens >= n_ctx * slots or kv_layout == "separate")
    seen = cells_of(n_ctx) if apart else cells  # by a step's attention
    rows = slots * (1 + draft_tokens) + SCORED_ROWS
    flash = flash_attention != "off"
    return Estimate(
        weights=shape.weight_bytes,
        cache=int(cells * cache_bytes_per_token(shape, cache_type_k, cache_type_v)),
        state=state * slots * 2 * FLOAT,
        compute=compute_bytes(
            shape, batch=min(MICRO_BATCH, max(kv_tokens, 1)), seen=seen, rows=rows, flash=flash
        ),
        logits=(slots if apart else min(rows, slots + KEPT_PLACES)) * shape.vocabulary * FLOAT,
        vocabulary=shape.vocabulary * TOKEN,
        kept=kept_bytes,
        process=PROCESS,
    )


def compute_bytes(
    shape: Shape, *, batch: int, seen: int, rows: int, flash: bool, encoder: bool = False
) -> int:
    """What a micro-batch of `batch` tokens needs that looks at `seen` cells and makes `rows` logits.

    The phases of a layer use the same memory one after the other: the largest counts, and what
    products with quantised weights want beside it. An encoder attends without a cache.
    """
    array = batch * FLOAT
    wide, middle = shape.width * array, shape.feed_forward * array
    keys = wide if encoder else max((layer.key_row for layer in shape.layers), default=0) * array
    attends = encoder or any(shape.rows)
    arrays = 3 if shape.gated else 1
    forward = arrays * middle + (3 if encoder else 2) * wide + min(2 * wide, 2 * MIB)
    mask = batch * seen * (HALF if flash else FLOAT) if attends else 0
    if flash:
        attention = (3 if encoder else 5) * wide + min(keys, wide) + min(3 * wide, 3 * MIB)
    else:
        attention = 5 * wide + 2 * keys + shape.heads * batch * seen * FLOAT
    logits = rows * shape.vocabulary * FLOAT + wide
    beside = int(shape.feed_forward * batch * BLOCK)
    return max(forward, attention if attends else 0, logits) + mask + beside


def estimate_pooling(
    shape: Shape,
    *,
    n_ctx: int,
    chunked: bool,
    flash_attention: wire.FlashAttention,
    cache_type_k: wire.CacheType,
    cache_type_v: wire.CacheType,
) -> Estimate:
    """A model that makes vectors or ranks: it reads `n_ctx` tokens at once, or `chunked` by 512.

    llama.cpp keeps a row of logits and one of numbers for every token that has an output.
    """
    batch = MICRO_BATCH if chunked else -(-max(n_ctx, WHOLE) // WHOLE) * WHOLE
    room = n_ctx + MICRO_BATCH if chunked else 0
    rows = CHUNKED if chunked else batch
    flash = flash_attention != "off"
    seen = cells_of(room) if chunked else batch
    encoder = not any(shape.rows)
    inside = compute_bytes(shape, batch=batch, seen=seen, rows=0, flash=flash, encoder=encoder)
    per_token = cache_bytes_per_token(shape, cache_type_k, cache_type_v)
    return Estimate(
        weights=shape.weight_bytes,
        cache=int(cells_of(room) * per_token),
        state=0,
        compute=inside,
        logits=rows * (shape.vocabulary + shape.width) * FLOAT,
        vocabulary=shape.vocabulary * TOKEN,
        kept=0,
        process=POOLING_PROCESS,
    )
