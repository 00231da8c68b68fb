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
from tabagent.exchange import CANCELLED, EXCHANGE, Inference
from tabagent.telemetry.histogram import BETWEEN_TOKENS, Histogram

RECENT: Final = 256  # requests whose times are kept, of each model


def _recent() -> deque[float]:
    return deque(maxlen=RECENT)


@dataclass(eq=False)
class Meter:
    """One model's. Times are in milliseconds, speeds in tokens a second; of histograms in seconds."""

    model: str = ""
    running: int = 0
    completed: int = 0
    cancelled: int = 0  # the caller left
    failed: Counter[str] = field(default_factory=Counter)  # by the problem's slug
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    generated_tokens: int = 0  # as they come, also of answers that nobody waited for
    first_token: Histogram = field(default_factory=Histogram)
    between_tokens: Histogram = field(default_factory=lambda: Histogram(BETWEEN_TOKENS))
    seconds: Histogram = field(default_factory=Histogram)  # of completed requests
    first_token_ms: deque[float] = field(default_factory=_recent)
    queued_ms: deque[float] = field(default_factory=_recent)
    request_ms: deque[float] = field(default_factory=_recent)
    prompt_speed: deque[float] = field(default_factory=_recent)
    speed: deque[float] = field(default_factory=_recent)
    answers: list[Running] = field(default_factory=list)  # that run now

    @contextmanager
    def request(self, kind: str) -> Iterator[Running]:
        """Count a request, however it ends. `kind` is the model's task."""
        one = Running(self, Inference(kind, self.model))
        self.answers.append(one)
        self.running += 1
        try:
            yield one
        except TabAgentError as error:
            self.failed[error.slug] += 1
            one.inference.outcome = error.slug
            raise
        except BaseException:
            self.cancelled += 1
            one.inference.outcome = CANCELLED
            raise
        else:
            self.completed += 1
            self.request_ms.append(one.age_ms)
            self.seconds.observe(one.age_ms / 1000)
        finally:
            self.running -= 1
            self.answers.remove(one)
            one.end()


@dataclass(eq=False)
class Running:
    """One request that runs."""

    meter: Meter
    inference: Inference
    began: float = field(default_factory=monotonic)
    first: float = 0.0  # monotonic, when its first token came
    last: float = 0.0  # and its newest, of the first choice
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
        now, meter, index = monotonic(), self.meter, piece.index
        came = piece.tokens - self.tokens.get(index, 0)
        self.tokens[index] = piece.tokens
        meter.generated_tokens += came
        if not self.first:
            self.first = now
            meter.first_token_ms.append((now - self.began) * 1000)
            meter.first_token.observe(now - self.began)
        elif not index and came > 0 and self.last:
            meter.between_tokens.observe((now - self.last) / came, came)
        if not index:
            self.last = now

    def read(self, tokens: int) -> None:
        """What was read whole, of a request that generates nothing."""
        self.meter.prompt_tokens += tokens
        self.inference.prompt_tokens = tokens

    def end(self) -> None:
        """Tell whose it is what it took."""
        if exchange := EXCHANGE.get():
            took = self.inference
            took.first, took.ended = self.first, monotonic()
            took.completion_tokens = max(took.completion_tokens, sum(self.tokens.values()))
            exchange.took(took)

    def used(self, usage: wire.Usage) -> None:
        """What a generation took, at its end."""
        meter, took = self.meter, self.inference
        took.prompt_tokens, took.cached_tokens = usage.prompt_tokens, usage.cached_tokens
        took.completion_tokens, took.reasoning_tokens = (
            usage.completion_tokens,
            usage.reasoning_tokens,
        )
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
        if model_id not in self._meters:
            self._meters[model_id] = Meter(model_id)
        return self._meters[model_id]

    def all(self) -> dict[str, Meter]:
        return dict(self._meters)


def share(values: deque[float], part: float) -> float | None:
    """The smallest that is not below `part` (0 to 1) of them: nearest rank. None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, ceil(part * len(ordered)) - 1)]
