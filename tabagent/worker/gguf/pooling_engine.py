"""GGUF models that make vectors or rank documents, as the pooling backend needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tabagent import wire
from tabagent.errors import UnsupportedModel, WrongModelTask
from tabagent.worker.binding import C
from tabagent.worker.generation import vocabulary
from tabagent.worker.gguf import buffers
from tabagent.worker.gguf.native import ENGINE, Model, Offload
from tabagent.worker.gguf.pooling_context import POOLING, PoolingContext
from tabagent.worker.gguf.rank_pairs import RankPairs
from tabagent.worker.gguf.relevance import relevance
from tabagent.worker.pooling.backend import PoolingBackend
from tabagent.worker.pooling.model import Context, Part, Row, Tokens, Window
from tabagent.worker.pooling.windows import window_starts


def backend() -> PoolingBackend:
    return PoolingBackend(GgufPooling())


class GgufPooling:
    """One GGUF model that pools."""

    engine = ENGINE
    by_token = False

    def __init__(self) -> None:
        self._model: Model | None = None
        self._first: PoolingContext | None = None  # made by the load

    def load(self, command: wire.Load, progress: Callable[[float], None]) -> dict[str, Any]:
        pooling = command.pooling
        if pooling is None or pooling not in POOLING:
            raise WrongModelTask(f"llama.cpp does not pool by {pooling}")
        self._command, self._pooling = command, pooling
        model = Model(
            command.path,
            progress,
            mmap=command.mmap,
            mlock=command.mlock,
            offload=Offload(command.n_gpu_layers, command.main_gpu, tuple(command.tensor_split)),
        )
        if C.llama_model_has_encoder(model.pointer) and C.llama_model_has_decoder(model.pointer):
            raise UnsupportedModel(
                "a model with both an encoder and a decoder makes no vectors here",
                architecture=model.meta("general.architecture"),
            )
        context = PoolingContext(model, command, pooling)
        self.limit, self.width = context.limit, context.width
        self._pairs: RankPairs | None = None
        if pooling == "rank":
            self._relevance = relevance(model)
            self._pairs = RankPairs(model, self.limit)
        self._model = model
        self._probe(context)
        self._first = context
        return {
            "device": "gpu" if command.n_gpu_layers else "cpu",
            "buffers": buffers.by_device(),
            "vocabulary": model.n_vocab,
            "kv_tokens": context.room,
        }

    def _probe(self, context: PoolingContext) -> None:
        """Compute one input: a file of which llama.cpp dies does so now, and not on every request."""
        if self._pairs is not None:
            _, tokens = next(self.pairs("a", ["a"], first_window=True))
        else:
            (tokens,) = self.sequences(["a"])
        context.compute([Part(0, 0, tokens, ends=True)])
        context.forget(0)

    def open(self) -> Context:
        if self._first is not None:
            context, self._first = self._first, None
            return context
        # What was prepared meanwhile is no longer than the first one's limit.
        return PoolingContext(self._loaded(), self._command, self._pooling, self.limit)

    def ask(self, command: wire.Tokenize | wire.Detokenize) -> dict[str, Any]:
        return vocabulary.answer(self._loaded(), command)

    # ---- sequences ------------------------------------------------------------------------------
    def sequences(self, texts: Sequence[str], prompt: str = "") -> list[Tokens]:
        return [np.array(self._whole(prompt + text), np.int32) for text in texts]

    def cut(self, tokens: Tokens) -> Tokens:
        _, closing = self._frame()
        return np.concatenate([tokens[: self.limit - closing], tokens[len(tokens) - closing :]])

    def windows(self, text: str, prompt: str = "") -> list[Tokens]:
        opening, closing = self._frame()
        whole = self.sequences([text], prompt)[0]
        body = whole[opening : len(whole) - closing]
        room = self.limit - opening - closing
        return [
            np.concatenate(
                [whole[:opening], body[start : start + room], whole[len(whole) - closing :]]
            )
            for start in window_starts(len(body), room)
        ]

    def marked(self, text: str) -> list[Window]:
        raise WrongModelTask("llama.cpp labels no tokens")

    def pairs(
        self, query: str, documents: list[str], *, first_window: bool
    ) -> Iterator[tuple[int, Tokens]]:
        assert self._pairs is not None, "only models that rank are asked for pairs"
        for index, tokens in self._pairs.sequences(query, documents, first_window=first_window):
            yield index, np.array(tokens, np.int32)

    def relevance(self, rows: Row) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = self._relevance(rows)
        return found

    def _frame(self) -> tuple[int, int]:
        """How many special tokens begin and end a text."""
        frame = self._whole("")
        starts = bool(frame) and frame[0] == C.llama_vocab_bos(self._loaded().vocab)
        return int(starts), len(frame) - starts

    def _whole(self, text: str) -> list[int]:
        return self._loaded().tokenize(text, add_special=True, parse_special=False)

    def _loaded(self) -> Model:
        assert self._model is not None, "the gateway loads before it asks"
        return self._model

    def sleep(self) -> bool:
        return True

    def close(self) -> None:
        if self._first:
            self._first.close()
        if self._model:
            self._model.close()
