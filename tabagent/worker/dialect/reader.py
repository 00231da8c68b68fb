"""Text that is still arriving, read ahead and read back.

What reads it is a generator: it yields where the text so far does not decide, and is resumed when
more has come or none will. So it reads the same, however the text is split.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Final, TypeVar

T = TypeVar("T")
Wait = Generator[None, None, T]

LONGEST_WORD: Final = 256  # characters of a name, a key or a header


class Reader:
    """Positions count from the beginning of all text. What lies before `kept` is forgotten."""

    def __init__(self) -> None:
        self._text = ""
        self._base = 0  # where `_text` begins
        self.at = 0
        self.kept = 0  # nothing goes back behind this
        self.ended = False

    def add(self, text: str) -> None:
        self._text = self._text[self.kept - self._base :] + text
        self._base = self.kept

    @property
    def end(self) -> int:
        """Where the text that has come ends."""
        return self._base + len(self._text)

    @property
    def is_over(self) -> bool:
        """Whether nothing stands here, and nothing will."""
        return self.ended and self.at >= self.end

    def keep(self) -> None:
        """Forget what lies before `at`."""
        self.kept = self.at

    def slice(self, start: int, stop: int) -> str:
        return self._text[start - self._base : stop - self._base]

    def find(self, text: str) -> int:
        """Where `text` is next, or -1."""
        found = self._text.find(text, self.at - self._base)
        return found if found < 0 else found + self._base

    def rest(self) -> str:
        return self._text[self.at - self._base :]

    # ---- what waits -----------------------------------------------------------------------------
    def space(self) -> Wait[None]:
        """Pass over white space, to what follows it or to the end."""
        while True:
            rest = self.rest()
            self.at += len(rest) - len(rest.lstrip())
            if self.at < self.end or self.ended:
                return
            yield

    def choose(self, options: Sequence[str]) -> Wait[str]:
        """Which of `options` stands here, or ""; it is not passed over."""
        longest = max(map(len, options), default=0)
        while True:
            here = self.slice(self.at, self.at + longest)
            if found := next((o for o in options if here.startswith(o)), ""):
                return found
            if self.ended or not any(option.startswith(here) for option in options):
                return ""
            yield

    def take(self, texts: Sequence[str]) -> Wait[bool]:
        """Pass over all `texts`, with white space before each; else stay."""
        start = self.at
        for text in texts:
            yield from self.space()
            if not (yield from self.choose((text,))):
                self.at = start
                return False
            self.at += len(text)
        return True

    def take_some(self, texts: Sequence[str]) -> Wait[None]:
        """Pass over `texts` as far as they stand here."""
        for text in texts:
            if not (yield from self.take((text,))):
                return

    def word(self, stops: str) -> Wait[str | None]:
        """What stands here before white space or one of `stops`; None if that is too long."""
        while True:
            rest = self.rest()
            length = next(
                (i for i, char in enumerate(rest) if char in stops or char.isspace()), len(rest)
            )
            if length > LONGEST_WORD:
                return None
            if length < len(rest) or self.ended:
                self.at += length
                return rest[:length]
            yield

    def until(self, text: str) -> Wait[str | None]:
        """What stands before `text`, which is passed over; None, staying, if it is too far."""
        while True:
            found = self.find(text)
            if 0 <= found <= self.at + LONGEST_WORD:
                before = self.slice(self.at, found)
                self.at = found + len(text)
                return before
            if found >= 0 or self.ended or self.end - self.at > LONGEST_WORD + len(text):
                return None
            yield


def overlap(text: str, markers: Sequence[str]) -> int:
    """Length of the longest end of `text` that is a beginning of a marker."""
    longest = min(len(text), max(map(len, markers), default=1) - 1)
    for length in range(longest, 0, -1):
        tail = text[-length:]
        if any(marker.startswith(tail) for marker in markers if len(marker) > length):
            return length
    return 0
