"""A Mamba small enough for tests, with random weights: a memory that cannot be cut."""

from __future__ import annotations

import array
import random
from pathlib import Path

from tests.catalog.gguf_files import F32, STRING, U32, Tensor, gguf, pair
from tests.worker.tiny_gguf import tokenizer_pairs, vocabulary

WIDTH, INNER, STATE, KERNEL, RANK, LAYERS = 64, 128, 16, 4, 4, 2


def write_mamba(path: Path, *, seed: int = 7) -> Path:
    tokens = len(vocabulary())
    pairs = [
        pair("general.architecture", STRING, "mamba"),
        pair("mamba.context_length", U32, 256),
        pair("mamba.embedding_length", U32, WIDTH),
        pair("mamba.feed_forward_length", U32, 0),
        pair("mamba.attention.head_count", U32, 0),
        pair("mamba.block_count", U32, LAYERS),
        pair("mamba.ssm.conv_kernel", U32, KERNEL),
        pair("mamba.ssm.inner_size", U32, INNER),
        pair("mamba.ssm.state_size", U32, STATE),
        pair("mamba.ssm.time_step_rank", U32, RANK),
        pair("mamba.attention.layer_norm_rms_epsilon", F32, 1e-5),
        *tokenizer_pairs(),
    ]
    tensors = [
        Tensor("token_embd.weight", (WIDTH, tokens)),
        Tensor("output_norm.weight", (WIDTH,)),
        Tensor("output.weight", (WIDTH, tokens)),
    ]
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        tensors += [
            Tensor(f"{block}attn_norm.weight", (WIDTH,)),
            Tensor(f"{block}ssm_in.weight", (WIDTH, 2 * INNER)),
            Tensor(f"{block}ssm_conv1d.weight", (KERNEL, INNER)),
            Tensor(f"{block}ssm_conv1d.bias", (INNER,)),
            Tensor(f"{block}ssm_x.weight", (INNER, RANK + 2 * STATE)),
            Tensor(f"{block}ssm_dt.weight", (RANK, INNER)),
            Tensor(f"{block}ssm_dt.bias", (INNER,)),
            Tensor(f"{block}ssm_a", (STATE, INNER)),
            Tensor(f"{block}ssm_d", (INNER,)),
            Tensor(f"{block}ssm_out.weight", (INNER, WIDTH)),
        ]
    path.write_bytes(gguf(pairs, tensors, data=_weights(tensors, tokens, seed)))
    return path


def _weights(tensors: list[Tensor], tokens: int, seed: int) -> bytes:
    draw = random.Random(seed)
    data = b""
    for tensor in tensors:
        size = tensor.nbytes // 4
        if str(tensor.name).endswith("ssm_a"):
            numbers = [-draw.uniform(0.05, 1.0) for _ in range(size)]  # it decays
        elif str(tensor.name).endswith("norm.weight"):
            numbers = [1.0] * size
        else:
            spread = 1.0 if tensor.name == "token_embd.weight" else 2.0 / WIDTH**0.5
            numbers = [draw.gauss(0, spread) for _ in range(size)]
        if tensor.name == "output.weight":  # half a character weighs nothing, nor do control tokens
            for token, letter in enumerate(vocabulary()[:256]):
                if not letter.isascii():
                    numbers[token * WIDTH : (token + 1) * WIDTH] = [0.0] * WIDTH
        data += array.array("f", numbers).tobytes()
        data += bytes(-len(data) % 32)
    return data
