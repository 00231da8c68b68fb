"""Probabilities of tokens, in the shape of chat completions and responses."""

from __future__ import annotations

from typing import Any

from tabagent import wire
from tabagent.operation import Reply


class TopLogprob(Reply):
    """A token that could have been."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(Reply):
    """A token of the answer. A part of a character is shown as U+FFFD; `bytes` has it whole."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class Logprobs(Reply):
    """Of every token of an answer, or of a part of it."""

    content: list[TokenLogprob]
    refusal: None = None


LEAST = -9999.0
"""What stands for the logarithm of nothing, which JSON has no number for."""


def token_logprobs(chances: list[wire.Chance]) -> list[dict[str, Any]]:
    """Each as TokenLogprob has it, without the cost of a model for each."""
    return [
        {
            **_entry(chance.token, LEAST if chance.logprob is None else chance.logprob),
            "top_logprobs": [_entry(token, logprob) for token, logprob in chance.top],
        }
        for chance in chances
    ]


def _entry(token: bytes, logprob: float) -> dict[str, Any]:
    return {
        "token": token.decode(errors="replace"),
        "logprob": max(logprob, LEAST),
        "bytes": list(token),
    }
