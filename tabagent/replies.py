"""Parts of replies that several services share, and the function that runs a generation."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from pydantic import Field

from tabagent import wire
from tabagent.catalog.models import Model, Task
from tabagent.operation import Call, Reply


class Run(Protocol):
    """Runs one generation: yields (text, tokens so far), at last Finished."""

    def __call__(
        self, call: Call, model: Model, task: Task, build: Callable[[int], wire.Generate]
    ) -> AsyncGenerator[tuple[str, int] | wire.Finished, None]: ...


class PromptDetails(Reply):
    """Where the prompt's tokens came from."""

    cached_tokens: int = Field(description="Prompt tokens that had been computed before.")


class TokenUsage(Reply):
    """OpenAI's `usage`."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Timings(Reply):
    """Where the time went, in milliseconds."""

    queued_ms: float
    prompt_ms: float
    predicted_ms: float
    predicted_per_second: float | None = Field(description="Tokens a second after the first.")


def token_usage(usage: wire.Usage) -> TokenUsage:
    return TokenUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=PromptDetails(cached_tokens=usage.cached_tokens),
    )


def timings(usage: wire.Usage) -> Timings:
    later = usage.completion_tokens - 1  # the first token belongs to the prompt's time
    rate = later / usage.predicted_ms * 1000 if later > 0 and usage.predicted_ms else None
    return Timings(
        queued_ms=round(usage.queued_ms, 2),
        prompt_ms=round(usage.prompt_ms, 2),
        predicted_ms=round(usage.predicted_ms, 2),
        predicted_per_second=round(rate, 2) if rate else None,
    )
