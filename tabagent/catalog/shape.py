"""The measures of a model that decide how much memory it takes, from its header alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tabagent.catalog.gguf_header import GgufHeader, TensorInfo

_BLOCK: Final = re.compile(r"blk\.(\d+)\.(.+)")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: bytes of weights, and numbers that its cache keeps."""

    weight_bytes: int
    key_row: int = 0  # numbers a token
    value_row: int = 0
    state: int = 0  # numbers a sequence, in recurrent layers


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder or encoder. Widths are numbers a token."""

    width: int
    heads: int
    feed_forward: int  # of all experts that a token passes through
    vocabulary: int
    layers: tuple[Layer, ...]
    input_bytes: int  # the table that tokens are looked up in
    output_bytes: int  # what makes logits; none of its own where it is the same table
    other_bytes: int
    gated: bool = True  # whether two arrays of the middle are multiplied, as in most decoders
    sliding: bool = False  # whether layers look at a window only

    @property
    def weight_bytes(self) -> int:
        inside = sum(layer.weight_bytes for layer in self.layers)
        return inside + self.input_bytes + self.output_bytes + self.other_bytes

    @property
    def rows(self) -> tuple[int, int]:
        """Numbers of keys and of values that one token keeps in all layers."""
        keys = sum(layer.key_row for layer in self.layers)
        return keys, sum(layer.value_row for layer in self.layers)


def shape_of(header: GgufHeader) -> Shape:
    """The shape of what a sound header describes; cache rows come from the tensors' own shapes."""
    arch = header.architecture

    def number(key: str, default: int = 0) -> int:
        value = header.metadata.get(f"{arch}.{key}")
        return value if isinstance(value, int) else default

    width, heads = header.embedding_length or 0, number("attention.head_count", 1) or 1
    head = number("attention.key_length", width // heads)
    value_head = number("attention.value_length", width // heads)
    kv_heads = number("attention.head_count_kv", heads)
    blocks: dict[int, list[TensorInfo]] = {n: [] for n in range(header.block_count)}
    rest: dict[str, int] = {}
    for tensor in header.tensors:
        found = _BLOCK.fullmatch(tensor.name)
        if found and int(found[1]) in blocks:
            blocks[int(found[1])].append(tensor)
        else:
            rest[tensor.name] = rest.get(tensor.name, 0) + tensor.nbytes
    inner, kernel = number("ssm.inner_size"), number("ssm.conv_kernel", 1)
    state = inner * (number("ssm.state_size") + kernel - 1)
    encoder = header.metadata.get(f"{arch}.attention.causal") is False
    layers = tuple(
        _layer(tensors, kv_heads * head, kv_heads * value_head, state, cached=not encoder)
        for tensors in blocks.values()
    )
    forward = max((_feed_forward(tensors) for tensors in blocks.values()), default=0)
    return Shape(
        width=width,
        heads=heads,
        feed_forward=(forward or number("feed_forward_length")) * number("expert_used_count", 1),
        vocabulary=header.vocab_size or 0,
        layers=layers,
        input_bytes=rest.pop("token_embd.weight", 0),
        output_bytes=rest.pop("output.weight", 0),
        other_bytes=sum(rest.values()),
        gated=_gated(header.tensors, forward),
        sliding=number("attention.sliding_window") > 0,
    )


def _layer(
    tensors: Iterable[TensorInfo], keys: int, values: int, state: int, *, cached: bool
) -> Layer:
    by_kind = {tensor.name.split(".", 2)[2]: tensor for tensor in tensors}
    key_row = value_row = 0
    if "attn_kv_a_mqa.weight" in by_kind:  # latent attention keeps one compressed row
        key_row = by_kind["attn_kv_a_mqa.weight"].shape[-1]
    elif "attn_k.weight" in by_kind and "attn_v.weight" in by_kind:
        key_row, value_row = (by_kind[f"attn_{kind}.weight"].shape[-1] for kind in "kv")
    elif "attn_qkv.weight" in by_kind:
        key_row, value_row = keys, values
    return Layer(
        weight_bytes=sum(tensor.nbytes for tensor in by_kind.values()),
        key_row=key_row if cached else 0,
        value_row=value_row if cached else 0,
        state=state if any(kind.startswith("ssm_") for kind in by_kind) else 0,
    )


def _gated(tensors: Iterable[TensorInfo], forward: int) -> bool:
    """Whether there is a gate, on its own or in one tensor with what it lets through."""
    for tensor in tensors:
        if ".ffn_gate" in tensor.name:
            return True
        if ".ffn_down" in tensor.name and len(tensor.shape) > 1 and tensor.shape[0] != forward:
            return True
    return False


def _feed_forward(tensors: Iterable[TensorInfo]) -> int:
    """Numbers a token has in the middle of a layer, or of one expert of it."""
    wide = [t.shape[1] for t in tensors if ".ffn_up" in t.name and len(t.shape) > 1]
    return max(wide, default=0)
