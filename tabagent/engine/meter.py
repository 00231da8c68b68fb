"""What models have done since the server began: counts, and how long recent requests took."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from time import monotonic
from typing import Final

from tabagent import wire
from tabagent.errors import TabAgentError

RECENT: Final = 256  # requests whose times are kept, of each model


def _recent() -> deque[float]:
    return deque(maxlen=RECENT)


@dataclass(eq=False)
class Meter:
    """One model's. Times are in milliseconds, speeds in tokens a second."""

    running: int = 0
    completed: int = 0
    cancelled: int = 0  # the caller left
    failed: Counter[str] = field(default_factory=Counter)  # by the problem's slug
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    first_token_ms: deque[float] = field(default_factory=_recent)
    queued_ms: deque[float] = field(default_factory=_recent)
    request_ms: deque[float] = field(default_factory=_recent)
    prompt_speed: deque[float] = field(default_factory=_recent)
    speed: deque[float] = field(default_factory=_recent)
    answers: list[Running] = field(default_factory=list)  # that run now

    @contextmanager
    def request(self) -> Iterator[Running]:
        """Count a request, however it ends."""
        one = Running(self)
        self.answers.append(one)
        self.running += 1
        try:
            yield one
        except TabAgentError as error:
            self.failed[error.slug] += 1
            raise
        except BaseException:
            self.cancelled += 1
            raise
        else:
            self.completed += 1
            self.request_ms.append(one.age_ms)
        finally:
            self.running -= 1
            self.answers.remove(one)


@dataclass(eq=False)
class Running:
    """One request that runs."""

    meter: Meter
    began: float = field(default_factory=monotonic)
    first: float = 0.0  # monotonic, when its first token came
    tokens: dict[int, int] = field(default_factory=dict)  # generated so far, by choice

    @property
    def age_ms(self) -> float:
        return (monotonic() - self.began) * 1000

    @property
    def speed(self) -> float:
        """Tokens a second since the first, of all its choices together."""
        seconds = monotonic() - self.first if self.first else 0.0
        later = sum(self.tokens.values()) - len(self.tokens)
        return later / seconds if seconds > 0 else 0.0

    def piece(self, piece: wire.Piece) -> None:
        """A step of its answer. Called for every token: it does as little as can be."""
        if not self.first:
            self.first = monotonic()
            self.meter.first_token_ms.append((self.first - self.began) * 1000)
        self.tokens[piece.index] = piece.tokens

    def used(self, usage: wire.Usage) -> None:
        """What a generation took, at its end."""
        meter = self.meter
        meter.prompt_tokens += usage.prompt_tokens
        meter.cached_tokens += usage.cached_tokens
        meter.completion_tokens += usage.completion_tokens
        meter.reasoning_tokens += usage.reasoning_tokens
        meter.queued_ms.append(usage.queued_ms)
        computed = usage.prompt_tokens - usage.cached_tokens
        if computed > 0 and usage.prompt_ms > 0:
            meter.prompt_speed.append(computed * 1000 / usage.prompt_ms)
        if usage.completion_tokens > 1 and usage.predicted_ms > 0:
            meter.speed.append(usage.completion_tokens * 1000 / usage.predicted_ms)


class Meters:
    """Of every model that was asked for something."""

    def __init__(self) -> None:
        self._meters: dict[str, Meter] = {}

    def of(self, model_id: str) -> Meter:
        return self._meters.setdefault(model_id, Meter())

    def all(self) -> dict[str, Meter]:
        return dict(self._meters)


def share(values: deque[float], part: float) -> float | None:
    """The smallest that is not below `part` (0 to 1) of them: nearest rank. None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, ceil(part * len(ordered)) - 1)]
