"""Whether a GGUF file is of a model that makes vectors or ranks, and how it pools."""

from __future__ import annotations

from typing import Final

from tabagent.catalog.gguf_header import GgufHeader
from tabagent.errors import UnsupportedModel
from tabagent.wire import Pooling

RANK: Final = 4
KINDS: Final[dict[int, Pooling]] = {1: "mean", 2: "cls", 3: "last", RANK: "rank"}
NONE: Final = 0
HEAD: Final = "cls.output.weight"
ONLY_HEADS: Final = {"jina-bert-v2": "cls.weight"}
"""Where one layer ranks; in others a tensor of this name leads to the head."""
ENCODERS: Final = frozenset({
    "bert", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llama-embed",
    "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe", "t5encoder",
})  # fmt: skip
"""Architectures that cannot generate, whatever else a file says."""


def pooling_of(header: GgufHeader) -> Pooling | None:
    """How the model pools; None when it generates. Raises UnsupportedModel.

    An encoder of which the file says nothing ranks if it has a head for that; else its vectors are
    the mean over all tokens, which is what sentence-transformers does with such a model.
    """
    kind, architecture = header.pooling_type, header.architecture
    head = ONLY_HEADS.get(architecture, HEAD)
    has_head = any(tensor.name == head for tensor in header.tensors)
    if kind == RANK and not has_head:
        raise UnsupportedModel(
            "it says that it ranks, and has no head to rank with", architecture=architecture
        )
    if kind in KINDS:
        return KINDS[kind]
    if kind not in (None, NONE):
        raise UnsupportedModel(f"its pooling type {kind} is unknown", architecture=architecture)
    both_ways = header.metadata.get(f"{architecture}.attention.causal") is False
    if architecture not in ENCODERS and not (both_ways and kind == NONE):
        return None  # of one that generates, a pooling type of 0 says nothing
    return "rank" if has_head else "mean"
