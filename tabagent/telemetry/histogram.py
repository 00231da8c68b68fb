"""How often something was how large. A fifth of a microsecond an observation, where
prometheus_client's own takes more than one: some are made for every token.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

SECONDS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    300,
)
BETWEEN_TOKENS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 5,
)  # fmt: skip


class Histogram:
    """Counts by the smallest bound that is not below the value; the last is for all above.

    Belongs to one thread.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def copy(self) -> Histogram:
        """As it is now, for another thread."""
        other = Histogram(self.bounds)
        other.counts, other.sum = list(self.counts), self.sum
        return other
