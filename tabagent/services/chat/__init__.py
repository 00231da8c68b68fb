"""OpenAI chat completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from tabagent import wire
from tabagent.operation import Call
from tabagent.replies.generation import Generator
from tabagent.services.chat.chunks import ChatAnswer, ChatEvent, fold_chat
from tabagent.services.chat.request import ChatRequest

__all__ = ["Chat", "fold_chat"]


class Chat:
    """Chat completions."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    async def create(self, request: ChatRequest, call: Call) -> AsyncGenerator[ChatEvent, None]:
        """Answer a conversation, streamed or whole, as OpenAI's chat completions.

        The conversation goes through the model's own chat template. A conversation that does not
        fit into the context is refused, never cut.
        """
        generator = self._generator
        model = await generator.resolve(request.model)
        loras = await generator.adapters(request.adapters())
        command = request.command(loras, raw_grammar=generator.raw_grammar)
        answer = ChatAnswer(call, model.id, logprobs=command.logprobs is not None)
        running = generator.steps(call, model, "chat", command, keep_alive_s=request.keep_alive)
        async with aclosing(running) as steps:
            async for step in steps:
                if request.wants_usage or not isinstance(step, wire.Usage):
                    yield ChatEvent(step, answer)
