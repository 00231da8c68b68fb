"""GGUF models that make vectors or rank documents, behind the worker's contract."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tabagent import wire
from tabagent.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    ModelCorrupt,
    TabAgentError,
    UnsupportedModel,
    WrongModelTask,
)
from tabagent.worker.backend import Counts, Work
from tabagent.worker.gguf import buffers, vocabulary
from tabagent.worker.gguf.binding import C
from tabagent.worker.gguf.native import ENGINE, Model, Offload
from tabagent.worker.gguf.pooling import Job, PoolingScheduler, Rows
from tabagent.worker.gguf.pooling_context import Part, PoolingContext, Tokens
from tabagent.worker.gguf.rank_pairs import RankPairs
from tabagent.worker.gguf.relevance import relevance

EMBED_TOKENS: Final = 65_536  # of all inputs of a request together
RANK_TOKENS: Final = 262_144  # of all pairs: the query is read again with every document
SHOWN: Final = 16  # faulty inputs that an error lists


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request's inputs as tokens, and how rows become its answer."""

    inputs: list[Tokens]
    answer: Callable[[Rows], dict[str, Any]]
    fault: Callable[[int], TabAgentError]


class PoolingBackend:
    """One GGUF model that pools."""

    engine = ENGINE

    def __init__(self) -> None:
        self._model: Model | None = None
        self._scheduler: PoolingScheduler | None = None  # None while it sleeps

    def load(self, command: wire.Load, progress: Callable[[float], None]) -> dict[str, Any]:
        """Load for what `command.pooling` says; facts name the width and the longest input."""
        if command.pooling is None:
            raise WrongModelTask("this model generates: it makes no vectors and ranks nothing")
        self._file, self._pooling = os.path.basename(command.path), command.pooling
        if command.draft_path:
            detail = "a model that generates nothing has no use for another that guesses"
            raise _invalid(detail, ["/draft_model"])
        self._command = command
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
        self._context = PoolingContext(model, command, command.pooling)
        self._pairs: RankPairs | None = None
        if command.pooling == "rank":
            self._relevance = relevance(model)
            self._pairs = RankPairs(model, self._context.limit)
        self._model = model
        self._probe(model)
        self._scheduler = PoolingScheduler(self._context, command.queue_wait_s)
        return {
            "device": "gpu" if command.n_gpu_layers else "cpu",
            "buffers": buffers.by_device(),
            "vocabulary": model.n_vocab,
            "n_ctx": self._context.limit,
            "kv_tokens": self._context.room,
            "dimensions": self._context.width,
            "pooling": command.pooling,
        }

    def _probe(self, model: Model) -> None:
        """Compute one input: a file of which llama.cpp dies does so now, and not on every request."""
        if self._pairs is not None:
            _, tokens = next(self._pairs.sequences("a", ["a"], first_window=True))
        else:
            tokens = model.tokenize("a", add_special=True, parse_special=False)
        self._context.compute([Part(0, 0, np.array(tokens, np.int32), ends=True)])
        self._context.forget(0)

    # ---- beside the engine's thread -------------------------------------------------------------
    def ask(self, command: wire.Render | wire.Tokenize | wire.Detokenize) -> dict[str, Any]:
        if isinstance(command, wire.Render):
            raise WrongModelTask("this model has no chat template: it makes vectors or ranks")
        return vocabulary.answer(self._loaded(), command)

    def prepare(self, command: Work) -> Prepared:
        """Tokenise all inputs and refuse what cannot be computed, before anything is."""
        match command:
            case wire.Embed(texts=[]):
                raise _invalid("there is no text", ["/input"])
            case wire.Rank(documents=[]):
                raise _invalid("there is no document", ["/documents"])
            case wire.Embed() if self._pooling != "rank":
                return self._prepare_embed(command)
            case wire.Rank() if self._pairs is not None:
                return self._prepare_rank(command, self._pairs)
            case wire.Embed():
                raise WrongModelTask("this model ranks documents: use /v1/rerank")
            case wire.Rank():
                raise WrongModelTask("this model makes embeddings and has no head that ranks")
            case wire.Generate():
                raise WrongModelTask("this model generates no text")

    def _prepare_embed(self, command: wire.Embed) -> Prepared:
        model, limit = self._loaded(), self._context.limit
        width, wanted = self._context.width, command.dimensions
        if wanted is not None and wanted > width:
            raise _invalid(f"this model's vectors have {width} numbers", ["/dimensions"])
        inputs = [
            model.tokenize(text, add_special=True, parse_special=False) for text in command.texts
        ]
        if empty := [index for index, tokens in enumerate(inputs) if not tokens]:
            raise _invalid("an input has no token", [_pointer(i, inputs) for i in empty])
        if command.truncate:
            closing = self._closing_tokens()
            inputs = [_cut(tokens, limit, closing) for tokens in inputs]
        _check_lengths(inputs, limit)
        _check_total(inputs, EMBED_TOKENS, "/input")
        counts = [len(tokens) for tokens in inputs]

        def fault(index: int, found: str = "NaN or infinity") -> TabAgentError:
            return self._senseless(_pointer(index, inputs), found)

        def answer(rows: Rows) -> dict[str, Any]:
            vectors = rows[:, :wanted]
            if command.normalise:
                lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
                for index in np.flatnonzero(lengths == 0):
                    raise fault(int(index), "a vector of zeros")
                vectors = (vectors / lengths).astype(np.float32)
            return {"vectors": [vector.tobytes() for vector in vectors], "tokens": counts}

        return Prepared([np.array(tokens, np.int32) for tokens in inputs], answer, fault)

    def _prepare_rank(self, command: wire.Rank, pairs: RankPairs) -> Prepared:
        found = pairs.sequences(command.query, command.documents, first_window=command.truncate)
        owners, inputs = [], []
        for index, tokens in found:
            owners.append(index)
            inputs.append(np.array(tokens, np.int32))
        _check_total(inputs, RANK_TOKENS, "/documents")

        def fault(index: int) -> TabAgentError:
            return self._senseless(f"/documents/{owners[index]}", "NaN or infinity")

        def answer(rows: Rows) -> dict[str, Any]:
            scores = np.zeros(len(command.documents))
            np.maximum.at(scores, owners, self._relevance(rows))  # all are at least 0
            return {"scores": scores.tolist(), "tokens": sum(map(len, inputs))}

        return Prepared(inputs, answer, fault)

    def _closing_tokens(self) -> int:
        """How many special tokens end a text; they stay when it is cut."""
        vocab = self._loaded().vocab
        frame = self._loaded().tokenize("", add_special=True, parse_special=False)
        starts = bool(frame) and frame[0] == C.llama_vocab_bos(vocab)
        return len(frame) - starts

    def _senseless(self, pointer: str, found: str) -> ModelCorrupt:
        """The error of an input of which no usable numbers come: weights or quantisation are bad."""
        detail = f"the model computes {found}"
        return ModelCorrupt(
            f"{pointer}: {detail}",
            param=pointer.split("/")[1],
            file=self._file,
            check="numbers",
            expected="finite numbers that are not all zero",
            actual=found,
            errors=[{"pointer": pointer, "detail": detail}],
        )

    def _loaded(self) -> Model:
        assert self._model is not None, "the gateway loads before it asks"
        return self._model

    # ---- the engine's thread --------------------------------------------------------------------
    def submit(self, command: Work, prepared: Prepared) -> None:
        if self._scheduler is None:  # it sleeps
            limit = self._context.limit  # what was prepared is no longer than that
            self._context = PoolingContext(self._loaded(), self._command, self._pooling, limit)
            self._scheduler = PoolingScheduler(self._context, self._command.queue_wait_s)
        self._scheduler.submit(Job(command.id, prepared.inputs, prepared.answer, prepared.fault))

    def cancel(self, id: int, *, halt: bool) -> list[wire.Event]:
        if self._scheduler:
            self._scheduler.cancel(id)
        return []  # half of the vectors are no answer

    def step(self) -> list[wire.Event]:
        assert self._scheduler is not None
        return self._scheduler.step()

    @property
    def busy(self) -> bool:
        return self._scheduler is not None and self._scheduler.busy

    def counts(self) -> Counts:
        scheduler = self._scheduler
        if scheduler is None:
            return Counts(0, 0, 0)
        steps = scheduler.steps + self._context.progress
        return Counts(scheduler.running, scheduler.waiting, steps)

    def sleep(self) -> bool:
        """Free the context; what it was made for stays known."""
        if self._scheduler is None or self._scheduler.busy:
            return False
        self._scheduler = None
        self._context.close()
        return True

    def close(self) -> None:
        if self._scheduler:
            self._context.close()
        if self._model:
            self._model.close()


def _cut(tokens: list[int], limit: int, closing: int) -> list[int]:
    if len(tokens) <= limit:
        return tokens
    return tokens[: limit - closing] + tokens[len(tokens) - closing :]


def _check_lengths(inputs: Sequence[list[int]], limit: int) -> None:
    long = [index for index, tokens in enumerate(inputs) if len(tokens) > limit]
    if not long:
        return
    first = len(inputs[long[0]])
    raise ContextLengthExceeded(
        f"{_pointer(long[0], inputs)} has {first} tokens, and this model reads {limit} at once: "
        'shorten it, or send truncate: "end"',
        param="input",
        prompt_tokens=first,
        context_length=limit,
        max_tokens=None,
        errors=[
            {"pointer": _pointer(i, inputs), "detail": f"has {len(inputs[i])} tokens of {limit}"}
            for i in long[:SHOWN]
        ],
    )


def _check_total(inputs: Sequence[Any], limit: int, pointer: str) -> None:
    total = sum(len(tokens) for tokens in inputs)
    if total > limit:
        raise _invalid(f"{total} tokens in all, of which one request may have {limit}", [pointer])


def _invalid(detail: str, pointers: list[str]) -> TabAgentError:
    return InvalidRequest(
        f"{pointers[0]}: {detail}",
        param=pointers[0].split("/")[1],
        errors=[{"pointer": pointer, "detail": detail} for pointer in pointers[:SHOWN]],
    )


def _pointer(index: int, inputs: Sequence[Any]) -> str:
    """Where the request has this input, which it may give without a list when it is the only one."""
    return f"/input/{index}" if len(inputs) > 1 else "/input"
