"""How the vectors of a text's tokens become one: sentence-transformers' `Pooling`, in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tabagent import wire


def pooled(
    vectors: npt.NDArray[Any], counted: npt.NDArray[np.bool_], pooling: wire.Pooling
) -> npt.NDArray[np.float32]:
    """[texts, tokens, numbers] to [texts, numbers], of the tokens that count.

    A text of which no token counts becomes zeros.
    """
    vectors = vectors.astype(np.float32, copy=False)
    texts = np.arange(len(vectors))
    found: npt.NDArray[np.float32]
    match pooling:
        case "mean":
            weights = counted.astype(np.float32)
            sums = np.einsum("tkn,tk->tn", vectors, weights)
            found = sums / np.maximum(weights.sum(axis=1, keepdims=True), 1)
        case "cls":
            found = vectors[texts, counted.argmax(axis=1)]
        case "last":
            found = vectors[texts, counted.shape[1] - 1 - counted[:, ::-1].argmax(axis=1)]
        case "max":
            found = np.where(counted[..., None], vectors, -np.inf).max(axis=1)
        case _:
            raise AssertionError(f"{pooling} makes no vector")
    found[counted.sum(axis=1) == 0] = 0
    return found
