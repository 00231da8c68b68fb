"""OpenAI chat completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from tabagent import wire
from tabagent.operation import Call
from tabagent.parameters.messages import plain
from tabagent.replies.generation import Generator
from tabagent.services.chat.chunks import ChatAnswer, ChatEvent, fold_chat
from tabagent.services.chat.request import ChatRequest
from tabagent.sessions.keeper import Keeper

__all__ = ["Chat", "fold_chat"]


class Chat:
    """Chat completions."""

    def __init__(self, generator: Generator, keeper: Keeper) -> None:
        self._generator, self._keeper = generator, keeper

    async def create(self, request: ChatRequest, call: Call) -> AsyncGenerator[ChatEvent, None]:
        """Answer a conversation, streamed or whole, as OpenAI's chat completions.

        The conversation goes through the model's own chat template. One that does not fit into the
        context is refused, never cut. With `session_id` the session's history comes before it, as
        much as fits, and the reply says how much did not; what is said is saved before it is
        answered, and the answer when it ends, also when it is cut off.
        """
        generator, keeper = self._generator, self._keeper
        session = await keeper.session(request.session_id)
        model = await generator.resolve(request.model or (session.model if session else None))
        loras = await generator.adapters(request.adapters())
        raw_grammar = generator.raw_grammar
        request.command([], loras, raw_grammar=raw_grammar)  # raises before anything is saved
        said = plain(request.messages)
        async with keeper.turn(
            request, session, said, model, request.dialogue(), request.most_tokens
        ) as turn:
            command = request.command(turn.messages, loras, raw_grammar=raw_grammar)
            answer = ChatAnswer(
                call, model.id, logprobs=command.logprobs is not None, session=turn.note
            )
            running = generator.steps(call, model, "chat", command, keep_alive_s=request.keep_alive)
            async with aclosing(running) as steps:
                async for step in steps:
                    turn.add(step)
                    if isinstance(step, wire.Usage):
                        await turn.end()
                    if request.wants_usage or not isinstance(step, wire.Usage):
                        yield ChatEvent(step, answer)
