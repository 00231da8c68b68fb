"""Embedders and rerankers small enough for tests, with random weights and real tokenizers.

`write_bert` is an encoder with a WordPiece vocabulary, `write_qwen` a causal model that reads
byte-level BPE, as Qwen3-Embedding and Qwen3-Reranker are. Their numbers mean nothing, and are the
same whenever they are asked the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

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
from tests.worker import tiny_gguf

MEAN, CLS, LAST, RANK = 1, 2, 3, 4  # llama.cpp's pooling types
WIDTH, LAYERS, HEADS, FEED_FORWARD = 64, 2, 4, 128
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'-()[]<>|{}"]
WORDS = ["the", "cat", "sat", "on", "mat", "dog", "tree", "house", "green", "river"]
RERANK = (
    "<|im_start|>system\nDoes the document answer?<|im_end|>\n"
    "<|im_start|>user\nQuery: {query}\nDocument: {document}<|im_end|>\n<|im_start|>assistant\n"
)


def wordpieces() -> list[str]:
    """The vocabulary as llama.cpp keeps it: what begins a word has a low line before it."""
    return [*SPECIALS, *("▁" + word for word in WORDS), *("▁" + x for x in LETTERS), *LETTERS]


def write_bert(
    path: Path,
    *,
    pooling: int | None = MEAN,
    head: bool = False,
    labels: Sequence[str] = (),
    context: int = 1024,
    eos: bool = False,
    jina: bool = False,
    size: tuple[int, int, int, int] = (WIDTH, LAYERS, HEADS, FEED_FORWARD),
    tokens: int = 0,
    sick: str = "",
    silent: bool = False,
    broken: bool = False,
    seed: int = 7,
) -> Path:
    """Write an encoder.

    `head`: with one that ranks. `eos`: [SEP] is its end token, as newer files have it. `jina`: of
    that kind, without positions and with a smaller head. `size`: width, layers, heads, feed forward.
    `tokens`: fill the vocabulary up to so many. `sick`: a word of which NaN comes. `silent`: zeros
    come of everything. `broken`: the token that begins a text is none of the vocabulary.
    """
    kind = "jina-bert-v2" if jina else "bert"
    width, layers, heads, feed_forward = size
    pieces = [*SPECIALS, *WORDS] if broken else wordpieces()
    pieces += [f"▁filler{number}" for number in range(len(pieces), tokens)]
    pairs = [
        pair("general.architecture", STRING, kind),
        pair(f"{kind}.context_length", U32, context),
        pair(f"{kind}.embedding_length", U32, width),
        pair(f"{kind}.block_count", U32, layers),
        pair(f"{kind}.feed_forward_length", U32, feed_forward),
        pair(f"{kind}.attention.head_count", U32, heads),
        pair(f"{kind}.attention.layer_norm_epsilon", F32, 1e-12),
        pair(f"{kind}.attention.causal", BOOL, False),
        *_wordpiece_pairs(pieces, eos=eos, bos=not broken),
    ]
    if pooling is not None:
        pairs.append(pair(f"{kind}.pooling_type", U32, pooling))
    if labels:
        pairs.append(values(f"{kind}.classifier.output_labels", STRING, map(string, labels)))
    tensors = [
        Tensor("token_embd.weight", (width, len(pieces))),
        Tensor("token_types.weight", (width, 2)),
        *([] if jina else [Tensor("position_embd.weight", (width, context))]),
        *_biased("token_embd_norm", width),
        *(tensor for layer in range(layers) for tensor in _bert_layer(layer, width, feed_forward)),
    ]
    if head and jina:
        tensors += _biased("cls", width, 1)
    elif head:
        tensors += _biased("cls", width, width) + _biased("cls.output", width, max(len(labels), 1))
    sick_token = pieces.index("▁" + sick) if sick else -1
    return _write(path, pairs, tensors, seed, sick_token, silent)


def _wordpiece_pairs(pieces: list[str], *, eos: bool, bos: bool) -> list[bytes]:
    kinds = (scalar(I32, 3 if piece in SPECIALS else 1) for piece in pieces)
    pairs = [
        pair("tokenizer.ggml.model", STRING, "bert"),
        pair("tokenizer.ggml.token_type_count", U32, 2),
        values("tokenizer.ggml.tokens", STRING, map(string, pieces)),
        values("tokenizer.ggml.token_type", I32, kinds),
        pair("tokenizer.ggml.unknown_token_id", U32, 1),
        pair("tokenizer.ggml.seperator_token_id", U32, 3),  # sic
        pair("tokenizer.ggml.padding_token_id", U32, 0),
        pair("tokenizer.ggml.mask_token_id", U32, 4),
    ]
    if bos:
        pairs.append(pair("tokenizer.ggml.bos_token_id", U32, 2))
    if eos:
        pairs += [
            pair("tokenizer.ggml.eos_token_id", U32, 3),
            pair("tokenizer.ggml.add_eos_token", BOOL, True),
            pair("tokenizer.ggml.add_sep_token", BOOL, False),
        ]
    return pairs


def _bert_layer(layer: int, width: int, feed_forward: int) -> list[Tensor]:
    block = f"blk.{layer}."
    kinds = ("attn_q", "attn_k", "attn_v", "attn_output")
    return [
        *(tensor for kind in kinds for tensor in _biased(block + kind, width, width)),
        *_biased(block + "attn_output_norm", width),
        *_biased(block + "layer_output_norm", width),
        *_biased(block + "ffn_up", width, feed_forward),
        *_biased(block + "ffn_down", feed_forward, width),
    ]


def _biased(name: str, *shape: int) -> list[Tensor]:
    """A weight and its bias."""
    return [Tensor(f"{name}.weight", shape), Tensor(f"{name}.bias", shape[-1:])]


def write_qwen(
    path: Path,
    *,
    pooling: int | None = LAST,
    template: str | None = None,
    context: int = 1024,
    sick: str = "",
    seed: int = 7,
) -> Path:
    """Write a causal model. `template`: it ranks by this, with the answers yes and no. `sick`: a
    token of which NaN comes.
    """
    tokens = tiny_gguf.vocabulary()
    plain = len(tokens) - len(tiny_gguf.CONTROLS)
    types = [tiny_gguf.NORMAL] * plain + [tiny_gguf.CONTROL] * 3 + [tiny_gguf.UNKNOWN]
    head = WIDTH // HEADS
    pairs = [
        pair("general.architecture", STRING, "qwen3"),
        pair("qwen3.context_length", U32, context),
        pair("qwen3.embedding_length", U32, WIDTH),
        pair("qwen3.block_count", U32, LAYERS),
        pair("qwen3.feed_forward_length", U32, FEED_FORWARD),
        pair("qwen3.attention.head_count", U32, HEADS),
        pair("qwen3.attention.key_length", U32, head),
        pair("qwen3.attention.value_length", U32, head),
        pair("qwen3.attention.layer_norm_rms_epsilon", F32, 1e-6),
        pair("qwen3.rope.freq_base", F32, 1e6),
        pair("tokenizer.ggml.model", STRING, "gpt2"),
        pair("tokenizer.ggml.pre", STRING, "qwen2"),
        values("tokenizer.ggml.tokens", STRING, map(string, tokens)),
        values("tokenizer.ggml.token_type", I32, (scalar(I32, kind) for kind in types)),
        values("tokenizer.ggml.merges", STRING, map(string, tiny_gguf.MERGES)),
        pair("tokenizer.ggml.eos_token_id", U32, tokens.index("<|endoftext|>")),
        pair("tokenizer.ggml.add_eos_token", BOOL, template is None),
    ]
    tensors = [
        Tensor("token_embd.weight", (WIDTH, len(tokens))),
        Tensor("output_norm.weight", (WIDTH,)),
    ]
    if pooling is not None:
        pairs.append(pair("qwen3.pooling_type", U32, pooling))
    if template is not None:
        pairs += [
            pair("tokenizer.chat_template.rerank", STRING, template),
            values("qwen3.classifier.output_labels", STRING, map(string, ("yes", "no"))),
        ]
        tensors.append(Tensor("cls.output.weight", (WIDTH, 2)))
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        tensors += [Tensor(f"{block}{kind}_norm.weight", (WIDTH,)) for kind in ("attn", "ffn")]
        tensors += [Tensor(f"{block}attn_{kind}_norm.weight", (head,)) for kind in "qk"]
        tensors += [Tensor(f"{block}attn_{kind}.weight", (WIDTH, WIDTH)) for kind in "qkv"]
        tensors += [
            Tensor(f"{block}attn_output.weight", (WIDTH, WIDTH)),
            Tensor(f"{block}ffn_gate.weight", (WIDTH, FEED_FORWARD)),
            Tensor(f"{block}ffn_up.weight", (WIDTH, FEED_FORWARD)),
            Tensor(f"{block}ffn_down.weight", (FEED_FORWARD, WIDTH)),
        ]
    return _write(path, pairs, tensors, seed, tokens.index(sick) if sick else -1)


def _write(
    path: Path,
    pairs: list[bytes],
    tensors: list[Tensor],
    seed: int,
    sick: int = -1,
    silent: bool = False,
) -> Path:
    draw = np.random.default_rng(seed)
    data = bytearray()
    for tensor in tensors:
        name, size = str(tensor.name), tensor.nbytes // 4
        if name.endswith("_norm.weight"):
            numbers = np.ones(size)
        elif len(tensor.shape) == 1:  # a bias
            numbers = draw.normal(0, 0.1, size)
        else:
            spread = (
                1.0 if name.startswith(("token_", "position_")) else 2.0 / tensor.shape[0] ** 0.5
            )
            numbers = draw.normal(0, spread, size)
        if name == "token_embd.weight" and sick >= 0:
            numbers[sick * tensor.shape[0]] = np.nan
        if silent and "layer_output_norm" in name:
            numbers[:] = 0
        data += numbers.astype("<f4").tobytes()
        data += bytes(-len(data) % 32)
    path.write_bytes(gguf(pairs, tensors, data=bytes(data)))
    return path
