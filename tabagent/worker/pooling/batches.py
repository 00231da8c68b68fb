"""Whole sequences in an engine that takes padded batches: like lengths together, several at once.

Padding is computed like text, so what shares a batch should be of one length; and on two cores two
batches side by side, with a thread each, are a seventh faster than one after the other with two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tabagent.worker.pooling.model import Broken, Ids, Part, Row

BUDGET: Final = 512  # tokens of a batch, padding included; more was not faster
STEP: Final = 2048  # tokens between two looks at who else waits, for each lane
SEQUENCES: Final = 512
LEAST: Final = 64  # tokens that are worth a batch
PADDED: Final = 1.15  # of what texts have, with what fills them up
ALONE: Final = 1024  # tokens; a longer text is computed by itself

Run = Callable[[Ids, Ids, Ids, bool], npt.NDArray[Any]]
"""ids, mask and kinds, and whether each token is asked for: the output."""
Pool = Callable[[npt.NDArray[Any], npt.NDArray[np.bool_]], Row]
"""[texts, tokens, numbers] and which tokens count: [texts, numbers]."""


class BatchContext:
    """Room for whole sequences. `run` computes a batch, `pool` makes a row of each text in it."""

    chunked = False
    sequences = SEQUENCES

    def __init__(self, limit: int, lanes: int, run: Run, pool: Pool, *, scale: int = 1) -> None:
        """`scale`: how many times as much goes together, on devices that are fast at much."""
        self._budget, self.batch = BUDGET * scale, STEP * scale * lanes
        self._count = lanes
        self.room = limit + self.batch
        self.progress = 0
        self._run, self._pool = run, pool
        self._lanes = ThreadPoolExecutor(lanes, thread_name_prefix="lane")

    def compute(self, parts: Sequence[Part]) -> list[Row | Broken | None]:
        rows: list[Row | Broken | None] = [None] * len(parts)
        groups = self._groups(parts)
        # Attention's matrices grow with the square of a length: not two of the large ones at once.
        alone = [group for group in groups if len(parts[group[0]].tokens) > ALONE]
        together = [group for group in groups if len(parts[group[0]].tokens) <= ALONE]
        work = partial(self._batch, parts)
        found = chain(self._lanes.map(work, together), map(work, alone))
        for group, computed in zip([*together, *alone], found, strict=True):
            for index, row in zip(group, computed, strict=True):
                rows[index] = row
        return rows

    def _groups(self, parts: Sequence[Part]) -> list[list[int]]:
        """Places of parts that are computed together, the longest first."""
        groups: list[list[int]] = []
        budget = self._shared_out(sum(len(part.tokens) for part in parts))
        order = sorted(range(len(parts)), key=lambda i: (parts[i].by_token, -len(parts[i].tokens)))
        for index in order:
            group = groups[-1] if groups else []
            longest = len(parts[group[0]].tokens) if group else 0
            like = bool(group) and parts[group[0]].by_token == parts[index].by_token
            if like and longest * (len(group) + 1) <= budget:
                group.append(index)
            else:
                groups.append([index])
        return groups

    def _shared_out(self, tokens: int) -> int:
        """The most tokens of a batch, so that all lanes have as many batches: none waits for others."""
        batches = -(-tokens // self._budget)
        even = -(-batches // self._count) * self._count
        return min(self._budget, max(LEAST, round(tokens / even * PADDED)))

    def _batch(self, parts: Sequence[Part], group: list[int]) -> Sequence[Row | Broken]:
        try:
            return self._computed([parts[index] for index in group])
        except Exception as error:  # the engine's, of any kind: whose fault it is will be seen
            if len(group) == 1:
                return [Broken(f"nothing: {str(error)[:200]}")]
            return [row for index in group for row in self._batch(parts, [index])]
        finally:
            self.progress += 1

    def _computed(self, parts: Sequence[Part]) -> list[Row | Broken]:
        longest = max(len(part.tokens) for part in parts)
        ids, mask, kinds = (np.zeros((len(parts), longest), np.int64) for _ in range(3))
        counted = np.zeros(ids.shape, np.bool_)
        for row, part in enumerate(parts):
            end = len(part.tokens)
            ids[row, :end], kinds[row, :end] = part.tokens["id"], part.tokens["kind"]
            mask[row, :end] = 1
            counted[row, :end] = part.tokens["pooled"]
        by_token = parts[0].by_token
        output = self._run(ids, mask, kinds, by_token)
        if by_token:
            return [
                output[row, : len(part.tokens)].astype(np.float32) for row, part in enumerate(parts)
            ]
        return list(self._pool(output, counted).astype(np.float32))

    def forget(self, sequence: int) -> None:
        """Nothing of a sequence stays."""

    def clear(self) -> None:
        """Nothing of any stays."""

    def close(self) -> None:
        self._lanes.shutdown()
