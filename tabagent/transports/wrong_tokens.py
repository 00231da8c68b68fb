"""How many wrong tokens have come from where, so that guessing them is of no use."""

from __future__ import annotations

import hashlib
import ipaddress
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import lru_cache
from time import monotonic
from typing import Final

MOST: Final = 20
WINDOW_S: Final = 60.0
MOST_PEERS: Final = 1024
NEIGHBOURS: Final = 64  # bits of an IPv6 address that its holder does not choose


class WrongTokens:
    """A sliding window for each peer. The one longest unheard of goes when there are too many.

    The same token again is a client that has not heard of its end yet, and no guess: on a machine
    all share one address, so it must not shut the door on the others.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._tried: OrderedDict[str, deque[tuple[float, bytes]]] = OrderedDict()

    def note(self, address: str, token: str) -> None:
        """One more."""
        peer, now = _peer(address), self._clock()
        digest = hashlib.sha256(token.encode()).digest()
        tried = self._tried.setdefault(peer, deque(maxlen=MOST))
        if not any(known == digest and at > now - WINDOW_S for at, known in tried):
            tried.append((now, digest))
        self._tried.move_to_end(peer)
        if len(self._tried) > MOST_PEERS:
            self._tried.popitem(last=False)

    def wait_s(self, address: str) -> float:
        """Seconds until another may be tried; 0: now."""
        tried = self._tried.get(_peer(address)) if self._tried else None
        if tried is None or len(tried) < MOST:
            return 0.0
        return max(0.0, tried[0][0] + WINDOW_S - self._clock())


@lru_cache(maxsize=1024)
def _peer(address: str) -> str:
    """The address, or the network of an IPv6 one: who has one of those has them all."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 4 or found.is_loopback:
        return address
    return str(ipaddress.ip_network((found, NEIGHBOURS), strict=False))
