"""Vectors of what is read in the background, made when nobody waits for an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from tabagent.replies.vectors import Embedder

YIELD_S: Final = 2.0  # at most so long a batch waits for others' answers
LOOK_S: Final = 0.02
ROLE: Final = "passage"  # the prompt that models want before what answers a question


class PatientEmbedder:
    """`busy` says whether somebody waits for an answer of a model now."""

    def __init__(self, embedder: Embedder, busy: Callable[[], bool]) -> None:
        self._embedder, self._busy = embedder, busy

    async def passages(self, model: str, texts: Sequence[str]) -> list[bytes]:
        """A vector for each, of 32-bit floats. What is too long for the model is read in parts.

        Raises as `Embedder.vectors` does.
        """
        if not texts:
            return []
        await self.quiet()
        found = await self._embedder.vectors(
            model,
            [text if text.strip() else "-" for text in texts],
            pointers=[f"/texts/{index}" for index in range(len(texts))],
            truncate="split",
            roles=[ROLE] * len(texts),
        )
        return found.rows

    async def query(self, model: str, text: str) -> bytes:
        """The vector of a question."""
        found = await self._embedder.vectors(
            model, [text], pointers=["/query"], truncate="split", roles=["query"]
        )
        return found.rows[0]

    async def quiet(self) -> None:
        """Wait while answers are being written; not for ever, or nothing would ever be done."""
        deadline = monotonic() + YIELD_S
        while self._busy() and monotonic() < deadline:
            await asyncio.sleep(LOOK_S)
