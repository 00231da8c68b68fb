"""A LoRA adapter for the tiny Llama, with random weights."""

from __future__ import annotations

import array
import random
from pathlib import Path

from tests.catalog.gguf_files import F32, STRING, Tensor, gguf, pair
from tests.worker.tiny_gguf import LAYERS, WIDTH

RANK = 4


def write_lora(path: Path, *, seed: int = 1, width: int = WIDTH) -> Path:
    pairs = [
        pair("general.architecture", STRING, "llama"),
        pair("general.type", STRING, "adapter"),
        pair("adapter.type", STRING, "lora"),
        pair("adapter.lora.alpha", F32, 2.0 * RANK),
    ]
    tensors = []
    for layer in range(LAYERS):
        for kind in ("attn_q", "attn_v", "attn_output"):
            name = f"blk.{layer}.{kind}.weight"
            tensors.append(Tensor(f"{name}.lora_a", (width, RANK)))
            tensors.append(Tensor(f"{name}.lora_b", (RANK, width)))
    draw = random.Random(seed)
    data = b""
    for tensor in tensors:
        numbers = [draw.gauss(0, 0.3) for _ in range(tensor.nbytes // 4)]
        data += array.array("f", numbers).tobytes()
        data += bytes(-len(data) % 32)
    path.write_bytes(gguf(pairs, tensors, data=data))
    return path
