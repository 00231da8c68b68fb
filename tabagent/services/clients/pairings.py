"""Extensions that ask to be approved: in memory, few at once, and not for long."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic, time
from typing import Final

from tabagent.errors import RateLimited

ALPHABET: Final = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"  # nothing that looks like something else
HALF: Final = 4
LIFE_S: Final = 600.0
MOST: Final = 8
PACE: Final = 5  # new ones of one origin
PACE_S: Final = 60.0
MOST_ORIGINS: Final = 256  # whose pace is remembered


@dataclass(slots=True, eq=False)
class Pairing:
    """One asker. `secret` proves that it is the same one who asks again."""

    code: str
    origin: str
    name: str
    vouched: bool
    http_origin: str
    secret: str = field(repr=False)
    expires: float  # of the monotonic clock
    expires_at: float  # unix seconds
    client_id: str | None = None  # once it is approved
    answered: asyncio.Event = field(default_factory=asyncio.Event, repr=False)


class Pairings:
    """Belongs to one event loop.

    Where the browser does not vouch for the asker, anybody may have written the origin. So those
    have room of their own, and nobody's asking makes another's go away: over the limit, who comes
    later is refused.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._all: list[Pairing] = []
        self._begun: dict[str, deque[float]] = {}

    def pending(self) -> list[Pairing]:
        """Those that nobody has approved yet, the oldest first."""
        return [pairing for pairing in self._now() if pairing.client_id is None]

    def begin(self, origin: str, name: str, *, vouched: bool, http_origin: str = "") -> Pairing:
        """A new one, with its own code and secret. Raises RateLimited."""
        waiting = [pairing for pairing in self.pending() if pairing.vouched == vouched]
        if len(waiting) >= MOST:
            wait_s = min(pairing.expires for pairing in waiting) - self._clock()
            raise RateLimited("too many extensions wait to be approved", retry_after=wait_s)
        self._keep_pace(origin)
        taken = {pairing.code for pairing in self._all}
        while (code := _new_code()) in taken:
            pass
        pairing = Pairing(
            code,
            origin,
            name,
            vouched,
            http_origin,
            secrets.token_urlsafe(32),
            self._clock() + LIFE_S,
            time() + LIFE_S,
        )
        self._all.append(pairing)
        return pairing

    def again(self, origin: str, secret: str) -> Pairing | None:
        """The one whose asker knows this secret."""
        for pairing in self._now():
            same = hmac.compare_digest(pairing.secret.encode(), secret.encode())
            if same and pairing.origin == origin:
                return pairing
        return None

    def vouched_for(self, origin: str) -> Pairing | None:
        """The one of an extension that the browser vouches for: it needs no secret."""
        mine = (p for p in self._now() if p.vouched and p.origin == origin)
        return next(mine, None)

    def of_code(self, code: str) -> Pairing | None:
        """One that is not approved yet, by its code as people write it."""
        typed = "".join(letter for letter in code.upper() if letter.isalnum())
        found = (p for p in self.pending() if p.code.replace("-", "") == typed)
        return next(found, None)

    def approve(self, pairing: Pairing, client_id: str) -> None:
        """Its asker gets a token from now on, and is woken where it waits."""
        pairing.client_id = client_id
        pairing.answered.set()

    def end(self, pairing: Pairing) -> None:
        """It is over, one way or another."""
        if pairing in self._all:
            self._all.remove(pairing)
        pairing.answered.set()

    def end_of(self, origin: str) -> None:
        """None of this origin's is wanted any more."""
        for pairing in [pairing for pairing in self._all if pairing.origin == origin]:
            self.end(pairing)

    def wake(self) -> None:
        """Let nobody wait any longer."""
        for pairing in self._all:
            pairing.answered.set()

    def _now(self) -> list[Pairing]:
        now = self._clock()
        for pairing in [pairing for pairing in self._all if pairing.expires <= now]:
            self.end(pairing)
        return self._all

    def _keep_pace(self, origin: str) -> None:
        now = self._clock()
        recent = {
            of: times for of, times in self._begun.items() if times and times[-1] > now - PACE_S
        }
        while len(recent) >= MOST_ORIGINS:
            recent.pop(next(iter(recent)))
        self._begun = recent
        times = recent.setdefault(origin, deque(maxlen=PACE))
        if len(times) == PACE and times[0] > now - PACE_S:
            raise RateLimited(
                "this extension has asked too often", retry_after=times[0] + PACE_S - now
            )
        times.append(now)


def _new_code() -> str:
    half = ["".join(secrets.choice(ALPHABET) for _ in range(HALF)) for _ in range(2)]
    return "-".join(half)
