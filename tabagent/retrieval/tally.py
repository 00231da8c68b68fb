"""What retrieval has done since the server began."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tabagent.telemetry.histogram import Histogram


@dataclass(eq=False)
class Tally:
    """Counts. Jobs are by kind and how they ended, documents by what became of them."""

    searches: Histogram = field(default_factory=Histogram)  # seconds, of those that found an end
    jobs: Counter[tuple[str, str]] = field(default_factory=Counter)
    documents: Counter[str] = field(default_factory=Counter)
    index_rebuilds: int = 0
