"""A response: what was asked, how it went, and the items that the model put out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from tabagent import wire
from tabagent.operation import Reply
from tabagent.replies.logprobs import TokenLogprob
from tabagent.replies.sessions import SessionNote
from tabagent.replies.usage import Timings, absent

Status = Literal["in_progress", "completed", "incomplete", "failed"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(Reply):
    """What the model says."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = []
    logprobs: list[TokenLogprob] = []


class OutputMessage(Reply):
    """The model's turn."""

    id: str
    type: Literal["message"] = "message"
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class ReasoningText(Reply):
    """What the model thinks."""

    type: Literal["reasoning_text"] = "reasoning_text"
    text: str


class OutputReasoning(Reply):
    """The model's reasoning, whole; it may be sent back as an input item."""

    id: str
    type: Literal["reasoning"] = "reasoning"
    status: ItemStatus
    summary: list[Any] = []
    content: list[ReasoningText]


class OutputCall(Reply):
    """A call of a function; the arguments are JSON as the model wrote it."""

    id: str
    type: Literal["function_call"] = "function_call"
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


OutputItem = Annotated[OutputMessage | OutputReasoning | OutputCall, Field(discriminator="type")]


class InputDetails(Reply):
    """Where the prompt's tokens came from."""

    cached_tokens: int
    cache_write_tokens: int = Field(description="Computed now, for this and later responses.")


class OutputDetails(Reply):
    """What the generated tokens were."""

    reasoning_tokens: int


class ResponseUsage(Reply):
    """OpenAI's `usage` of a response."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class IncompleteDetails(Reply):
    """Why the model did not come to an end."""

    reason: Literal["max_output_tokens", "halted"]


class ResponseFailure(Reply):
    """What went wrong; `code` is the problem's."""

    code: str
    message: str


class ResponseObject(Reply):
    """A response, as far as it has come."""

    id: str
    object: Literal["response"] = "response"
    created_at: int = Field(description="Unix seconds.")
    completed_at: int | None = None
    status: Status
    background: Literal[False] = False
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem] = []
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: dict[str, Any]
    store: bool = Field(description="Whether it is kept; a conversation may be too large for it.")
    temperature: float | None
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float | None
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    timings: Timings | None = None
    session: SessionNote | None = Field(
        None, description="Where it is kept, with `session_id`.", exclude_if=absent
    )


def response_usage(usage: wire.Usage) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputDetails(
            cached_tokens=usage.cached_tokens,
            cache_write_tokens=usage.prompt_tokens - usage.cached_tokens,
        ),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputDetails(reasoning_tokens=usage.reasoning_tokens),
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )
