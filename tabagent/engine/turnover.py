"""How models came and went since the server began."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tabagent.telemetry.histogram import Histogram


@dataclass(eq=False)
class Turnover:
    """By model. `loads` counts those after a crash as well."""

    loads: Counter[str] = field(default_factory=Counter)
    load_seconds: Histogram = field(default_factory=Histogram)
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)  # model, problem
    evictions: Counter[str] = field(default_factory=Counter)  # for another model
    restarts: Counter[str] = field(default_factory=Counter)  # after a crash

    def loaded(self, model: str, seconds: float) -> None:
        self.loads[model] += 1
        self.load_seconds.observe(seconds)
