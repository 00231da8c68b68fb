"""OpenAI text completions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Literal

from pydantic import Field

from tabagent import wire
from tabagent.catalog.models import Model
from tabagent.operation import Call, Reply
from tabagent.parameters import GenerationParameters, NotYet
from tabagent.replies import Run, Timings, TokenUsage, timings, token_usage


class CompletionRequest(GenerationParameters):
    """A text to continue."""

    model_config = {
        "json_schema_extra": {
            "examples": [{"prompt": "TabAgent is", "max_tokens": 24, "temperature": 0}]
        }
    }

    prompt: str = Field(description="Taken as plain text: special tokens in it are text.")
    echo: NotYet = None
    suffix: NotYet = None
    best_of: NotYet = None


class CompletionChoice(Reply):
    """One continuation, or a part of it."""

    index: int
    text: str
    finish_reason: wire.FinishReason | None
    stop_reason: wire.StopCause | None = Field(None, description="What ended it, in detail.")
    logprobs: None = None


class Completion(Reply):
    """A continuation; also one event of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: TokenUsage | None = None
    timings: Timings | None = None


class Completions:
    """`resolve` finds a model by name; `run` runs one generation."""

    def __init__(self, resolve: Callable[[str | None], Awaitable[Model]], run: Run) -> None:
        self._resolve, self._run = resolve, run

    async def create(
        self, request: CompletionRequest, call: Call
    ) -> AsyncGenerator[Completion, None]:
        """Continue a text, streamed or whole, as OpenAI's completions.

        No chat template is applied. A text that does not fit into the context is refused.
        """
        model = await self._resolve(request.model)
        id_, created = "cmpl-" + call.request_id.replace("-", ""), int(time.time())

        def build(command_id: int) -> wire.Generate:
            return wire.Generate(
                command_id,
                sampling=request.sampling(),
                text=request.prompt,
                max_tokens=request.max_tokens,
                stop=request.stops(),
            )

        pieces = self._run(call, model, "completion", build)
        async with aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, wire.Finished):
                    end = CompletionChoice(
                        index=0, text="", finish_reason=piece.reason, stop_reason=piece.cause
                    )
                    yield Completion(id=id_, created=created, model=model.id, choices=[end])
                    if request.wants_usage:
                        yield Completion(
                            id=id_,
                            created=created,
                            model=model.id,
                            choices=[],
                            usage=token_usage(piece.usage),
                            timings=timings(piece.usage),
                        )
                else:
                    part = CompletionChoice(index=0, text=piece[0], finish_reason=None)
                    yield Completion(id=id_, created=created, model=model.id, choices=[part])


async def fold_completion(parts: AsyncIterator[Completion]) -> Completion:
    """The plain reply that a stream of parts amounts to."""
    text: list[str] = []
    end: CompletionChoice | None = None
    async for part in parts:
        for choice in part.choices:
            text.append(choice.text)
            end = choice
    assert end is not None
    whole = end.model_copy(update={"text": "".join(text)})
    return part.model_copy(update={"choices": [whole]})
