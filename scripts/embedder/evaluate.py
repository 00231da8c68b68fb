"""How well the embedder finds what its teacher finds, through the engine that serves it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from scripts.embedder.teacher import vectors

QUERIES: Final = Path(__file__).parent / "queries.tsv"
REQUIRED: Final = 0.9
FIRST: Final = 10

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Agreement:
    """`top_1` and `teacher_top_1`: queries whose own passage comes first, of all. `likeness`:
    Spearman's rank correlation of all likenesses with the teacher's. `shared`: passages that both
    have among their first ten, of ten.
    """

    top_1: float
    mrr: float
    teacher_top_1: float
    likeness: float
    passages: float
    shared: float

    def __str__(self) -> str:
        return (
            f"top-1 {self.top_1:.0%} (teacher {self.teacher_top_1:.0%}), MRR {self.mrr:.3f}, "
            f"Spearman with the teacher {self.likeness:.3f} over queries and passages and "
            f"{self.passages:.3f} among passages, {self.shared:.0%} of the teacher's first ten"
        )


def queries() -> tuple[list[str], list[str]]:
    """100 questions, and the passage that answers each: a page's title and a sentence of it."""
    rows = [line.split("\t") for line in QUERIES.read_text().splitlines()]
    return [row[0] for row in rows], [f"{title}. {text}" for _, title, text in rows]


def evaluate(folder: Path) -> Agreement:
    asked, told = queries()
    mine = student(folder, asked) @ student(folder, told).T
    theirs_asked, theirs_told = vectors(asked), vectors(told)
    theirs = theirs_asked @ theirs_told.T
    among = student(folder, told)
    own = np.arange(len(asked))
    ranks = (mine > mine[own, own][:, None]).sum(axis=1) + 1
    pairs = np.triu_indices(len(told), 1)
    first, their_first = (np.argsort(-m, axis=1)[:, :FIRST] for m in (mine, theirs))
    shared = [len(set(a) & set(b)) / FIRST for a, b in zip(first, their_first, strict=True)]
    return Agreement(
        top_1=float((ranks == 1).mean()),
        mrr=float((1 / ranks).mean()),
        teacher_top_1=float((theirs.argmax(axis=1) == own).mean()),
        likeness=_spearman(mine.ravel(), theirs.ravel()),
        passages=_spearman((among @ among.T)[pairs], (theirs_told @ theirs_told.T)[pairs]),
        shared=float(np.mean(shared)),
    )


def student(folder: Path, texts: list[str]) -> Matrix:
    """[texts, numbers], of length 1, as the model's file gives them."""
    import onnxruntime
    from tokenizers import Tokenizer

    (file,) = (folder / "onnx").glob("*.onnx")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = []
    for text in texts:
        ids = np.array([tokenizer.encode(text).ids], np.int64)
        row = session.run(None, {"input_ids": ids})[0][0].mean(axis=0)
        rows.append(row / np.linalg.norm(row))
    return np.stack(rows)


def _spearman(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    ranks = [np.argsort(np.argsort(values)).astype(np.float64) for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
