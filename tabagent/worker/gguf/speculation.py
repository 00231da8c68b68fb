"""Guessing what comes next, so that one decode step can check several tokens at once.

A guess is only ever compared with what the sampler draws from the model's own logits, so the text
is the same with and without; only the time differs. On a CPU a checked token costs a third to a half
of a computed one (`benchmarks/speculation.py`): it pays where much of a prompt is said again, or for
a model on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np

from tabagent.errors import InvalidRequest
from tabagent.worker.gguf.context import Context
from tabagent.worker.gguf.native import Model
from tabagent.worker.gguf.prefix import common
from tabagent.worker.gguf.sequence import Sequence

GRAM: Final = 3  # tokens that must agree before what followed them is believed
SHORT: Final = 3  # with the token before them four, as many as llama.cpp's kernels take at once
PAYS: Final = 3  # one guess in so many has to be right
PAUSE: Final = 8  # tokens without a guess after a bad one
SURE: Final = 0.6  # how likely a guess of a small model must be to be worth checking


@dataclass(slots=True)
class _Grams:
    """Where each run of GRAM tokens of a sequence last ended, for its first `seen` tokens."""

    seen: int = 0
    ends: dict[tuple[int, ...], int] = field(default_factory=dict)
    length: int = SHORT  # how many tokens to guess: grows with luck
    quiet: int = 0  # no guess before there are so many tokens


class PromptLookup:
    """Guesses that what followed the last few tokens before will follow them again.

    Known as prompt lookup decoding (https://github.com/apoorvumang/prompt-lookup-decoding).
    """

    def __init__(self) -> None:
        self._grams: WeakKeyDictionary[Sequence, _Grams] = WeakKeyDictionary()

    def propose(self, sequences: list[Sequence], most: int) -> list[list[int]]:
        return [self._guess(sequence, most) for sequence in sequences]

    def _guess(self, sequence: Sequence, most: int) -> list[int]:
        tokens = sequence.tokens
        grams = self._grams.setdefault(sequence, _Grams())
        for end in range(max(grams.seen, GRAM), len(tokens)):
            grams.ends[tuple(tokens[end - GRAM : end])] = end
        grams.seen = len(tokens)
        found = grams.ends.get(tuple(tokens[-GRAM:]))
        if not found or len(tokens) < grams.quiet:
            return []
        period = len(tokens) - found  # what repeats may be shorter than the guess
        return [tokens[found + n % period] for n in range(min(most, grams.length))]

    def learn(self, sequence: Sequence, guessed: int, right: int) -> None:
        grams = self._grams[sequence]
        grams.length = 2 * guessed + 1 if right == guessed else SHORT
        if right * PAYS < guessed:
            grams.quiet = len(sequence.tokens) + PAUSE

    def drop(self, sequence: Sequence) -> None:
        self._grams.pop(sequence, None)

    def close(self) -> None:
        pass


class DraftModel:
    """A small model of the same vocabulary guesses for a large one."""

    def __init__(self, model: Model, large: Model, make: Callable[[Model], Context]) -> None:
        """`make` makes a context for as many sequences as run at once. Raises InvalidRequest."""
        if model.n_vocab != large.n_vocab or any(
            model.piece(t, special=True) != large.piece(t, special=True)
            for t in range(0, model.n_vocab, max(1, model.n_vocab // 512))
        ):
            raise InvalidRequest(
                "the draft model has another vocabulary than the model", param="draft_model"
            )
        if model.recurrent:
            raise InvalidRequest(
                "a recurrent model cannot take a guess back: choose another draft model",
                param="draft_model",
            )
        self._model, self._context = model, make(model)
        self._free = list(range(self._context.sequences))
        self._ids: dict[Sequence, int] = {}
        self._computed: dict[Sequence, list[int]] = {}

    def propose(self, sequences: list[Sequence], most: int) -> list[list[int]]:
        guesses: dict[Sequence, list[int]] = {sequence: [] for sequence in sequences}
        going = [s for s in sequences if self._open(s)]
        for _ in range(most):
            ended = {s for s in going if len(guesses[s]) >= s.room - 1}
            going = [s for s in going if s not in ended]
            for sequence, token in self._next(going, guesses).items():
                if token is None:
                    going.remove(sequence)
                else:
                    guesses[sequence].append(token)
        return [guesses[sequence] for sequence in sequences]

    def _open(self, sequence: Sequence) -> bool:
        if sequence not in self._ids:
            if not self._free:
                return False
            self._ids[sequence], self._computed[sequence] = self._free.pop(), []
        return True

    def _next(
        self, sequences: list[Sequence], guesses: dict[Sequence, list[int]]
    ) -> dict[Sequence, int | None]:
        """The likeliest next token of each, None where it is not likely enough."""
        missing: dict[Sequence, list[int]] = {}
        for sequence in sequences:
            wanted = sequence.tokens + guesses[sequence]
            known = self._computed[sequence]
            same = common(known, 0, wanted, 0, min(len(known), len(wanted) - 1))
            if same < len(known):
                self._context.forget(self._ids[sequence], same)
                del known[same:]
            missing[sequence] = wanted[same:]
        found: dict[Sequence, int | None] = {}
        while missing:
            rows = self._batch(missing)
            if not self._context.decode():
                return dict.fromkeys(sequences)  # no room: then without guesses
            for sequence, row in rows.items():
                found[sequence] = self._sure(row)
        return found

    def _batch(self, missing: dict[Sequence, list[int]]) -> dict[Sequence, int]:
        """Fill a batch from `missing`; the index of the logits of those that are through."""
        self._context.begin()
        room = self._context.batch_size
        rows: dict[Sequence, int] = {}
        for sequence, tokens in list(missing.items()):
            part = tokens[:room]
            if not part:
                break
            room -= len(part)
            known, last = self._computed[sequence], len(part) == len(tokens)
            row = self._context.add(self._ids[sequence], len(known), part, logits=int(last))
            known += part
            if last:
                rows[sequence] = row
                del missing[sequence]
            else:
                missing[sequence] = tokens[len(part) :]
        return rows

    def _sure(self, row: int) -> int | None:
        logits = self._context.logits(row)
        token = int(logits.argmax())
        share = 1 / float(np.exp(logits - logits[token]).sum())
        return token if share >= SURE else None

    def learn(self, sequence: Sequence, guessed: int, right: int) -> None:
        pass  # its own certainty says how far to go

    def drop(self, sequence: Sequence) -> None:
        id_ = self._ids.pop(sequence, None)
        if id_ is not None:
            self._context.forget(id_)
            del self._computed[sequence]
            self._free.append(id_)

    def close(self) -> None:
        self._context.close()
        self._model.close()
