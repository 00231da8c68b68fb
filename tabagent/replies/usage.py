"""Token counts and times of a generation."""

from __future__ import annotations

from pydantic import Field

from tabagent import wire
from tabagent.operation import Reply


def absent(value: object) -> bool:
    return value is None


class PromptDetails(Reply):
    """Where the prompt's tokens came from."""

    cached_tokens: int = Field(description="Prompt tokens that had been computed before.")


class CompletionDetails(Reply):
    """What the generated tokens were."""

    reasoning_tokens: int
    accepted_prediction_tokens: int = Field(description="Guessed by speculation, rightly.")
    rejected_prediction_tokens: int = Field(description="Guessed by speculation, wrongly.")


class TokenUsage(Reply):
    """OpenAI's `usage`."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class Timings(Reply):
    """Where the time went, in milliseconds."""

    queued_ms: float
    prompt_ms: float
    predicted_ms: float
    predicted_per_second: float | None = Field(description="Tokens a second after the first.")
    draft_n: int | None = Field(
        None, description="Tokens that speculation guessed, if it ran.", exclude_if=absent
    )
    draft_n_accepted: int | None = Field(
        None, description="How many of them were right.", exclude_if=absent
    )


def token_usage(usage: wire.Usage) -> TokenUsage:
    return TokenUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=PromptDetails(cached_tokens=usage.cached_tokens),
        completion_tokens_details=CompletionDetails(
            reasoning_tokens=usage.reasoning_tokens,
            accepted_prediction_tokens=usage.accepted_tokens,
            rejected_prediction_tokens=usage.drafted_tokens - usage.accepted_tokens,
        ),
    )


def timings(usage: wire.Usage) -> Timings:
    later = usage.completion_tokens - 1  # the first token belongs to the prompt's time
    rate = later / usage.predicted_ms * 1000 if later > 0 and usage.predicted_ms else None
    return Timings(
        queued_ms=round(usage.queued_ms, 2),
        prompt_ms=round(usage.prompt_ms, 2),
        predicted_ms=round(usage.predicted_ms, 2),
        predicted_per_second=round(rate, 2) if rate else None,
        draft_n=usage.drafted_tokens or None,
        draft_n_accepted=usage.accepted_tokens if usage.drafted_tokens else None,
    )
