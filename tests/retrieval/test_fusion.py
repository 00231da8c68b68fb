"""Rankings fused and varied, against what the papers' formulas give."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tabagent.retrieval.fusion import RANK, fuse, varied


def unit(*numbers: float) -> NDArray[np.float32]:
    vector = np.array(numbers, np.float32)
    return vector / np.linalg.norm(vector)


def test_a_score_is_the_sum_of_reciprocal_ranks() -> None:
    scores = fuse([[7, 8, 9], [9, 7]])
    assert RANK == 60
    assert scores == {
        7: pytest.approx(1 / 61 + 1 / 62),
        8: pytest.approx(1 / 62),
        9: pytest.approx(1 / 63 + 1 / 61),
    }
    assert sorted(scores, key=lambda i: -scores[i]) == [7, 9, 8]


def test_what_both_find_comes_before_what_one_finds_first() -> None:
    scores = fuse([[1, 2, 3], [4, 2, 3]])
    assert max(scores, key=lambda i: scores[i]) == 2


def test_what_stands_twice_in_a_ranking_counts_once() -> None:
    assert fuse([[5, 5, 6]]) == fuse([[5, 6]])
    assert fuse([]) == fuse([[], []]) == {}


def test_without_diversity_the_order_stays() -> None:
    vectors = {n: unit(1, n) for n in range(5)}
    score = {n: 5.0 - n for n in range(5)}
    assert varied([0, 1, 2, 3, 4], score, vectors, 3, 0.0) == [0, 1, 2]


def test_a_twin_of_what_was_chosen_waits() -> None:
    vectors = {0: unit(1, 0), 1: unit(1, 0.01), 2: unit(0, 1)}
    score = {0: 1.0, 1: 0.9, 2: 0.0}
    assert varied([0, 1, 2], score, vectors, 3, 0.6) == [0, 2, 1]


def test_relevance_and_likeness_are_weighed_as_the_formula_says() -> None:
    generator = np.random.default_rng(1)
    vectors = {n: unit(*generator.normal(size=8)) for n in range(30)}
    score = {n: float(generator.random()) for n in range(30)}
    order = sorted(score, key=lambda n: -score[n])
    high, low = max(score.values()), min(score.values())
    for diversity in (0.2, 0.5, 1.0):
        chosen: list[int] = []
        while len(chosen) < 10:
            worth = {
                n: (1 - diversity) * (score[n] - low) / (high - low)
                - diversity * max([float(vectors[n] @ vectors[c]) for c in chosen] + [0.0])
                for n in order
                if n not in chosen
            }
            chosen.append(max(worth, key=lambda n: worth[n]))
        assert varied(order, score, vectors, 10, diversity) == chosen


def test_vectors_of_different_models_are_not_compared() -> None:
    vectors = {0: unit(1, 0), 1: unit(1, 0, 0), 2: unit(1, 0)}
    assert varied([0, 1, 2], {0: 3.0, 1: 2.0, 2: 1.0}, vectors, 3, 0.9) == [0, 1, 2]


def test_edges() -> None:
    one = {0: unit(1, 0)}
    assert varied([], {}, {}, 3, 0.5) == []
    assert varied([1, 2], {1: 1.0, 2: 0.0}, {}, 1, 0.5) == [1]  # no vectors: the order stays
    assert varied([0], {0: 1.0}, one, 5, 1.0) == [0]
    assert varied([0, 1], {0: 1.0, 1: 1.0}, {0: unit(1, 0), 1: unit(0, 1)}, 0, 0.5) == []
