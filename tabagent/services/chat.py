"""OpenAI chat completions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tabagent import wire
from tabagent.catalog.models import Model
from tabagent.operation import Call, Reply, Request
from tabagent.parameters import GenerationParameters, Meaningless, NotYet, Whole
from tabagent.replies import Run, Timings, TokenUsage, timings, token_usage


class TextPart(Request):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(Request):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=512)]
    name: str | None = Field(None, max_length=64)
    tool_calls: Annotated[None, Field(description="Not supported yet.")] = None
    refusal: Annotated[None, Field(description="Accepted as null, as clients echo it.")] = None

    def plain(self) -> dict[str, Any]:
        """As a chat template wants it."""
        content = self.content
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": content, **({"name": self.name} if self.name else {})}


class ChatRequest(GenerationParameters):
    """A conversation to continue."""

    model_config = {
        "json_schema_extra": {
            "examples": [
                {
                    "messages": [{"role": "user", "content": "How do I pull a model?"}],
                    "max_tokens": 128,
                    "stream": False,
                }
            ]
        }
    }

    messages: list[ChatMessage] = Field(min_length=1, max_length=512)
    max_completion_tokens: Whole | None = Field(None, ge=1, description="Same as `max_tokens`.")
    tools: NotYet = None
    tool_choice: NotYet = None
    parallel_tool_calls: Meaningless = Field(None, description="Has no meaning without tools.")
    functions: NotYet = None
    function_call: NotYet = None
    response_format: NotYet = None
    top_logprobs: NotYet = None
    modalities: NotYet = None
    audio: NotYet = None
    prediction: NotYet = None
    reasoning_effort: NotYet = None
    web_search_options: NotYet = None
    store: Meaningless = None

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if self.max_tokens and self.max_completion_tokens not in (None, self.max_tokens):
            raise ValueError("max_tokens and max_completion_tokens say different things")
        return self


class Delta(Reply):
    """What a chunk adds to the message."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(Reply):
    """One choice of a chunk."""

    index: int
    delta: Delta
    finish_reason: wire.FinishReason | None = None
    stop_reason: wire.StopCause | None = Field(None, description="What ended it, in detail.")


class ChatChunk(Reply):
    """One event of a streamed answer; the usage chunk has no choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: TokenUsage | None = None
    timings: Timings | None = None

    def encode(self) -> bytes:
        return self.__pydantic_serializer__.to_json(self, exclude_unset=True)


class AnswerMessage(Reply):
    """The model's turn."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(Reply):
    """One answer."""

    index: int
    message: AnswerMessage
    finish_reason: wire.FinishReason
    stop_reason: wire.StopCause | None = Field(None, description="What ended it, in detail.")
    logprobs: None = None


class ChatCompletion(Reply):
    """The whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage
    timings: Timings


class Chat:
    """`resolve` finds a model by name; `run` runs one generation."""

    def __init__(self, resolve: Callable[[str | None], Awaitable[Model]], run: Run) -> None:
        self._resolve, self._run = resolve, run

    async def create(self, request: ChatRequest, call: Call) -> AsyncGenerator[ChatChunk, None]:
        """Answer a conversation, streamed or whole, as OpenAI's chat completions.

        The conversation goes through the model's own chat template. A conversation that does not
        fit into the context is refused, never cut.
        """
        model = await self._resolve(request.model)
        head: dict[str, Any] = {
            "id": "chatcmpl-" + call.request_id.replace("-", ""),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model.id,
        }

        def chunk(**fields: Any) -> ChatChunk:
            return ChatChunk.model_construct(**head, **fields)

        def choice(delta: Delta, **fields: Any) -> list[ChunkChoice]:
            return [ChunkChoice.model_construct(index=0, delta=delta, **fields)]

        def build(id_: int) -> wire.Generate:
            return wire.Generate(
                id_,
                sampling=request.sampling(),
                messages=[message.plain() for message in request.messages],
                max_tokens=request.max_completion_tokens or request.max_tokens,
                stop=request.stops(),
            )

        first = True
        pieces = self._run(call, model, "chat", build)
        async with aclosing(pieces):
            async for piece in pieces:
                if first:
                    first = False
                    opening = Delta.model_construct(role="assistant", content="")
                    yield chunk(choices=choice(opening, finish_reason=None))
                if isinstance(piece, wire.Finished):
                    ending = choice(
                        Delta.model_construct(),
                        finish_reason=piece.reason,
                        stop_reason=piece.cause,
                    )
                    yield chunk(choices=ending)
                    if request.wants_usage:
                        yield chunk(
                            choices=[],
                            usage=token_usage(piece.usage),
                            timings=timings(piece.usage),
                        )
                else:
                    delta = Delta.model_construct(content=piece[0])
                    yield chunk(choices=choice(delta, finish_reason=None))


async def fold_chat(chunks: AsyncIterator[ChatChunk]) -> ChatCompletion:
    """The plain reply that a stream of chunks amounts to."""
    text: list[str] = []
    end: ChunkChoice | None = None
    async for chunk in chunks:
        for choice in chunk.choices:
            text.append(choice.delta.content or "")
            end = choice
    assert end is not None and end.finish_reason and chunk.usage and chunk.timings
    return ChatCompletion(
        id=chunk.id,
        created=chunk.created,
        model=chunk.model,
        choices=[
            ChatChoice(
                index=0,
                message=AnswerMessage(content="".join(text)),
                finish_reason=end.finish_reason,
                stop_reason=end.stop_reason,
            )
        ],
        usage=chunk.usage,
        timings=chunk.timings,
    )
