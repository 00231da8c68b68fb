"""How many bytes a worker will take, from a model's shape alone: arithmetic, no I/O.

What llama.cpp allocates, term by term. Weights, cache and mask follow from its source; how many
arrays of a micro-batch are alive at once, what a token of the vocabulary takes and what the process
itself does were fitted to workers of ten shapes from 56 MB to 1.1 GB (at most 7 % off).
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
MASK: Final = FLOAT + 2  # bytes a cell, once as floats and once as halves
PROCESS: Final = 54 * 2**20  # Python, llama.cpp's libraries and what they import
SCRATCH: Final = 3 * 2**20
TOKEN: Final = 300  # bytes of the vocabulary's tables for one token
WIDE: Final = 2.5  # arrays of a layer's width that are alive at once
DEEP: Final = 0.9  # and of its middle


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Bytes by what they are for."""

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
    def fixed(self) -> int:
        """What does not depend on the context."""
        return self.total - self.cache - self.kept


def together(one: Estimate, other: Estimate) -> Estimate:
    """Two models in one process."""
    sums = {f.name: getattr(one, f.name) + getattr(other, f.name) for f in fields(one)}
    return Estimate(**(sums | {"process": one.process}))


def cache_bytes_per_token(shape: Shape, keys: wire.CacheType, values: wire.CacheType) -> float:
    key_row, value_row = shape.rows
    return (key_row * BITS[keys] + value_row * BITS[values]) / 8


def estimate(
    shape: Shape,
    *,
    n_ctx: int,
    kv_tokens: int,
    slots: int,
    cache_type_k: wire.CacheType,
    cache_type_v: wire.CacheType,
    kept_bytes: int = 0,
) -> Estimate:
    """A model on the CPU, with contexts that are full."""
    cells = -(-kv_tokens // CACHE_STEP) * CACHE_STEP
    apart = kv_tokens >= n_ctx * slots
    seen = -(-n_ctx // CACHE_STEP) * CACHE_STEP if apart else cells  # by a step's attention
    batch = min(MICRO_BATCH, max(kv_tokens, 1))
    arrays = int(WIDE * shape.width + DEEP * shape.feed_forward) * batch * FLOAT
    mask = seen * batch * MASK if any(shape.rows) else 0
    return Estimate(
        weights=shape.weight_bytes,
        cache=int(cells * cache_bytes_per_token(shape, cache_type_k, cache_type_v)),
        state=sum(layer.state for layer in shape.layers) * slots * 2 * FLOAT,
        compute=SCRATCH + arrays + mask,
        logits=slots * shape.vocabulary * FLOAT,
        vocabulary=shape.vocabulary * TOKEN,
        kept=kept_bytes,
        process=PROCESS,
    )
