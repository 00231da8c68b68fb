"""How a collection's texts are cut, for the model that embeds them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tabagent.catalog.layouts import folder_of
from tabagent.catalog.models import Model
from tabagent.paper import Splitting
from tabagent.stores.papers import Collection

CHUNK_TOKENS: Final = 256
CHUNK_OVERLAP: Final = 32
FRAME: Final = 24  # tokens that a model puts around a text, and of the headings before it
OTHER: Final = 0.7  # of the budget, where another model's tokenizer counts
OWN: Final = Path(__file__).parent.parent / "builtin" / "embed" / "tokenizer.json"


def chunk_tokens(model: Model, wanted: int | None) -> int:
    """Tokens of a chunk: what is wanted, as far as the model can read it at once."""
    most = max(model.context_length - FRAME, 32) if model.context_length else CHUNK_TOKENS
    return min(wanted or CHUNK_TOKENS, most)


def splitting_of(collection: Collection, model: Model) -> Splitting:
    """The model's own tokenizer counts where it lies beside it. GGUF files hold theirs inside,
    where only llama.cpp can use it: then ours counts, with room for the difference.
    """
    own = folder_of(model.path) / "tokenizer.json"
    tokens, overlap = collection.chunk_tokens, collection.chunk_overlap
    if model.format != "gguf" and own.is_file():
        return Splitting(str(own), tokens, overlap)
    return Splitting(str(OWN), max(int(tokens * OTHER), 16), int(overlap * OTHER))
