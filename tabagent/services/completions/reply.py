"""Text completions from the steps of a generation: part by part, or folded."""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterator
from typing import Any, Literal

from pydantic import Field

from tabagent import wire
from tabagent.operation import Call, Reply
from tabagent.replies.answer import Answer, StepEvent, fold
from tabagent.replies.generation import Ended, Opened
from tabagent.replies.logprobs import LEAST
from tabagent.replies.usage import Timings, TokenUsage, timings, token_usage


class TokenTable(Reply):
    """Probabilities of the tokens, one entry each; nothing predicts the first of a prompt."""

    tokens: list[str] = Field(description="A part of a character is shown as U+FFFD.")
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int] = Field(description="Characters of `text` before the token.")


class CompletionChoice(Reply):
    """One continuation, or a part of it."""

    index: int
    text: str
    finish_reason: wire.FinishReason | None
    stop_reason: wire.StopCause | None = Field(None, description="What ended it, in detail.")
    logprobs: TokenTable | None = None


class Completion(Reply):
    """A continuation; also one event of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: TokenUsage | None = None
    timings: Timings | None = None


class CompletionAnswer(Answer):
    """Writes the parts of a completion."""

    prefix, object = "cmpl-", "text_completion"

    def __init__(self, call: Call, model: str, *, logprobs: bool) -> None:
        super().__init__(call, model, logprobs=logprobs)
        self._offsets: dict[int, _Offset] = {}

    def part(self, step: Opened | wire.Piece | Ended) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": step.index, "text": "", "finish_reason": None}
        if isinstance(step, wire.Piece):
            choice["text"] = step.text
            if step.chances:
                offset = self._offsets.setdefault(step.index, _Offset())
                choice["logprobs"] = token_table(step.chances, offset)
        elif isinstance(step, Ended):
            choice["finish_reason"] = step.ending.reason
            choice["stop_reason"] = step.ending.cause
        return choice


class CompletionEvent(StepEvent):
    """A step of a completion."""

    __slots__ = ()
    documented_as = Completion
    answer: CompletionAnswer


class _Offset:
    """Where in a text the next token begins, though a token may end within a character."""

    def __init__(self) -> None:
        self._characters = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def advance(self, token: bytes) -> int:
        """The characters before `token`, which then counts as told."""
        before = self._characters
        self._characters += len(self._decoder.decode(token))
        return before


def token_table(chances: list[wire.Chance], offset: _Offset) -> dict[str, Any]:
    """As TokenTable has it; the token itself is among the likeliest, whatever its rank."""
    return {
        "tokens": [_shown(chance.token) for chance in chances],
        "token_logprobs": [
            None if chance.logprob is None else max(chance.logprob, LEAST) for chance in chances
        ],
        "top_logprobs": [_top(chance) for chance in chances],
        "text_offset": [offset.advance(chance.token) for chance in chances],
    }


def _top(chance: wire.Chance) -> dict[str, float] | None:
    if chance.logprob is None:
        return None
    rows = [*chance.top, (chance.token, chance.logprob)]
    return {_shown(token): max(logprob, LEAST) for token, logprob in rows}


def _shown(token: bytes) -> str:
    return token.decode(errors="replace")


async def fold_completion(events: AsyncIterator[CompletionEvent]) -> Completion:
    """The plain reply that a stream of parts amounts to."""
    last, whole = await fold(events)
    answer = last.answer
    return Completion(
        id=answer.id,
        created=answer.created,
        model=answer.model,
        choices=[
            CompletionChoice(
                index=choice.index,
                text=choice.text,
                finish_reason=choice.ending.reason if choice.ending else None,
                stop_reason=choice.ending.cause if choice.ending else None,
                logprobs=TokenTable(**token_table(choice.chances, _Offset()))
                if answer.logprobs
                else None,
            )
            for choice in whole.choices
        ],
        usage=token_usage(whole.usage),
        timings=timings(whole.usage),
    )
