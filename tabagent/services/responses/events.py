"""The events of a streamed response, as OpenAI types them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, RootModel

from tabagent.operation import Event, Reply
from tabagent.replies.logprobs import TokenLogprob
from tabagent.services.responses.reply import (
    OutputItem,
    OutputText,
    ReasoningText,
    ResponseObject,
)


class Typed(Reply):
    """What all events have; the numbers count from 0 without a gap."""

    sequence_number: int


class ResponseCreated(Typed):
    """The first event."""

    type: Literal["response.created"] = "response.created"
    response: ResponseObject


class ResponseInProgress(Typed):
    """The model is at work."""

    type: Literal["response.in_progress"] = "response.in_progress"
    response: ResponseObject


class ResponseCompleted(Typed):
    """The last event: the model has come to an end."""

    type: Literal["response.completed"] = "response.completed"
    response: ResponseObject


class ResponseIncomplete(Typed):
    """The last event: the model was stopped before its end."""

    type: Literal["response.incomplete"] = "response.incomplete"
    response: ResponseObject


class ResponseFailed(Typed):
    """The last event but the error itself, which follows as `event: error`."""

    type: Literal["response.failed"] = "response.failed"
    response: ResponseObject


class OutputItemAdded(Typed):
    """An item begins."""

    type: Literal["response.output_item.added"] = "response.output_item.added"
    output_index: int
    item: OutputItem


class OutputItemDone(Typed):
    """An item is whole."""

    type: Literal["response.output_item.done"] = "response.output_item.done"
    output_index: int
    item: OutputItem


class _OfItem(Typed):
    item_id: str
    output_index: int


class _OfPart(_OfItem):
    content_index: int


class ContentPartAdded(_OfPart):
    """A part of an item begins."""

    type: Literal["response.content_part.added"] = "response.content_part.added"
    part: Annotated[OutputText | ReasoningText, Field(discriminator="type")]


class ContentPartDone(_OfPart):
    """A part of an item is whole."""

    type: Literal["response.content_part.done"] = "response.content_part.done"
    part: Annotated[OutputText | ReasoningText, Field(discriminator="type")]


class OutputTextDelta(_OfPart):
    """The model says more."""

    type: Literal["response.output_text.delta"] = "response.output_text.delta"
    delta: str
    logprobs: list[TokenLogprob]


class OutputTextDone(_OfPart):
    """The model has said it all."""

    type: Literal["response.output_text.done"] = "response.output_text.done"
    text: str
    logprobs: list[TokenLogprob]


class ReasoningTextDelta(_OfPart):
    """The model thinks on."""

    type: Literal["response.reasoning_text.delta"] = "response.reasoning_text.delta"
    delta: str


class ReasoningTextDone(_OfPart):
    """The model has thought enough."""

    type: Literal["response.reasoning_text.done"] = "response.reasoning_text.done"
    text: str


class ArgumentsDelta(_OfItem):
    """More of a call's arguments."""

    type: Literal["response.function_call_arguments.delta"] = (
        "response.function_call_arguments.delta"
    )
    delta: str


class ArgumentsDone(_OfItem):
    """A call's arguments are whole."""

    type: Literal["response.function_call_arguments.done"] = "response.function_call_arguments.done"
    name: str
    arguments: str


AnyEvent = (
    ResponseCreated
    | ResponseInProgress
    | ResponseCompleted
    | ResponseIncomplete
    | ResponseFailed
    | OutputItemAdded
    | OutputItemDone
    | ContentPartAdded
    | ContentPartDone
    | OutputTextDelta
    | OutputTextDone
    | ReasoningTextDelta
    | ReasoningTextDone
    | ArgumentsDelta
    | ArgumentsDone
)


class ResponseStreamEvent(RootModel[Annotated[AnyEvent, Field(discriminator="type")]]):
    """One event of a streamed response. Which one, its `type` says, and its SSE name as well."""


class ResponseEvent(Event):
    """One event of a streamed response."""

    __slots__ = ("told",)
    documented_as = ResponseStreamEvent

    def __init__(self, told: AnyEvent) -> None:
        self.told = told

    @property
    def name(self) -> str:
        return self.told.type

    def encode(self) -> bytes:
        return self.told.encode()
