"""Two rankings into one, and one ranking into a varied one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RANK: Final = 60
"""The constant of reciprocal rank fusion (Cormack, Clarke, Büttcher, SIGIR 2009)."""


def fuse(rankings: Sequence[Sequence[int]]) -> dict[int, float]:
    """A score for each item: the sum of 1 / (60 + its rank) over the rankings that have it."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(dict.fromkeys(ranking), 1):
            scores[item] = scores.get(item, 0.0) + 1 / (RANK + rank)
    return scores


def varied(
    order: Sequence[int],
    score: Mapping[int, float],
    vectors: Mapping[int, NDArray[np.float32]],
    count: int,
    diversity: float,
) -> list[int]:
    """Maximal marginal relevance (Carbonell, Goldstein, SIGIR 1998).

    Of each next item counts its own score, from 0 to 1 within this ranking, less its likeness to
    the most similar one chosen before; `diversity`, from 0 to 1, is how much of the one and the
    other.
    """
    rest = [item for item in order if item in vectors]
    if not rest:
        return list(order[:count])
    high, low = max(score[i] for i in rest), min(score[i] for i in rest)
    width = (high - low) or 1.0
    chosen: list[int] = []
    likeness = dict.fromkeys(rest, 0.0)  # to the most similar of the chosen
    while rest and len(chosen) < count:
        best = max(
            rest,
            key=lambda i: (1 - diversity) * (score[i] - low) / width - diversity * likeness[i],
        )
        rest.remove(best)
        chosen.append(best)
        for item in rest:
            if vectors[item].shape == vectors[best].shape:  # else they are of different models
                likeness[item] = max(likeness[item], float(vectors[item] @ vectors[best]))
    return chosen
