"""Who is here now, so that a caller who is no longer wanted is cut off at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Presence:
    """Every connection and running call of each caller, by the caller's name."""

    def __init__(self) -> None:
        self._here: dict[str, dict[object, Callable[[], None]]] = {}

    @contextmanager
    def here(self, caller: str, leave: Callable[[], None]) -> Iterator[None]:
        """While this lasts, `expel` calls `leave`, which must not block and must not raise."""
        key = object()
        self._here.setdefault(caller, {})[key] = leave
        try:
            yield
        finally:
            mine = self._here[caller]
            del mine[key]
            if not mine:
                del self._here[caller]

    def expel(self, caller: str) -> int:
        """End everything of this caller; how many there were."""
        ends = list(self._here.get(caller, {}).values())
        for leave in ends:
            leave()
        return len(ends)

    def count(self, caller: str) -> int:
        return len(self._here.get(caller, {}))
