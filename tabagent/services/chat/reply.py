"""What a chat completion answers with: a message, or the chunks that add up to it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tabagent import wire
from tabagent.operation import Reply
from tabagent.replies.logprobs import Logprobs
from tabagent.replies.sessions import SessionNote
from tabagent.replies.usage import Timings, TokenUsage, absent


class FunctionDelta(Reply):
    """A part of a call: the name once, the arguments in fragments of JSON."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(Reply):
    """A part of a tool call; `id`, `type` and the name come once, with its first part."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class Delta(Reply):
    """What a chunk adds to the message."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChunkChoice(Reply):
    """One choice of a chunk."""

    index: int
    delta: Delta
    finish_reason: wire.FinishReason | None = None
    stop_reason: wire.StopCause | None = Field(None, description="What ended it, in detail.")
    logprobs: Logprobs | None = None


class ChatChunk(Reply):
    """One event of a streamed answer; the usage chunk has no choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: TokenUsage | None = None
    timings: Timings | None = None
    session: SessionNote | None = Field(None, description="In the first chunk, with `session_id`.")


class Function(Reply):
    """What is called; the arguments are JSON as the model wrote it."""

    name: str
    arguments: str


class MessageToolCall(Reply):
    """A call of a tool."""

    id: str
    type: Literal["function"] = "function"
    function: Function


class AnswerMessage(Reply):
    """The model's turn."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    reasoning_content: str | None = Field(None, exclude_if=absent)
    tool_calls: list[MessageToolCall] | None = Field(None, exclude_if=absent)
    refusal: None = None


class ChatChoice(Reply):
    """One answer."""

    index: int
    message: AnswerMessage
    finish_reason: wire.FinishReason
    stop_reason: wire.StopCause = Field(description="What ended it, in detail.")
    logprobs: Logprobs | None


class ChatCompletion(Reply):
    """The whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage
    timings: Timings
    session: SessionNote | None = Field(
        None, description="Where it is kept, with `session_id`.", exclude_if=absent
    )
