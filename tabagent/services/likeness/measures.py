"""What vectors of length 1 say of each other. A likeness is a cosine, -1 to 1.

numpy and scikit-learn are imported where they are used: a start does not wait for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

SEED: Final = 0  # clusters of the same texts are the same
NOISE: Final = -1  # HDBSCAN's label of what belongs to no cluster


def alike(left: Matrix, right: Matrix) -> Matrix:
    """[len(left), len(right)] cosines."""
    import numpy as np

    found: Matrix = np.clip(left @ right.T, -1.0, 1.0)
    return found


def best(scores: Sequence[float], count: int) -> list[int]:
    """The indexes of the highest scores, the highest first; equal ones in their order."""
    return sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:count]


def diverse(
    relevance: Sequence[float], likeness: Matrix, count: int, diversity: float
) -> list[int]:
    """Maximal marginal relevance: each next one is relevant and unlike those before it.

    `likeness` is of the candidates to each other; `diversity` 0 goes by relevance alone, 1 by
    unlikeness. Source: Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking for
    Reordering Documents and Producing Summaries", SIGIR 1998; `diversity` is 1 - lambda there.
    """
    import numpy as np

    worth = (1 - diversity) * np.asarray(relevance, float)
    nearest = np.zeros(len(worth))  # likeness to the nearest that was chosen
    chosen: list[int] = []
    while len(chosen) < min(count, len(worth)):
        gain = worth - diversity * nearest
        gain[chosen] = -np.inf
        index = int(gain.argmax())
        nearest = np.maximum(nearest, likeness[index]) if chosen else likeness[index].astype(float)
        chosen.append(index)
    return chosen


@dataclass(frozen=True, slots=True)
class Ranking:
    """How well queries found what is relevant to them, each a mean over the queries."""

    recall: dict[int, float]  # by k: the share of the relevant among the first k
    ndcg: dict[int, float]  # by k, of binary relevance
    mrr: float  # of the first relevant one's rank


def ranking(likeness: Matrix, relevant: Sequence[Iterable[int]], cutoffs: Sequence[int]) -> Ranking:
    """`likeness` is [queries, documents]; `relevant` has each query's documents, at least one.

    Source of nDCG: Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques",
    2002, with gain 1 and discount log2(rank + 1).
    """
    import numpy as np

    recalls = {k: list[float]() for k in cutoffs}
    gains = {k: list[float]() for k in cutoffs}
    reciprocal: list[float] = []
    for scores, wanted in zip(likeness.tolist(), map(set, relevant), strict=True):
        order = best(scores, len(scores))
        hits = np.array([index in wanted for index in order], float)
        discounts = 1 / np.log2(np.arange(2, len(order) + 2))
        reciprocal.append(1 / (int(np.argmax(hits)) + 1))
        for k in cutoffs:
            ideal = discounts[: min(k, len(wanted))].sum()
            recalls[k].append(float(hits[:k].sum()) / len(wanted))
            gains[k].append(float((hits * discounts)[:k].sum() / ideal))
    return Ranking(
        recall={k: float(np.mean(found)) for k, found in recalls.items()},
        ndcg={k: float(np.mean(found)) for k, found in gains.items()},
        mrr=float(np.mean(reciprocal)),
    )


def anisotropy(vectors: Matrix) -> float:
    """The mean cosine of two different vectors: near 0 they use the whole space, near 1 a cone.

    Source: Ethayarajh, "How Contextual are Contextualized Word Representations?", EMNLP 2019.
    """
    count = len(vectors)
    total = vectors.sum(axis=0, dtype="float64")
    own = float((vectors.astype("float64") ** 2).sum())
    return (float(total @ total) - own) / (count * (count - 1))


@dataclass(frozen=True, slots=True)
class Group:
    """A cluster: its members, and which of them is nearest to its middle."""

    members: list[int]
    representative: int


def groups(vectors: Matrix, count: int | None, smallest: int) -> tuple[list[Group], list[int]]:
    """Clusters, the largest first, and what belongs to none.

    `count` clusters by k-means; without it as many as HDBSCAN finds with at least `smallest`
    members. Vectors of length 1 are as near as their cosine says, whichever of the two it is.
    """
    from sklearn.cluster import HDBSCAN, KMeans

    if count is not None:
        labels = KMeans(count, random_state=SEED, n_init=10).fit_predict(vectors)
    elif len(vectors) < smallest:
        return [], list(range(len(vectors)))
    else:
        labels = HDBSCAN(min_cluster_size=smallest, copy=True).fit_predict(vectors)
    by_label: dict[int, list[int]] = {}
    for index, label in enumerate(labels.tolist()):
        by_label.setdefault(label, []).append(index)
    alone = by_label.pop(NOISE, [])
    found = [Group(members, _middle(vectors, members)) for members in by_label.values()]
    return sorted(found, key=lambda group: (-len(group.members), group.members)), alone


def _middle(vectors: Matrix, members: list[int]) -> int:
    inside = vectors[members]
    nearness = inside @ inside.mean(axis=0)
    return members[int(nearness.argmax())]
