"""What engines share that compute padded batches of whole texts, read by a `tokenizer.json`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tabagent import wire
from tabagent.errors import UnsupportedModel
from tabagent.worker.pooling.batches import BatchContext
from tabagent.worker.pooling.model import Broken, Context, Ids, Part, Row, Tokens, Window
from tabagent.worker.pooling.pools import pooled
from tabagent.worker.pooling.requests import scaled
from tabagent.worker.pooling.texts import Texts

DEVICE_SCALE = 16  # times as much goes together on a device


class Encoder(ABC):
    """A PoolingModel that lacks the engine: `load` sets these, `_run` computes a batch.

    `_run` takes ids, mask and kinds, [texts, tokens], and whether each token is asked for. It
    returns [texts, tokens, numbers], or [texts, numbers] where texts are pooled already.
    """

    by_token = True
    limit: int
    width: int
    _texts: Texts
    _pooling: wire.Pooling
    _reading: wire.Reading
    _lanes = 1
    _on_device = False

    @abstractmethod
    def _run(self, ids: Ids, mask: Ids, kinds: Ids, by_token: bool) -> npt.NDArray[Any]:
        """See above."""

    def _pool(self, output: npt.NDArray[Any], counted: npt.NDArray[np.bool_]) -> Row:
        if output.ndim == 2:
            return output.astype(np.float32, copy=False)
        return pooled(output, counted, self._pooling)

    def open(self) -> Context:
        scale = DEVICE_SCALE if self._on_device else 1
        return BatchContext(self.limit, self._lanes, self._run, self._pool, scale=scale)

    def _probe(self) -> None:
        """Compute one text: what cannot be is found now, and not on every request."""
        (tokens,) = self.sequences(["the"])
        context = self.open()
        (row,) = context.compute([Part(0, 0, tokens, True, by_token=self._pooling == "spans")])
        context.close()
        if row is None or isinstance(row, Broken):
            why = row.why if row else "nothing"
            raise UnsupportedModel(f"it computes {why}", architecture="unknown")
        self.width = int(row.shape[-1])
        labels = len(self._reading.labels)
        if self._pooling in ("labels", "spans") and labels != self.width:
            raise UnsupportedModel(
                f"its head has {self.width} outputs, and config.json names {labels}",
                architecture="unknown",
            )

    # ---- what the tokenizer does ----------------------------------------------------------------
    def ask(self, command: wire.Tokenize | wire.Detokenize) -> dict[str, Any]:
        return self._texts.ask(command)

    def sequences(self, texts: Sequence[str], prompt: str = "") -> list[Tokens]:
        return self._texts.sequences(texts, prompt)

    def cut(self, tokens: Tokens) -> Tokens:
        return self._texts.cut(tokens)

    def windows(self, text: str, prompt: str = "") -> list[Tokens]:
        return self._texts.windows(text, prompt)

    def marked(self, text: str) -> list[Window]:
        return self._texts.marked(text)

    def pairs(
        self, query: str, documents: list[str], *, first_window: bool
    ) -> Iterator[tuple[int, Tokens]]:
        return self._texts.pairs(query, documents, first_window=first_window)

    def relevance(self, rows: Row) -> npt.NDArray[np.float64]:
        """The one output of a head that ranks, as the model scales it."""
        return scaled(rows[:, 0], self._reading.scale)

    def sleep(self) -> bool:
        return False  # a context is but threads

    def close(self) -> None:  # noqa: B027  # engines have nothing else to do
        """The process's end gives everything back."""
