"""Writes GGUF files, sound ones by default and broken ones on request.

Every piece is plain bytes, so a test can put any number where the format allows none.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ALIGNMENT = 32
U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?"}
FORMATS |= {U64: "Q", I64: "q", F64: "d"}

TENSOR_F32, TENSOR_Q8_0, TENSOR_Q4_K, TENSOR_Q6_K = 0, 8, 12, 14
BLOCKS = {
    TENSOR_F32: (1, 4),
    TENSOR_Q8_0: (32, 34),
    TENSOR_Q4_K: (256, 144),
    TENSOR_Q6_K: (256, 210),
}


def string(text: str | bytes, length: int | None = None) -> bytes:
    """A string, its length stated as `length` when that is to be a lie."""
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def scalar(kind: int, value: int | float) -> bytes:
    return struct.pack("<" + FORMATS[kind], value)


def pair(key: str | bytes, kind: int, value: str | bytes | int | float) -> bytes:
    body = string(value) if isinstance(value, str | bytes) else scalar(kind, value)
    return string(key) + struct.pack("<I", kind) + body


def array(key: str, kind: int, items: Iterable[bytes], length: int | None = None) -> bytes:
    """An array pair of packed `items`, their number stated as `length` when that is to be a lie."""
    packed = list(items)
    stated = len(packed) if length is None else length
    return string(key) + struct.pack("<IIQ", ARRAY, kind, stated) + b"".join(packed)


@dataclass(frozen=True)
class Tensor:
    """A tensor entry; `offset` None puts it behind the one before it."""

    name: str | bytes
    shape: Sequence[int] = (32,)
    type: int = TENSOR_F32
    offset: int | None = None

    @property
    def nbytes(self) -> int:
        block, size = BLOCKS.get(self.type, (1, 4))
        return math.prod(self.shape) // block * size


def gguf(
    pairs: Sequence[bytes],
    tensors: Sequence[Tensor] = (),
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    alignment: int = ALIGNMENT,
    pair_count: int | None = None,
    tensor_count: int | None = None,
    data: bytes | None = None,
) -> bytes:
    """A whole file; a count or `data` that is given replaces the true one."""
    entries, end = b"", 0
    for tensor in tensors:
        offset = end if tensor.offset is None else tensor.offset
        entries += string(tensor.name) + struct.pack("<I", len(tensor.shape))
        entries += struct.pack(f"<{len(tensor.shape)}QIQ", *tensor.shape, tensor.type, offset)
        end = padded(offset + tensor.nbytes, alignment)
    head = magic + struct.pack(
        "<IQQ",
        version,
        len(tensors) if tensor_count is None else tensor_count,
        len(pairs) if pair_count is None else pair_count,
    )
    head += b"".join(pairs) + entries
    return head.ljust(padded(len(head), alignment), b"\0") + (bytes(end) if data is None else data)


def padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def basics(architecture: str = "llama", blocks: int = 2) -> list[bytes]:
    """The pairs without which no file is a model."""
    return [
        pair("general.architecture", STRING, architecture),
        pair(f"{architecture}.block_count", U32, blocks),
    ]


def vocabulary(tokens: int) -> list[bytes]:
    """Tokens, scores and token types as a converter writes them."""
    return [
        array("tokenizer.ggml.tokens", STRING, (string(f"token{n}") for n in range(tokens))),
        array("tokenizer.ggml.scores", F32, (scalar(F32, -float(n)) for n in range(tokens))),
        array("tokenizer.ggml.token_type", I32, (scalar(I32, 1) for _ in range(tokens))),
    ]


def small_model() -> bytes:
    """A valid model with every kind of value, three tensors and 12 tokens."""
    pairs = [
        *basics(),
        pair("general.name", STRING, "Small Bläck Model"),
        pair("general.license", STRING, "mit"),
        pair("general.file_type", U32, 15),
        pair("llama.context_length", U32, 2048),
        pair("llama.embedding_length", U64, 256),
        pair("llama.rope.freq_base", F32, 10000.0),
        pair("tokenizer.ggml.add_bos_token", BOOL, True),
        pair("test.i8", I8, -8),
        pair("test.u8", U8, 8),
        pair("test.i16", I16, -16),
        pair("test.u16", U16, 16),
        pair("test.i32", I32, -32),
        pair("test.i64", I64, -64),
        pair("test.f64", F64, 0.5),
        array("test.flags", BOOL, [b"\1", b"\0"]),
        array("test.nothing", U8, []),
        *vocabulary(12),
        pair("tokenizer.chat_template", STRING, "{{ messages[0].content }}"),
    ]
    return gguf(pairs, small_tensors())


def small_tensors() -> list[Tensor]:
    return [
        Tensor("token_embd.weight", (256, 12), TENSOR_Q6_K),
        Tensor("blk.0.attn_q.weight", (256, 64), TENSOR_Q4_K),
        Tensor("output_norm.weight", (256,), TENSOR_F32),
    ]


def split_model(parts: int = 3) -> list[bytes]:
    """The files of a model in `parts` parts, one tensor each; only the first says what it is."""
    files = []
    for number in range(parts):
        pairs = [
            pair("split.no", U16, number),
            pair("split.count", U16, parts),
            pair("split.tensors.count", I32, parts),
        ]
        files.append(gguf(pairs + basics() * (number == 0), [Tensor(f"blk.{number}.weight")]))
    return files
