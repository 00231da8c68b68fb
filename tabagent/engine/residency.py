"""Who makes room for a model that is to be loaded: the policy alone, without processes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resident:
    """A loaded model. `idle_since` is None while anybody uses it or waits for it."""

    id: str
    reserved_bytes: int
    idle_since: float | None
    pinned: bool = False

    @property
    def evictable(self) -> bool:
        return self.idle_since is not None and not self.pinned


def victims(residents: Iterable[Resident], wanted_bytes: int) -> list[str]:
    """Idle models to let go, the longest unused first, until they add up to `wanted_bytes`.

    All that may go when that is not enough; none when nothing is wanted.
    """
    idle = [resident for resident in residents if resident.evictable]
    found: list[str] = []
    for resident in sorted(idle, key=lambda one: one.idle_since or 0.0):
        if wanted_bytes <= 0:
            break
        found.append(resident.id)
        wanted_bytes -= resident.reserved_bytes
    return found


def reclaimable(residents: Iterable[Resident], *, busy: bool) -> int:
    """Bytes that come back when all idle models go, and with `busy` all that answer now, too."""
    return sum(
        resident.reserved_bytes
        for resident in residents
        if not resident.pinned and (busy or resident.evictable)
    )
