"""Logprobs: how likely a token was, before sampling shaped what could follow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tabagent import wire
from tabagent.worker.generation.model import Logits
from tabagent.worker.generation.sampling import shortlist


def chance(logits: Logits, token: int, top: int, piece: Callable[[int], bytes]) -> wire.Chance:
    """The natural logarithm of `token`'s share in the softmax of `logits`, and the `top` likeliest."""
    most = logits.max()
    # float64: 151,000 small terms lose digits in float32.
    total = float(most) + float(np.log(np.exp(logits - most).sum(dtype=np.float64)))
    best: list[int] = []
    if top:
        near = shortlist(logits, top, set())
        best = near[np.argsort(-logits[near], kind="stable")[:top]].tolist()
    return wire.Chance(
        piece(token),
        float(logits[token]) - total,
        [(piece(other), float(logits[other]) - total) for other in best],
    )
