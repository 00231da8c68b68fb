"""A choice with a place in llama.cpp's KV cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from tabagent.worker.generation import sequence
from tabagent.worker.generation.sampling import Sampler
from tabagent.worker.gguf.cells import Holder, Match

Generation: TypeAlias = sequence.Generation["Sequence"]


class Sequence(sequence.Choice):
    """One choice and where its tokens lie."""

    def __init__(
        self, generation: Generation, index: int, sampler: Sampler, piece: Callable[..., bytes]
    ) -> None:
        super().__init__(generation, index, sampler, piece)
        self.generation: Generation = generation
        self.holder: Holder | None = None  # its place in the KV cache
        self.awaits: Match | None = None  # computes what this one will begin with
        self.shared = 0  # of its computed tokens, so many are another's too
        self.draft: list[int] = []  # guesses in the batch, to be checked

    @property
    def left(self) -> int:
        """Tokens that are not computed yet: one while it generates, more in its prompt."""
        return len(self.tokens) - (self.holder.done if self.holder else 0)

    @property
    def place(self) -> int:
        """Its id in the context."""
        assert self.holder is not None
        return self.holder.id
