"""OpenAI text completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from tabagent import wire
from tabagent.operation import Call
from tabagent.replies.generation import Generator, Opened
from tabagent.services.completions.reply import CompletionAnswer, CompletionEvent, fold_completion
from tabagent.services.completions.request import CompletionRequest

__all__ = ["Completions", "fold_completion"]


class Completions:
    """Text completions."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    async def create(
        self, request: CompletionRequest, call: Call
    ) -> AsyncGenerator[CompletionEvent, None]:
        """Continue a text, streamed or whole, as OpenAI's completions.

        No chat template is applied. A text that does not fit into the context is refused.
        """
        generator = self._generator
        model = await generator.resolve(request.model)
        loras = await generator.adapters(request.adapters())
        commands = request.commands(loras, raw_grammar=generator.raw_grammar)
        answer = CompletionAnswer(call, model.id, logprobs=request.logprobs is not None)
        running = generator.steps(
            call, model, "completion", *commands, keep_alive_s=request.keep_alive
        )
        async with aclosing(running) as steps:
            async for step in steps:
                if isinstance(step, Opened):
                    continue  # says nothing here
                if request.wants_usage or not isinstance(step, wire.Usage):
                    yield CompletionEvent(step, answer)
