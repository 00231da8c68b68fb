"""What a text names: labels of single tokens, made into spans of characters.

Tokens of one word share the mean of their scores; words of one kind that follow each other are one
name, unless their labels say that a new one begins. Labels are B-, I- and their kin (BIO, BIOES,
BILOU), or kinds alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tabagent.worker.pooling.model import Window

OUTSIDE: Final = "O"
BEGINS: Final = frozenset("BSU")
ENDS: Final = frozenset("ESLU")

Span = tuple[str, float, int, int]
"""Label, score, first character, the one after its last."""


@dataclass(slots=True)
class _Word:
    label: str
    score: float
    start: int
    end: int

    @property
    def kind(self) -> str:
        return self.label[2:] if self._prefix else self.label

    @property
    def begins(self) -> bool:
        return self._prefix in BEGINS

    @property
    def ends(self) -> bool:
        return self._prefix in ENDS

    @property
    def _prefix(self) -> str:
        known = len(self.label) > 2 and self.label[1] in "-_" and self.label[0] in "BIESLU"
        return self.label[0] if known else ""


def named(
    text: str,
    windows: Sequence[Window],
    scores: Sequence[npt.NDArray[np.float64]],
    labels: Sequence[str],
) -> list[Span]:
    """Everything that `text` names, in its order. `scores` are [tokens, labels] of each window."""
    found: list[list[_Word]] = []
    last: _Word | None = None
    for word in _words(windows, scores, labels):
        if word.label == OUTSIDE:
            last = None
            continue
        if last is not None and word.kind == last.kind and not word.begins and not last.ends:
            found[-1].append(word)
        else:
            found.append([word])
        last = word
    return [span for words in found if (span := _span(text, words)) is not None]


def _words(
    windows: Sequence[Window], scores: Sequence[npt.NDArray[np.float64]], labels: Sequence[str]
) -> Iterator[_Word]:
    """The words of a text. What several windows show is their mean."""
    tokens: dict[int, list[Any]] = {}  # by place in the text: sum, count, characters, word
    for window, rows in zip(windows, scores, strict=True):
        own = np.flatnonzero(window.spans[:, 1] > window.spans[:, 0])
        for place, at in enumerate(own, window.start):
            entry = tokens.setdefault(place, [0.0, 0, window.spans[at], int(window.words[at])])
            entry[0] = entry[0] + rows[at]
            entry[1] += 1
    group: list[list[Any]] = []
    for place in sorted(tokens):
        entry = tokens[place]
        if group and (entry[3] < 0 or entry[3] != group[-1][3]):
            yield _word(group, labels)
            group = []
        group.append(entry)
    if group:
        yield _word(group, labels)


def _word(tokens: list[list[Any]], labels: Sequence[str]) -> _Word:
    scores = np.mean([total / count for total, count, _, _ in tokens], axis=0)
    best = int(np.argmax(scores))
    return _Word(labels[best], float(scores[best]), int(tokens[0][2][0]), int(tokens[-1][2][1]))


def _span(text: str, words: list[_Word]) -> Span | None:
    """The words as one; spaces that a tokenizer counts to a token are none of it."""
    start, end = words[0].start, words[-1].end
    inside = text[start:end]
    start += len(inside) - len(inside.lstrip())
    end -= len(inside) - len(inside.rstrip())
    if start >= end:
        return None
    return words[0].kind, float(np.mean([word.score for word in words])), start, end
