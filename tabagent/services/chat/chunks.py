"""Chat completions from the steps of a generation: chunk by chunk, or folded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from tabagent import wire
from tabagent.operation import Call
from tabagent.replies.answer import Answer, Choice, StepEvent, fold
from tabagent.replies.generation import Ended, Opened, Step
from tabagent.replies.logprobs import Logprobs, TokenLogprob, token_logprobs
from tabagent.replies.sessions import SessionNote
from tabagent.replies.usage import timings, token_usage
from tabagent.services.chat.reply import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    Function,
    MessageToolCall,
)


class ChatAnswer(Answer):
    """Writes chunks, and choices that are whole."""

    prefix, object = "chatcmpl-", "chat.completion.chunk"

    def __init__(
        self, call: Call, model: str, *, logprobs: bool, session: SessionNote | None = None
    ) -> None:
        super().__init__(call, model, logprobs=logprobs)
        self.session = session

    def encode(self, step: Step) -> bytes:
        encoded = super().encode(step)
        if self.session is None or not isinstance(step, Opened):
            return encoded
        return encoded[:-1] + b',"session":' + self.session.encode() + b"}"

    def part(self, step: Opened | wire.Piece | Ended) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": step.index, "delta": {}, "finish_reason": None}
        if isinstance(step, wire.Piece):
            choice["delta"] = _delta(step)
            if step.chances:
                choice["logprobs"] = {"content": token_logprobs(step.chances), "refusal": None}
        elif isinstance(step, Ended):
            choice["finish_reason"] = step.ending.reason
            choice["stop_reason"] = step.ending.cause
        else:
            choice["delta"] = {"role": "assistant", "content": ""}
        return choice

    def choice(self, choice: Choice) -> ChatChoice:
        """A whole choice."""
        assert choice.ending is not None
        content = [TokenLogprob(**entry) for entry in token_logprobs(choice.chances)]
        calls = [
            MessageToolCall(id=c.id, function=Function(name=c.name, arguments=c.arguments))
            for c in choice.calls
        ]
        return ChatChoice(
            index=choice.index,
            message=AnswerMessage(
                content=choice.text or (None if calls else ""),
                reasoning_content=choice.reasoning or None,
                tool_calls=calls or None,
            ),
            finish_reason=choice.ending.reason,
            stop_reason=choice.ending.cause,
            logprobs=Logprobs(content=content) if self.logprobs else None,
        )


def _delta(piece: wire.Piece) -> dict[str, Any]:
    delta: dict[str, Any] = {}
    if piece.text:
        delta["content"] = piece.text
    if piece.reasoning:
        delta["reasoning_content"] = piece.reasoning
    if piece.tools:
        delta["tool_calls"] = [_call(part) for part in piece.tools]
    return delta


def _call(part: wire.ToolDelta) -> dict[str, Any]:
    if part.id is None:
        return {"index": part.index, "function": {"arguments": part.arguments}}
    function = {"name": part.name, "arguments": part.arguments}
    return {"index": part.index, "id": part.id, "type": "function", "function": function}


class ChatEvent(StepEvent):
    """A step of a chat completion."""

    __slots__ = ()
    documented_as = ChatChunk
    answer: ChatAnswer


async def fold_chat(events: AsyncIterator[ChatEvent]) -> ChatCompletion:
    """The plain reply that a stream of chunks amounts to."""
    last, whole = await fold(events)
    answer = last.answer
    return ChatCompletion(
        id=answer.id,
        created=answer.created,
        model=answer.model,
        choices=[answer.choice(choice) for choice in whole.choices],
        usage=token_usage(whole.usage),
        timings=timings(whole.usage),
        session=answer.session,
    )
