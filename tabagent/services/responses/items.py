"""The items that a response is asked with: messages, calls of functions and what they answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from tabagent.operation import Request
from tabagent.parameters import Meaningless, only, unsupported
from tabagent.parameters.messages import CallId

KNOWN_PARTS = ("input_text", "output_text")
KNOWN_ITEMS = ("message", "function_call", "function_call_output", "reasoning")


def _text_only(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind not in KNOWN_PARTS:
        raise unsupported(f"a part of type {kind} cannot be read by this server, text can")
    return part


class InputText(Request):
    """What somebody said."""

    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: Meaningless = None


class EchoedText(Request):
    """What the model has said before."""

    type: Literal["output_text"]
    text: str
    annotations: Meaningless = None
    logprobs: Meaningless = None


TextPart = Annotated[
    Annotated[InputText | EchoedText, Field(discriminator="type")], BeforeValidator(_text_only)
]
Text = Annotated[
    Annotated[str, Tag("string")]
    | Annotated[list[TextPart], Tag("parts"), Field(min_length=1, max_length=512)],
    Discriminator(lambda value: "parts" if isinstance(value, list) else "string"),
]


def text_of(text: str | list[InputText | EchoedText]) -> str:
    return text if isinstance(text, str) else "".join(part.text for part in text)


class _Item(Request):
    id: Meaningless = None
    status: Meaningless = None


class MessageItem(_Item):
    """What somebody said; `assistant` is the model's earlier answer."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Text
    phase: Meaningless = None


class CallItem(_Item):
    """A call of a function that the model has made."""

    type: Literal["function_call"]
    call_id: CallId
    name: str = Field(min_length=1, max_length=128)
    arguments: str


class CallOutputItem(_Item):
    """What a function answered."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: Text


class ReasoningPart(Request):
    """A piece of reasoning."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(_Item):
    """What the model thought before; shown to it again where its template does that."""

    type: Literal["reasoning"]
    summary: list[ReasoningPart] = Field([], max_length=512)
    content: Annotated[list[ReasoningPart], Field(max_length=512)] | None = None
    encrypted_content: Annotated[Any, only("it was made by another server", None)] = None

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.content or self.summary)


def _kind(item: Any) -> str:
    kind = item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", None)
    return str(kind)


def _known(item: Any) -> Any:
    kind = item.get("type") if isinstance(item, dict) else None
    if isinstance(kind, str) and kind not in KNOWN_ITEMS:
        raise unsupported(f"an item of type {kind} cannot be used by this server")
    return item


InputItem = Annotated[
    Annotated[
        Annotated[MessageItem, Tag("message")]
        | Annotated[CallItem, Tag("function_call")]
        | Annotated[CallOutputItem, Tag("function_call_output")]
        | Annotated[ReasoningItem, Tag("reasoning")],
        Discriminator(_kind),
    ],
    BeforeValidator(_known),
]
Input = Annotated[
    Annotated[str, Tag("string")]
    | Annotated[list[InputItem], Tag("items"), Field(min_length=1, max_length=1024)],
    Discriminator(lambda value: "items" if isinstance(value, list) else "string"),
]
