"""Which layers of a model lie on which graphics processor, and what they take there.

Source: `load_tensors` in llama.cpp's llama-model.cpp. The last layers go first, the one that makes
logits before all others; each device gets a stretch of them, as large as its share of the split.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Final

from tabagent import wire
from tabagent.catalog.shape import Layer, Shape
from tabagent.engine.estimate import BITS, Estimate, cells_of
from tabagent.hardware.devices import Device

OVERHEAD: Final = 384 * 2**20  # bytes that a driver's context and libraries take on a device


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one device holds. `layers` counts the output layer too."""

    device: str
    layers: int
    weights: int
    cache: int
    state: int
    compute: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.state + self.compute + OVERHEAD


def spread(
    shape: Shape,
    whole: Estimate,
    layers: int,
    devices: Sequence[str],
    split: Sequence[float],
    *,
    kv_tokens: int,
    cache_type_k: wire.CacheType,
    cache_type_v: wire.CacheType,
) -> tuple[Estimate, tuple[Share, ...]]:
    """`whole`, which is on the CPU, with `layers` moved: what stays, and what each device gets."""
    count = len(shape.layers)
    first = max(0, count + 1 - layers)
    moved = count + 1 - first
    bounds = list(accumulate(part / sum(split) for part in split))[:-1]
    cells = cells_of(kv_tokens)
    total_state = sum(layer.state for layer in shape.layers)
    shares: list[Share] = []
    for number, device in enumerate(devices):
        mine = [
            at
            for at in range(first, count + 1)
            if bisect_right(bounds, (at - first) / moved) == number
        ]
        inside = [shape.layers[at] for at in mine if at < count]
        state = sum(layer.state for layer in inside)
        shares.append(
            Share(
                device=device,
                layers=len(mine),
                weights=sum(layer.weight_bytes for layer in inside)
                + (_head(shape) if count in mine else 0),
                cache=sum(_cache(layer, cells, cache_type_k, cache_type_v) for layer in inside),
                state=whole.state * state // total_state if total_state else 0,
                compute=whole.compute if mine else 0,
            )
        )
    # A head that is the table of tokens itself is copied, and stays where tokens are looked up.
    copied = _head(shape) if not shape.output_bytes and moved else 0
    return (
        replace(
            whole,
            weights=whole.weights - sum(share.weights for share in shares) + copied,
            cache=max(0, whole.cache - sum(share.cache for share in shares)),
            state=whole.state - sum(share.state for share in shares),
        ),
        tuple(share for share in shares if share.layers),
    )


def most_layers(
    shape: Shape,
    whole: Estimate,
    devices: Sequence[Device],
    split: Sequence[float],
    *,
    kv_tokens: int,
    cache_type_k: wire.CacheType,
    cache_type_v: wire.CacheType,
) -> int:
    """How many layers fit into what is free on the devices; 0 when none does."""
    free = {device.id: device.free_bytes for device in devices}

    def fit(layers: int) -> bool:
        _, shares = spread(
            shape, whole, layers, list(free), split,
            kv_tokens=kv_tokens, cache_type_k=cache_type_k, cache_type_v=cache_type_v,
        )  # fmt: skip
        return all(share.total <= free[share.device] for share in shares)

    # The first number that does not fit, less one.
    return bisect_left(range(1, len(shape.layers) + 2), True, key=lambda layers: not fit(layers))


def _head(shape: Shape) -> int:
    return (shape.output_bytes or shape.input_bytes) + shape.other_bytes


def _cache(layer: Layer, cells: int, keys: wire.CacheType, values: wire.CacheType) -> int:
    return int(cells * (layer.key_row * BITS[keys] + layer.value_row * BITS[values]) / 8)
