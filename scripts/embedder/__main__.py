"""`python -m scripts.embedder`: distil the built-in embedder, write it, and say how good it is."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from scripts.embedder import teacher
from scripts.embedder.card import card
from scripts.embedder.evaluate import REQUIRED, Agreement, evaluate
from scripts.embedder.export import export
from scripts.embedder.texts import fetch, sentences
from scripts.embedder.train import cached, first_table, train

ROOT = Path(__file__).resolve().parents[2]
LARGEST = 9 * 2**20


def main() -> int:
    """1 when the model is not good or not small enough."""
    parser = argparse.ArgumentParser(prog="python -m scripts.embedder", description=__doc__)
    parser.add_argument("--target", type=Path, default=ROOT / "tabagent/builtin/embed")
    parser.add_argument("--wordnet", type=Path, help="where its data files lie")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build" / "embedder", help="where vectors are kept"
    )
    parser.add_argument("--evaluate", action="store_true", help="only say how good it is")
    given = parser.parse_args()
    if given.evaluate:
        return _told(given.target, evaluate(given.target))
    texts = sentences(given.wordnet or fetch())
    learnt = cached(given.work / "teacher.npy", lambda: teacher.vectors(texts, progress=True))
    table, tokenizer = first_table()
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokens = [np.array(found.ids, np.int64) for found in tokenizer.encode_batch(texts)]
    kept = [n for n, ids in enumerate(tokens) if len(ids)]
    table = train(table, [tokens[n] for n in kept], learnt[kept])
    export(table, tokenizer, given.target, "")
    agreement = evaluate(given.target)
    text = card(agreement, len(table), _size(given.target), len(kept))
    (given.target / "README.md").write_text(text)
    return _told(given.target, agreement)


def _told(folder: Path, agreement: Agreement) -> int:
    print(f"{folder}: {_size(folder):,} bytes\n{agreement}")
    return 0 if agreement.top_1 >= REQUIRED and _size(folder) <= LARGEST else 1


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    sys.exit(main())
