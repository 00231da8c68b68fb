"""The messages of a conversation, in OpenAI's shape, and as chat templates want them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from tabagent.operation import Request
from tabagent.parameters import Meaningless, NotYet, Whole, only, unsupported


def _text_only(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("image_url", "input_audio", "file", "video_url"):
        raise unsupported(f"a part of type {kind} cannot be read by this server, text can")
    return part


class TextPart(Request):
    """A piece of a message's text."""

    type: Literal["text"]
    text: str


Part = Annotated[TextPart, BeforeValidator(_text_only)]
Content = Annotated[
    Annotated[str, Tag("string")]
    | Annotated[list[Part], Tag("parts"), Field(min_length=1, max_length=512)],
    Discriminator(lambda value: "parts" if isinstance(value, list) else "string"),
]
Name = Annotated[str | None, Field(max_length=64)]
CallId = Annotated[str, Field(min_length=1, max_length=256)]


def text_of(content: str | list[TextPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


class SystemMessage(Request):
    """How the model should behave; `developer` is another word for it."""

    role: Literal["system", "developer"]
    content: Content
    name: Name = None

    def plain(self) -> dict[str, Any]:
        return _named({"role": "system", "content": text_of(self.content)}, self.name)


class UserMessage(Request):
    """What a person says."""

    role: Literal["user"]
    content: Content
    name: Name = None

    def plain(self) -> dict[str, Any]:
        return _named({"role": "user", "content": text_of(self.content)}, self.name)


class CalledFunction(Request):
    """The function of a tool call, and its arguments as the model wrote them."""

    name: str = Field(min_length=1, max_length=128)
    arguments: str


class EchoedCall(Request):
    """A tool call of an earlier answer."""

    id: CallId
    type: Literal["function"] = "function"
    function: CalledFunction
    index: Annotated[
        Whole | None, Field(ge=0, description="As streams have it; the order of the list counts.")
    ] = None


class AssistantMessage(Request):
    """An earlier answer of the model, with the tools that it called."""

    role: Literal["assistant"]
    content: Content | None = None
    name: Name = None
    reasoning_content: str | None = Field(
        None, description="Its reasoning, for templates that show it to the model again."
    )
    reasoning: str | None = Field(None, description="Another name for `reasoning_content`.")
    tool_calls: Annotated[list[EchoedCall], Field(max_length=64)] | None = None
    function_call: Annotated[NotYet, Field(description="Use `tool_calls`.")] = None
    refusal: Annotated[Any, only("no model here refuses this way", None)] = None
    audio: NotYet = None
    annotations: Meaningless = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and not (self.tool_calls or self.thoughts):
            raise ValueError("an assistant message has content or tool_calls")
        if self.reasoning and self.reasoning_content not in (None, self.reasoning):
            raise ValueError("reasoning and reasoning_content say different things")
        return self

    @property
    def thoughts(self) -> str | None:
        return self.reasoning_content or self.reasoning

    def plain(self) -> dict[str, Any]:
        calls = [
            call.model_dump(include={"id", "type", "function"}) for call in self.tool_calls or ()
        ]
        content = text_of(self.content or "") or (None if calls else "")
        return _named(
            {
                "role": "assistant",
                "content": content,
                **({"reasoning_content": self.thoughts} if self.thoughts else {}),
                **({"tool_calls": calls} if calls else {}),
            },
            self.name,
        )


class ToolMessage(Request):
    """What a tool answered."""

    role: Literal["tool"]
    content: Content
    tool_call_id: CallId
    name: Name = None

    def plain(self) -> dict[str, Any]:
        said = {
            "role": "tool",
            "content": text_of(self.content),
            "tool_call_id": self.tool_call_id,
        }
        return _named(said, self.name)


def _named(message: dict[str, Any], name: str | None) -> dict[str, Any]:
    return {**message, "name": name} if name else message


ChatMessage = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]
Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=512)]


def plain(messages: list[ChatMessage]) -> list[dict[str, Any]]:
    """As `wire.Generate.messages` and chat templates have them.

    `content` is a string, or None beside tool calls; the arguments of a call are a string.
    """
    return [message.plain() for message in messages]
