"""Llamas of any size whose weights are zeros: what they say is nothing, what they take is real."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.catalog.gguf_files import (
    BLOCKS,
    F32,
    STRING,
    TENSOR_F32,
    TENSOR_Q8_0,
    U32,
    Tensor,
    gguf,
    pair,
)
from tests.worker.tiny_gguf import tokenizer_pairs, vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """`kv_heads` of `heads` keep keys and values; `words` are tokens beside the tiny vocabulary."""

    width: int = 512
    layers: int = 4
    heads: int = 8
    kv_heads: int = 8
    feed_forward: int = 1536
    words: int = 0
    context: int = 8192
    tied: bool = False
    type: int = TENSOR_Q8_0


def write_sized(path: Path, measures: Measures) -> Path:
    """Write the model to `path`, its tensors as a hole in the file."""
    m = measures
    words = [f"<word {number}>" for number in range(m.words)]
    pairs = [
        pair("general.architecture", STRING, "llama"),
        pair("llama.context_length", U32, m.context),
        pair("llama.embedding_length", U32, m.width),
        pair("llama.block_count", U32, m.layers),
        pair("llama.feed_forward_length", U32, m.feed_forward),
        pair("llama.attention.head_count", U32, m.heads),
        pair("llama.attention.head_count_kv", U32, m.kv_heads),
        pair("llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
        pair("llama.rope.dimension_count", U32, m.width // m.heads),
        *tokenizer_pairs(words=words),
    ]
    tensors = _tensors(m, len(vocabulary()) + m.words)
    size = sum(tensor.nbytes + -tensor.nbytes % 32 for tensor in tensors)
    with path.open("wb") as file:
        file.write(gguf(pairs, tensors, data=b""))
        file.truncate(file.tell() + size)
    assert m.type in BLOCKS
    return path


def _tensors(m: Measures, tokens: int) -> list[Tensor]:
    rows = m.width // m.heads * m.kv_heads
    found = [
        Tensor("token_embd.weight", (m.width, tokens), m.type),
        Tensor("output_norm.weight", (m.width,), TENSOR_F32),
    ]
    if not m.tied:
        found.append(Tensor("output.weight", (m.width, tokens), m.type))
    for layer in range(m.layers):
        block = f"blk.{layer}."
        norms = (f"{block}attn_norm.weight", f"{block}ffn_norm.weight")
        found += [Tensor(name, (m.width,), TENSOR_F32) for name in norms]
        found += [
            Tensor(f"{block}{name}.weight", shape, m.type)
            for name, shape in (
                ("attn_q", (m.width, m.width)),
                ("attn_k", (m.width, rows)),
                ("attn_v", (m.width, rows)),
                ("attn_output", (m.width, m.width)),
                ("ffn_gate", (m.width, m.feed_forward)),
                ("ffn_up", (m.width, m.feed_forward)),
                ("ffn_down", (m.feed_forward, m.width)),
            )
        ]
    return found
