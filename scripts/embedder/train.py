"""A table of token vectors whose mean is what the teacher makes of a text.

It begins as model2vec distils it: the teacher reads each token by itself, principal components keep
256 of 384 numbers, and frequent tokens weigh less. Then it learns, with whole sentences: the student's
vector shall point where the teacher's does, and texts shall be as like each other as the teacher finds
them, which is what a search needs (relational distillation, arXiv:1904.05068).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scripts.embedder.teacher import Matrix, folder

WIDTH: Final = 256
BATCH: Final = 1024
EPOCHS: Final = 12
RATE: Final = 2e-3
HEAT: Final = 0.05  # how sharply likeness is compared


def first_table() -> tuple[Matrix, Any]:
    """[tokens, 256] and the tokenizer, as model2vec distils them."""
    from model2vec.distill import distill

    model = distill(model_name=str(folder()), pca_dims=WIDTH, sif_coefficient=1e-4)
    first: Matrix = model.embedding.astype(np.float32)
    return first, model.tokenizer


def projected(teacher: Matrix) -> Matrix:
    """The teacher's vectors in the 256 directions in which they differ most."""
    middle = teacher.mean(axis=0)
    _, _, axes = np.linalg.svd(teacher[:50_000] - middle, full_matrices=False)
    found: Matrix = (teacher @ axes[:WIDTH].T).astype(np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def train(
    table: Matrix, tokens: list[npt.NDArray[np.int64]], teacher: Matrix, *, seed: int = 0
) -> Matrix:
    """The table after learning. `tokens` and `teacher` are of the same texts."""
    import torch

    torch.manual_seed(seed)
    target = torch.from_numpy(projected(teacher))
    bag = torch.nn.EmbeddingBag.from_pretrained(
        torch.from_numpy(_turned(table, tokens, target.numpy())), freeze=False, mode="mean"
    )
    bag.weight.data /= bag.weight.data.norm(dim=1).mean()
    adam = torch.optim.Adam(bag.parameters(), lr=RATE)
    steps = EPOCHS * (len(tokens) // BATCH)
    pace = torch.optim.lr_scheduler.OneCycleLR(adam, RATE, total_steps=steps)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(tokens)).numpy()
        total = 0.0
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            lengths = np.array([0, *(len(tokens[n]) for n in chosen[:-1])]).cumsum()
            ids = torch.from_numpy(np.concatenate([tokens[n] for n in chosen]))
            made = torch.nn.functional.normalize(bag(ids, torch.from_numpy(lengths)))
            wanted = target[torch.from_numpy(chosen)]
            near = -(made * wanted).sum(dim=1).mean()
            mine, theirs = made @ made.T / HEAT, wanted @ wanted.T / HEAT
            mine.fill_diagonal_(-1e4)
            theirs.fill_diagonal_(-1e4)
            like = torch.nn.functional.kl_div(
                mine.log_softmax(dim=1), theirs.log_softmax(dim=1),
                log_target=True, reduction="batchmean",
            )  # fmt: skip
            loss = near + like
            adam.zero_grad()
            loss.backward()
            adam.step()
            pace.step()
            total += float(loss)
        print(f"epoch {epoch + 1}: loss {total / (steps / EPOCHS):.4f}", flush=True)
    learnt: Matrix = bag.weight.detach().numpy()
    return learnt


def _turned(table: Matrix, tokens: list[npt.NDArray[np.int64]], target: Matrix) -> Matrix:
    """The table, turned so that its means lie as near as a rotation brings them to their targets.

    (Orthogonal Procrustes: the components of single tokens are not those of sentences.)
    """
    some = range(min(20_000, len(tokens)))
    means = np.stack([table[tokens[n]].mean(axis=0) for n in some])
    left, _, right = np.linalg.svd(means.T @ target[: len(means)])
    turned: Matrix = (table @ (left @ right)).astype(np.float32)
    return turned


def cached(path: Path, make: Any) -> Matrix:
    """What `make` gives, kept in a file: the teacher takes the longest."""
    if path.is_file():
        kept: Matrix = np.load(path).astype(np.float32)
        return kept
    made: Matrix = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, made.astype(np.float16))
    return made
