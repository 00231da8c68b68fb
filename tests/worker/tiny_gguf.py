"""A Llama small enough for tests, with random weights: real tokens, real sampling, real KV cache.

Its vocabulary is byte-level BPE with ChatML's control tokens. What it says is nonsense, but the
same nonsense whenever it is asked the same.
"""

from __future__ import annotations

import array
import random
from collections.abc import Sequence
from pathlib import Path

from tests.catalog.gguf_files import (
    BOOL,
    F32,
    I32,
    STRING,
    U32,
    Tensor,
    gguf,
    pair,
    scalar,
    string,
)
from tests.catalog.gguf_files import array as values

WIDTH, LAYERS, HEADS, FEED_FORWARD = 64, 2, 4, 128
NORMAL, UNKNOWN, CONTROL = 1, 2, 3
MERGES = ["h e", "Ġ t", "Ġt he", "t h", "i n", "e r", "o n", "a n", "Ġ a", "l l", "e ll", "ell o"]
CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>"]

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_letters() -> list[str]:
    """The letter that stands for each byte, as in GPT-2: printable ones stand for themselves."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def vocabulary(controls: Sequence[str] = ()) -> list[str]:
    """`controls`: control tokens beside ChatML's."""
    merged = (merge.replace(" ", "") for merge in MERGES)
    return [*byte_letters(), *merged, *CONTROLS, *controls]


def tokenizer_pairs(
    *,
    template: str | None = CHATML,
    bos: bool = False,
    controls: Sequence[str] = (),
    words: Sequence[str] = (),
) -> list[bytes]:
    """What a file says of this vocabulary, and of the chat template. `words`: further plain tokens."""
    tokens = [*vocabulary(controls), *words]
    plain = len(tokens) - len(CONTROLS) - len(controls) - len(words)
    types = [NORMAL] * plain + [CONTROL] * 3 + [UNKNOWN] + [CONTROL] * len(controls)
    types += [NORMAL] * len(words)
    pairs = [
        pair("tokenizer.ggml.model", STRING, "gpt2"),
        pair("tokenizer.ggml.pre", STRING, "gpt-2"),
        values("tokenizer.ggml.tokens", STRING, map(string, tokens)),
        values("tokenizer.ggml.token_type", I32, (scalar(I32, kind) for kind in types)),
        values("tokenizer.ggml.merges", STRING, map(string, MERGES)),
        pair("tokenizer.ggml.bos_token_id", U32, tokens.index("<|endoftext|>")),
        pair("tokenizer.ggml.eos_token_id", U32, tokens.index("<|im_end|>")),
        pair("tokenizer.ggml.unknown_token_id", U32, tokens.index("<unk>")),
        pair("tokenizer.ggml.add_bos_token", BOOL, bos),
    ]
    if template is not None:
        pairs.append(pair("tokenizer.chat_template", STRING, template))
    return pairs


def write_model(
    path: Path,
    *,
    template: str | None = CHATML,
    bos: bool = False,
    more: Sequence[bytes] = (),
    controls: Sequence[str] = (),
    context: int = 256,
    seed: int = 7,
) -> Path:
    """Write the model to `path`. `bos`: prompts start with <|endoftext|>. `more`: further pairs."""
    tokens = vocabulary(controls)
    pairs = [
        pair("general.architecture", STRING, "llama"),
        pair("llama.context_length", U32, context),
        pair("llama.embedding_length", U32, WIDTH),
        pair("llama.block_count", U32, LAYERS),
        pair("llama.feed_forward_length", U32, FEED_FORWARD),
        pair("llama.attention.head_count", U32, HEADS),
        pair("llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
        pair("llama.rope.dimension_count", U32, WIDTH // HEADS),
        *tokenizer_pairs(template=template, bos=bos, controls=controls),
        *more,
    ]
    tensors = _tensors(len(tokens))
    path.write_bytes(gguf(pairs, tensors, data=_weights(tensors, len(tokens), seed)))
    return path


def _tensors(tokens: int) -> list[Tensor]:
    found = [
        Tensor("token_embd.weight", (WIDTH, tokens)),
        Tensor("output_norm.weight", (WIDTH,)),
        Tensor("output.weight", (WIDTH, tokens)),
    ]
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        found += [Tensor(f"{block}{kind}_norm.weight", (WIDTH,)) for kind in ("attn", "ffn")]
        found += [Tensor(f"{block}attn_{kind}.weight", (WIDTH, WIDTH)) for kind in "qkv"]
        found += [
            Tensor(f"{block}attn_output.weight", (WIDTH, WIDTH)),
            Tensor(f"{block}ffn_gate.weight", (WIDTH, FEED_FORWARD)),
            Tensor(f"{block}ffn_up.weight", (WIDTH, FEED_FORWARD)),
            Tensor(f"{block}ffn_down.weight", (FEED_FORWARD, WIDTH)),
        ]
    return found


def _weights(tensors: list[Tensor], tokens: int, seed: int) -> bytes:
    draw = random.Random(seed)
    data = b""
    for tensor in tensors:
        size = tensor.nbytes // 4
        if len(tensor.shape) == 1:
            numbers = [1.0] * size
        else:
            spread = 1.0 if tensor.name == "token_embd.weight" else 2.0 / WIDTH**0.5
            numbers = [draw.gauss(0, spread) for _ in range(size)]
        if tensor.name == "output.weight":
            for token in _unsaid(tokens):
                numbers[token * WIDTH : (token + 1) * WIDTH] = [0.0] * WIDTH
        data += array.array("f", numbers).tobytes()
        data += bytes(-len(data) % 32)
    return data


def _unsaid(tokens: int) -> list[int]:
    """What weighs nothing: half a character, and control tokens beside ChatML's."""
    known = vocabulary()
    halves = [token for token, letter in enumerate(known[:256]) if not letter.isascii()]
    return [*halves, *range(len(known), tokens)]
