"""What changed in this server: numbered, kept for a while, followed by whoever wants to know.

A server that starts anew counts from one again, under another `epoch`.
"""

from __future__ import annotations

import asyncio
import secrets
from bisect import bisect_right
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from time import monotonic, time
from typing import Any, Final, Literal

Kind = Literal["model", "pull", "setting", "session", "document", "job", "client"]
KEPT: Final = 1000  # changes; what came before them is told of as a gap
PACE_S: Final = 1.0  # between two passing changes of one subject


@dataclass(frozen=True, slots=True)
class Change:
    """`about` is its subject, `data` what callers are shown.

    A `passing` one, such as progress, is of no use once another came.
    """

    number: int
    at: float  # unix seconds
    kind: Kind
    about: str
    data: Any
    passing: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """The changes from `first` to `last` are not kept any more."""

    first: int
    last: int


class Journal:
    """Used on one event loop. A follower who is slow loses the oldest, and is told so."""

    def __init__(self, kept: int = KEPT, pace_s: float = PACE_S) -> None:
        self.epoch: Final = secrets.token_hex(6)
        self.last = 0  # the number of the newest
        self._room, self._pace_s = kept, pace_s
        self._changes: list[Change] = []
        self._lost = 0  # the highest number that went for want of room
        self._passing: dict[
            tuple[Kind, str], tuple[Change, float]
        ] = {}  # the newest of a subject, and when
        self._followers: set[asyncio.Event] = set()
        self._closed = False

    def note(self, kind: Kind, about: str, data: Any, *, passing: bool = False) -> None:
        """Number a change and tell everyone who follows.

        It takes the place of the last one of its subject that was passing. A passing one that comes
        within the pace is left out: its subject will be told of again.
        """
        subject = kind, about
        before, when = self._passing.get(subject, (None, 0.0))
        now = monotonic()
        if passing and before and now - when < self._pace_s:
            return
        if before:
            self._passing.pop(subject)
            if before.number > self._lost:
                self._changes.remove(before)
        self.last += 1
        change = Change(self.last, time(), kind, about, data, passing)
        self._changes.append(change)
        if passing:
            self._passing[subject] = change, now
        if len(self._changes) > self._room:
            self._lost = self._changes.pop(0).number
        for follower in self._followers:
            follower.set()

    def since(self, number: int) -> list[Lost | Change]:
        """What came after `number`, in order; first what of it is lost."""
        start = bisect_right(self._changes, number, key=lambda change: change.number)
        lost = [Lost(number + 1, self._lost)] if number < self._lost else []
        return [*lost, *self._changes[start:]]

    async def follow(self, number: int) -> AsyncGenerator[Lost | Change, None]:
        """What came and comes after `number`, until the journal is closed."""
        woken = asyncio.Event()
        self._followers.add(woken)
        try:
            while True:
                woken.clear()
                for change in self.since(number):
                    yield change
                    number = change.last if isinstance(change, Lost) else change.number
                if self._closed:
                    return
                await woken.wait()
        finally:
            self._followers.discard(woken)

    def close(self) -> None:
        """End everyone who follows, once they were told everything."""
        self._closed = True
        for follower in self._followers:
            follower.set()
