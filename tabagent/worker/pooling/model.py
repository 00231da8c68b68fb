"""What an engine must offer for its models to make vectors, rank, label or mark.

A text becomes a sequence of tokens, which the engine may pack as it likes: requests only count and
compare them. A context makes one row of numbers of each sequence, or a row for each of its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tabagent import wire

Tokens = npt.NDArray[Any]
"""[tokens], of whatever an engine needs to know of one."""
Ids = npt.NDArray[np.int64]
"""[texts, tokens]."""
Row = npt.NDArray[np.float32]
"""[numbers], or [tokens, numbers] where each token is asked for."""


@dataclass(frozen=True, slots=True)
class Part:
    """The next tokens of a sequence, which begin at position `start`. `ends` it: a row is due."""

    sequence: int
    start: int
    tokens: Tokens
    ends: bool
    by_token: bool = False


@dataclass(frozen=True, slots=True)
class Broken:
    """In a row's place: why there is none."""

    why: str


class Context(Protocol):
    """Room to compute in.

    batch      tokens worth computing together; a single sequence may be longer where it is not cut
    chunked    whether a sequence may come in several parts
    sequences  how many there may be at once
    room       tokens that all unfinished sequences share
    progress   grows while a long computation goes on
    """

    batch: int
    chunked: bool
    sequences: int
    room: int
    progress: int

    def compute(self, parts: Sequence[Part]) -> list[Row | Broken | None]:
        """The row of each part that ends its sequence."""

    def forget(self, sequence: int) -> None:
        """Drop a sequence, so that its number and its room can be used again."""

    def clear(self) -> None:
        """Drop all sequences, and what they left."""

    def close(self) -> None:
        """Give the room back."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a text. `spans` are the characters of each of its tokens, [tokens, 2]; a token
    that was added has none: (0, 0). `words` number the words that tokens are parts of, -1 for none.
    `start` is the place of its first own token among all of the text's.
    """

    tokens: Tokens
    spans: npt.NDArray[np.int64]
    words: npt.NDArray[np.int64]
    start: int


class PoolingModel(Protocol):
    """One model. Everything but `engine` is known once it is loaded.

    `sequences`, `cut`, `windows` and `pairs` may run on several threads at once.
    """

    engine: str
    limit: int  # tokens of the longest sequence
    width: int  # numbers in a row
    by_token: bool  # whether it can make a row for each token

    def load(self, command: wire.Load, progress: Callable[[float], None]) -> dict[str, Any]:
        """Load; returns facts about it."""

    def open(self) -> Context:
        """Room to compute in, made anew each time."""

    def ask(self, command: wire.Tokenize | wire.Detokenize) -> dict[str, Any]:
        """Answer what needs the vocabulary alone."""

    def sequences(self, texts: Sequence[str], prompt: str = "") -> list[Tokens]:
        """Each text with the tokens that belong around it; `prompt` stands before it."""

    def cut(self, tokens: Tokens) -> Tokens:
        """The beginning of a sequence, of `limit` tokens at most, closed as a whole one is."""

    def windows(self, text: str, prompt: str = "") -> list[Tokens]:
        """A text in overlapping sequences of `limit` tokens at most."""

    def marked(self, text: str) -> list[Window]:
        """The same, with the place of every token. Only of models that mark."""

    def pairs(
        self, query: str, documents: list[str], *, first_window: bool
    ) -> Iterator[tuple[int, Tokens]]:
        """(index of the document, the two as one sequence): several for a document that is long.

        Raises ContextLengthExceeded when the query leaves no room.
        """

    def relevance(self, rows: Row) -> npt.NDArray[np.float64]:
        """What the outputs of a head that ranks say, [pairs]."""

    def sleep(self) -> bool:
        """Whether a closed context gives anything back; False keeps it open."""

    def close(self) -> None:
        """Give everything back."""
