"""Grammars for one model, compiled once, and the constraint that each sequence follows."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from tabagent.errors import GrammarInvalid
from tabagent.worker.constraint.matcher import make_matcher, said
from tabagent.worker.constraint.trial import Trial
from tabagent.worker.constraint.vocabulary import Vocabulary, make_tokenizer

KEPT: Final = 32  # grammars
SLOW_S: Final = 0.5  # of processor time that one step of one sequence may take
_NEVER: Final = np.float32(-np.inf)
# Eight bits of a mask as the ceilings of eight logits: looked up, not branched on, since which
# tokens are allowed follows no pattern that a processor could guess.
_CEILINGS: Final = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little") > 0,
    np.float32(np.inf),
    _NEVER,
)


class Compiler:
    """Thread-safe. `vocabulary` is asked for with the first grammar: nobody else pays for it."""

    def __init__(self, vocabulary: Callable[[], Vocabulary]) -> None:
        self._vocabulary = vocabulary
        self._lock = threading.Lock()  # of the cache
        self._compiling = threading.Lock()
        self._kept: OrderedDict[str, LLMatcher] = OrderedDict()
        self._tools: tuple[LLTokenizer, Trial] | None = None
        self._local = threading.local()

    def compile(self, lark: str) -> Constraint:
        """A constraint at the beginning of the Lark grammar, whose first rule is `start`.

        Raises GrammarInvalid, after COMPUTE_S of computing at the latest.
        """
        matcher = self._recall(lark)
        if matcher is None:
            with self._compiling:
                matcher = self._recall(lark) or self._make(lark)
        return Constraint(matcher.deep_copy(), self, lark)

    def forget(self, lark: str) -> None:
        """Drop a grammar whose matcher has failed: copies share what it has worked out."""
        with self._lock:
            self._kept.pop(lark, None)

    def close(self) -> None:
        with self._compiling:
            if self._tools is not None:
                self._tools[1].close()

    def mask(self) -> _Mask:
        """Room for one mask, for the calling thread."""
        assert self._tools is not None
        if not hasattr(self._local, "mask"):
            self._local.mask = _Mask(self._tools[0])
        mask: _Mask = self._local.mask
        return mask

    def _recall(self, lark: str) -> LLMatcher | None:
        with self._lock:
            if lark in self._kept:
                self._kept.move_to_end(lark)
            return self._kept.get(lark)

    def _make(self, lark: str) -> LLMatcher:
        if self._tools is None:
            vocabulary = self._vocabulary()
            self._tools = make_tokenizer(vocabulary), Trial(vocabulary)
        tokenizer, trial = self._tools
        trial.try_out(lark)
        matcher = make_matcher(tokenizer, lark)
        first = matcher.deep_copy()
        first.compute_bitmask()  # also warms what the copies share
        if first.is_error():
            raise GrammarInvalid(said(first.get_error()))
        with self._lock:
            self._kept[lark] = matcher
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return matcher


class Constraint:
    """Where one sequence is in its grammar. One thread at a time.

    All methods that follow the grammar raise GrammarInvalid when it has become too complex; then
    the sequence is lost.
    """

    def __init__(self, matcher: LLMatcher, compiler: Compiler, lark: str) -> None:
        self._matcher, self._compiler, self._lark = matcher, compiler, lark
        self._accepted = 0
        self._ended = 0  # end tokens that came after the end
        self._forced: list[int] | None = None  # what must come; None when not worked out

    @property
    def finished(self) -> bool:
        """Whether only an end token may follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    @property
    def accepting(self) -> bool:
        """Whether an end token may follow."""
        return self.finished or self._matcher.is_accepting()

    def allow(self, logits: NDArray[np.float32]) -> None:
        """Set the logits of all tokens that may not follow to -inf, in place.

        `logits` is one row, float32; it may be longer than the vocabulary, and that is forbidden.
        """
        if forced := self.forced():
            kept = logits[forced[0]]
            logits.fill(_NEVER)
            logits[forced[0]] = kept
            return
        with self._step():
            self._compiler.mask().apply(self._matcher, logits)

    def accept(self, token: int) -> None:
        """Go on by a token. Raises ValueError when it may not follow; nothing has changed then."""
        mask = self._compiler.mask()
        if self.finished and token in mask.end_tokens:
            self._ended += 1
            return
        taken = False
        if 0 <= token < mask.size and not self.finished:
            with self._step():
                taken = self._matcher.try_consume_tokens([token]) == 1
        if not taken:
            raise ValueError(f"token {token} cannot follow")
        self._accepted += 1
        self._forced = (
            self._forced[1:] or None if self._forced and self._forced[0] == token else None
        )

    def forced(self) -> list[int]:
        """The tokens that must come now, if the grammar leaves no choice: as the model spells them.

        They are accepted one by one like others.
        """
        if self.finished:
            return []
        if self._forced is None:
            with self._step():
                self._forced = self._matcher.compute_ff_tokens()
        return list(self._forced)

    def rollback(self, count: int) -> None:
        """Take back the last `count` tokens. Raises ValueError when there are not so many."""
        if not 0 <= count <= self._accepted + self._ended:
            raise ValueError(f"cannot take back {count} of {self._accepted + self._ended} tokens")
        past = min(count, self._ended)
        self._ended -= past
        self._accepted -= count - past
        self._forced = None
        with self._step():
            self._matcher.rollback(count - past)

    def copy(self) -> Constraint:
        """Another sequence at the same place."""
        other = Constraint(self._matcher.deep_copy(), self._compiler, self._lark)
        other._accepted, other._ended, other._forced = self._accepted, self._ended, self._forced
        return other

    @contextmanager
    def _step(self) -> Iterator[None]:
        """Around what the matcher does: mind its errors, and its time on the processor."""
        began = time.thread_time()
        yield
        why = ""
        if self._matcher.is_error():
            why = said(self._matcher.get_error())
        elif time.thread_time() - began > SLOW_S:
            why = "the grammar is too complex to follow: one token takes too long"
        if why:
            self._compiler.forget(self._lark)
            raise GrammarInvalid(why)


class _Mask:
    def __init__(self, tokenizer: LLTokenizer) -> None:
        self.end_tokens = frozenset(tokenizer.eos_tokens)
        self.size = tokenizer.vocab_size
        self._bits = np.zeros((self.size + 31) // 32, dtype="<u4")
        self._bytes = self._bits.view(np.uint8)
        self._ceilings = np.empty((len(self._bytes), 8), dtype=np.float32)

    def apply(self, matcher: LLMatcher, logits: NDArray[np.float32]) -> None:
        matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        np.take(_CEILINGS, self._bytes, axis=0, out=self._ceilings, mode="clip")
        known = min(self.size, len(logits))
        np.minimum(logits[:known], self._ceilings.reshape(-1)[:known], out=logits[:known])
        logits[known:] = _NEVER
