"""What a request becomes: sequences that a model computes, and how their rows make the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tabagent import wire
from tabagent.errors import TabAgentError, UnsupportedParameter, WrongModelTask
from tabagent.worker.backend import Work
from tabagent.worker.pooling import faults, spans
from tabagent.worker.pooling.faults import pointer_of
from tabagent.worker.pooling.model import PoolingModel, Row, Tokens

EMBED_TOKENS: Final = 65_536  # of all inputs of a request together
RANK_TOKENS: Final = 262_144  # of all pairs: the query is read again with every document

Floats = npt.NDArray[np.float64]
WAYS_OUT: Final = 'truncate: "end" or "split"'


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request's inputs as tokens, and how rows become its answer."""

    inputs: list[Tokens]
    answer: Callable[[list[Row]], dict[str, Any]]
    fault: Callable[[int, str], TabAgentError]
    by_token: bool = False


@dataclass(frozen=True, slots=True)
class Requests:
    """Prepares what is asked of `model`, which pools as `pooling` says."""

    model: PoolingModel
    pooling: wire.Pooling
    reading: wire.Reading
    file: str

    def prepare(self, command: Work) -> Prepared:
        """Tokenise all inputs and refuse what cannot be computed, before anything is."""
        match command, self.pooling:
            case wire.Embed(texts=[]) | wire.Label(texts=[]) | wire.Mark(texts=[]), _:
                raise faults.invalid("there is no text", ["/input"])
            case wire.Rank(documents=[]), _:
                raise faults.invalid("there is no document", ["/documents"])
            case wire.Embed(), "mean" | "cls" | "last" | "max":
                return self._embed(command)
            case wire.Rank(), "rank":
                return self._rank(command)
            case wire.Rank(), "mean" | "cls" | "last" | "max":
                return self._compare(command)
            case wire.Label(), "labels":
                return self._label(command)
            case wire.Mark(), "spans":
                return self._mark(command)
        raise WrongModelTask(_mismatch(command, self.pooling))

    # ---- vectors --------------------------------------------------------------------------------
    def _embed(self, command: wire.Embed) -> Prepared:
        wanted = command.dimensions
        if wanted is not None and wanted > self.model.width:
            raise faults.invalid(
                f"this model's vectors have {self.model.width} numbers", ["/dimensions"]
            )
        prompt = self._prompt(command.prompt, lenient=command.lenient)
        whole = self.model.sequences(command.texts, prompt)
        owners, inputs = self._fitted(command.texts, whole, command.truncate, prompt)
        counts = _per_owner(owners, [len(tokens) for tokens in inputs], len(command.texts))

        def unit(rows: Floats, texts: Sequence[int]) -> Floats:
            """Rows of length 1; `texts` says which text each is of."""
            lengths = np.linalg.norm(rows, axis=1, keepdims=True)
            for index in np.flatnonzero(lengths == 0):
                pointer = pointer_of(texts[int(index)], command.texts)
                raise faults.senseless(self.file, pointer, "a vector of zeros")
            units: Floats = rows / lengths
            return units

        def answer(rows: list[Row]) -> dict[str, Any]:
            vectors = np.stack(rows)[:, :wanted].astype(np.float64)
            if len(owners) > len(command.texts):  # texts in parts: their mean, by tokens
                weights = np.array([len(tokens) for tokens in inputs], np.float64)[:, None]
                sums = np.zeros((len(command.texts), vectors.shape[1]))
                np.add.at(sums, owners, unit(vectors, owners) * weights)
                vectors = sums
            if command.normalise:
                vectors = unit(vectors, range(len(command.texts)))
            packed = vectors.astype(np.float32)
            return {"vectors": [vector.tobytes() for vector in packed], "tokens": counts}

        return Prepared(inputs, answer, self._faulty(owners, command.texts))

    def _faulty(
        self, owners: Sequence[int], texts: list[str]
    ) -> Callable[[int, str], TabAgentError]:
        """The error of an input, which is of the text that `owners` says."""
        return lambda index, found: faults.senseless(
            self.file, pointer_of(owners[index], texts), found
        )

    def _parts(self, tokens: Tokens, text: str, prompt: str, *, first_alone: bool) -> list[Tokens]:
        """A text as sequences that the model can read: windows of a long one, or its beginning."""
        if len(tokens) <= self.model.limit:
            return [tokens]
        return [self.model.cut(tokens)] if first_alone else self.model.windows(text, prompt)

    def _prompt(self, name: str | None, *, lenient: bool) -> str:
        prompts = self.reading.prompts
        if name is None or (lenient and name not in prompts):
            name = self.reading.default_prompt
            return prompts.get(name, "") if name else ""
        if name not in prompts:
            known = ", ".join(sorted(prompts)) or "none"
            raise faults.invalid(f"this model's prompts are: {known}", ["/prompt_name"])
        return prompts[name]

    def _fitted(
        self, texts: list[str], whole: list[Tokens], truncate: wire.Truncate, prompt: str = ""
    ) -> tuple[list[int], list[Tokens]]:
        """Sequences that the model can read, and which text each of them is of."""
        if empty := [index for index, tokens in enumerate(whole) if not len(tokens)]:
            raise faults.invalid("an input has no token", [pointer_of(i, whole) for i in empty])
        if truncate == "error":
            faults.check_lengths(whole, self.model.limit, ways_out=WAYS_OUT)
        owners: list[int] = []
        inputs: list[Tokens] = []
        for index, tokens in enumerate(whole):
            parts = self._parts(tokens, texts[index], prompt, first_alone=truncate == "end")
            owners += [index] * len(parts)
            inputs += parts
        faults.check_total(inputs, EMBED_TOKENS, "/input")
        return owners, inputs

    # ---- ranks ----------------------------------------------------------------------------------
    def _rank(self, command: wire.Rank) -> Prepared:
        if command.method not in ("auto", "cross-encoder"):
            raise UnsupportedParameter(
                f"this model reads query and document together: it has no {command.method}",
                param="method",
            )
        owners: list[int] = []
        inputs: list[Tokens] = []
        for index, tokens in self.model.pairs(
            command.query, command.documents, first_window=command.truncate
        ):
            owners.append(index)
            inputs.append(tokens)
        faults.check_total(inputs, RANK_TOKENS, "/documents")

        def fault(index: int, found: str) -> TabAgentError:
            return faults.senseless(self.file, f"/documents/{owners[index]}", found)

        def answer(rows: list[Row]) -> dict[str, Any]:
            relevance = self.model.relevance(np.stack(rows))
            return {
                "scores": _best(owners, relevance, len(command.documents)),
                "tokens": sum(map(len, inputs)),
                "method": "cross-encoder",
            }

        return Prepared(inputs, answer, fault)

    def _compare(self, command: wire.Rank) -> Prepared:
        """Rank with a model that makes vectors: by whole texts, or token by token.

        The second is MaxSim: each token of the query counts with the likest of the document, and
        their mean is the score (Khattab and Zaharia, ColBERT, 2020, arXiv:2004.12832).
        """
        if command.method == "cross-encoder":
            raise WrongModelTask("this model makes embeddings and has no head that ranks")
        late = command.method == "late-interaction"
        if late and not self.model.by_token:
            raise UnsupportedParameter(
                "this model's engine gives no vectors of single tokens: take similarity",
                param="method",
            )
        asked = self._prompt("query", lenient=True)
        (query,) = self.model.sequences([command.query], asked)
        if not len(query):
            raise faults.invalid("the query has no token", ["/query"])
        if len(query) > self.model.limit:
            raise faults.query_too_long(len(query), self.model.limit)
        told = self._prompt("passage", lenient=True)
        whole = self.model.sequences(command.documents, told)
        owners, inputs = [-1], [query]
        for index, tokens in enumerate(whole):
            if not len(tokens):
                continue  # nothing is as unlike as can be
            text = command.documents[index]
            parts = self._parts(tokens, text, told, first_alone=command.truncate)
            owners += [index] * len(parts)
            inputs += parts
        faults.check_total(inputs, EMBED_TOKENS if late else RANK_TOKENS, "/documents")

        def fault(index: int, found: str) -> TabAgentError:
            at = owners[index]
            return faults.senseless(self.file, "/query" if at < 0 else f"/documents/{at}", found)

        def answer(rows: list[Row]) -> dict[str, Any]:
            units = [_units(row.astype(np.float64)) for row in rows]
            like = [float((units[0] @ unit.T).max(axis=-1).mean()) for unit in units[1:]]
            return {
                "scores": _best(owners[1:], like, len(command.documents)),
                "tokens": sum(map(len, inputs)),
                "method": "late-interaction" if late else "similarity",
            }

        return Prepared(inputs, answer, fault, by_token=late)

    # ---- labels ---------------------------------------------------------------------------------
    def _label(self, command: wire.Label) -> Prepared:
        whole = self.model.sequences(command.texts)
        owners, inputs = self._fitted(command.texts, whole, command.truncate)
        lengths = [len(tokens) for tokens in inputs]
        counts = _per_owner(owners, lengths, len(command.texts))

        def answer(rows: list[Row]) -> dict[str, Any]:
            scores = scaled(np.stack(rows), self.reading.scale)
            sums = np.zeros((len(command.texts), scores.shape[1]))
            np.add.at(sums, owners, scores * np.array(lengths)[:, None])
            return {"scores": (sums / np.array(counts)[:, None]).tolist(), "tokens": counts}

        return Prepared(inputs, answer, self._faulty(owners, command.texts))

    def _mark(self, command: wire.Mark) -> Prepared:
        windows = [self.model.marked(text) for text in command.texts]
        inputs = [window.tokens for own in windows for window in own]
        owners = [index for index, own in enumerate(windows) for _ in own]
        faults.check_total(inputs, EMBED_TOKENS, "/input")
        counts = _per_owner(owners, [len(tokens) for tokens in inputs], len(windows))

        def answer(rows: list[Row]) -> dict[str, Any]:
            left = iter(rows)
            found = []
            for text, own in zip(command.texts, windows, strict=True):
                scores = [scaled(next(left), "softmax") for _ in own]
                found.append(spans.named(text, own, scores, self.reading.labels))
            return {"spans": found, "tokens": counts}

        return Prepared(inputs, answer, self._faulty(owners, command.texts), by_token=True)


def scaled(rows: Row | Floats, scale: wire.Scale) -> Floats:
    """Outputs of a head, [..., outputs], as scores."""
    logits = rows.astype(np.float64)
    if scale == "sigmoid":
        scores: Floats = 1 / (1 + np.exp(-np.clip(logits, -700, 700)))
        return scores
    if scale == "softmax":
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        share: Floats = shifted / shifted.sum(axis=-1, keepdims=True)
        return share
    return logits


def _units(row: Floats) -> Floats:
    """Rows of length 1, [tokens, numbers]; what is zero stays so."""
    rows = np.atleast_2d(row)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Floats = rows / np.where(lengths == 0, 1, lengths)
    return found


def _best(owners: Sequence[int], scores: Sequence[float] | Floats, count: int) -> list[float]:
    """The best of each document's windows; one that has none is as far away as a score can be."""
    found = np.full(count, -np.inf)
    np.maximum.at(found, np.array(owners, np.intp), np.array(scores, np.float64))
    least = min(found[np.isfinite(found)].min(initial=0.0), 0.0)
    return [float(score) for score in np.where(np.isfinite(found), found, least)]


def _per_owner(owners: Sequence[int], values: Sequence[int], count: int) -> list[int]:
    found = np.zeros(count, np.int64)
    np.add.at(found, np.array(owners, np.intp), values)
    return [int(value) for value in found]


ROUTES: Final[dict[str, str]] = {
    "rank": "this model ranks documents: use /v1/rerank",
    "labels": "this model says what texts are: use /v1/classify",
    "spans": "this model finds what texts name: use /v1/entities",
}


def _mismatch(command: Work, pooling: wire.Pooling) -> str:
    if isinstance(command, wire.Generate):
        return "this model generates no text"
    if isinstance(command, wire.Rank) and pooling not in ROUTES:
        return "this model makes embeddings and has no head that ranks"
    return ROUTES.get(pooling, "this model makes embeddings: use /v1/embeddings")
