"""Who makes room for a model that is to be loaded: the policy alone, without processes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Resident:
    """A loaded model. `idle_since` is None while anybody uses it or waits for it.

    `asleep_bytes` is what it would keep without its context; None where it has none to give.
    """

    id: str
    reserved_bytes: int
    idle_since: float | None
    pinned: bool = False
    asleep_bytes: int | None = None
    device_bytes: dict[str, int] = field(default_factory=dict)

    @property
    def evictable(self) -> bool:
        return self.idle_since is not None and not self.pinned

    @property
    def sleep_gain(self) -> int:
        """Bytes that come back when it drops its context."""
        if not self.evictable or self.asleep_bytes is None:
            return 0
        return max(0, self.reserved_bytes - self.asleep_bytes)


def sleepers(residents: Iterable[Resident], wanted_bytes: int) -> list[str]:
    """Idle models whose contexts make `wanted_bytes`, the longest unused first.

    None where all of them together do not: then models have to go, and contexts go with them.
    """
    able = _oldest_first(resident for resident in residents if resident.sleep_gain)
    if wanted_bytes <= 0 or sum(resident.sleep_gain for resident in able) < wanted_bytes:
        return []
    found: list[str] = []
    for resident in able:
        if wanted_bytes <= 0:
            break
        found.append(resident.id)
        wanted_bytes -= resident.sleep_gain
    return found


def victims(residents: Iterable[Resident], wanted_bytes: int) -> list[str]:
    """Idle models to let go, the longest unused first, until they add up to `wanted_bytes`.

    All that may go when that is not enough; none when nothing is wanted.
    """
    found: list[str] = []
    for resident in _oldest_first(resident for resident in residents if resident.evictable):
        if wanted_bytes <= 0:
            break
        found.append(resident.id)
        wanted_bytes -= resident.reserved_bytes
    return found


def victim_on(residents: Iterable[Resident], device: str) -> str | None:
    """The longest unused model that takes memory of this device and may go."""
    there = (one for one in residents if one.evictable and one.device_bytes.get(device))
    return next((resident.id for resident in _oldest_first(there)), None)


def reclaimable(residents: Iterable[Resident], *, busy: bool) -> int:
    """Bytes that come back when all idle models go, and with `busy` all that answer now, too."""
    return sum(
        resident.reserved_bytes
        for resident in residents
        if not resident.pinned and (busy or resident.evictable)
    )


def _oldest_first(residents: Iterable[Resident]) -> list[Resident]:
    return sorted(residents, key=lambda one: one.idle_since or 0.0)
