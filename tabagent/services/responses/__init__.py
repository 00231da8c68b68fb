"""OpenAI responses."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Final

from tabagent import wire
from tabagent.errors import InvalidRequest, TabAgentError
from tabagent.operation import Call
from tabagent.replies.generation import Generator
from tabagent.services.responses.events import (
    ResponseCompleted,
    ResponseEvent,
    ResponseIncomplete,
)
from tabagent.services.responses.narrator import Narrator
from tabagent.services.responses.reply import (
    OutputCall,
    OutputItem,
    OutputMessage,
    OutputReasoning,
    ResponseObject,
)
from tabagent.services.responses.request import ResponseRequest
from tabagent.services.responses.shelf import Shelf
from tabagent.services.responses.transcript import Message, Transcript
from tabagent.sessions.keeper import Keeper

ECHOED: Final = ("type", "name", "description", "parameters", "strict")

__all__ = ["Responses", "Shelf", "fold_response"]


class Responses:
    """Responses, and the conversations that they may go on from."""

    def __init__(self, generator: Generator, keeper: Keeper, shelf: Shelf) -> None:
        self._generator, self._keeper, self._shelf = generator, keeper, shelf

    async def create(
        self, request: ResponseRequest, call: Call
    ) -> AsyncGenerator[ResponseEvent, None]:
        """Go on with a conversation, streamed or whole, as OpenAI's responses.

        With `previous_response_id` the conversation up to that response comes first. Conversations
        are kept in the database: a limited number, for the same caller only. With `session_id` the
        response is a part of that session, as a chat completion is.
        """
        keeper, previous = self._keeper, request.previous_response_id
        session = await keeper.session(request.session_id)
        after, history = await self._shelf.find(call.caller, previous) if previous else (None, [])
        transcript = request.transcript(history)
        model = await self._generator.resolve(request.model or (session.model if session else None))
        response = _begun(request, call, model.id)
        # What is new begins where the history ended, whatever was joined to its last turn.
        said = transcript.messages[len(history) :]
        async with keeper.turn(
            request,
            session,
            said if session else transcript.messages,
            model,
            request.dialogue(),
            request.max_output_tokens,
        ) as turn:
            response.session = turn.note
            narrator = Narrator(response)
            running = self._generator.steps(
                call,
                model,
                "chat",
                request.command(turn.messages),
                keep_alive_s=request.keep_alive,
            )
            async with aclosing(running) as steps:
                try:
                    async for step in steps:
                        turn.add(step)
                        if isinstance(step, wire.Usage):
                            new = [*said, *_answer(narrator.output)]
                            row = self._shelf.row(call.caller, response.id, new)
                            narrator.stored = response.store and row is not None
                            await turn.end(row if narrator.stored else None)
                            if narrator.stored and row and not session:
                                narrator.stored = await self._shelf.keep(row, new, after)
                        for event in narrator.tell(step):
                            yield ResponseEvent(event)
                except TabAgentError as error:
                    for event in narrator.fail(error):
                        yield ResponseEvent(event)
                    raise _about_input(error) from error


def _about_input(error: TabAgentError) -> TabAgentError:
    """`error`, which points at messages where the request had items."""
    if not isinstance(error, InvalidRequest) or error.param != "messages":
        return error
    details = [entry["detail"] for entry in error.members.get("errors", ())] or [error.detail]
    return InvalidRequest(
        f"input: {details[0]}",
        param="input",
        errors=[{"pointer": "/input", "detail": detail} for detail in details],
    )


def _begun(request: ResponseRequest, call: Call, model: str) -> ResponseObject:
    """The response before anything has come of it: what was asked, with its defaults."""

    def echo(value: Any, default: Any) -> Any:
        return default if value is None else value.model_dump(by_alias=True, exclude_none=True)

    return ResponseObject(
        id="resp_" + call.request_id.replace("-", ""),
        created_at=int(time.time()),
        status="in_progress",
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        metadata=request.metadata or {},
        model=model,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        previous_response_id=request.previous_response_id,
        reasoning={"effort": None, "summary": None} | echo(request.reasoning, {}),
        store=request.store is not False,
        temperature=request.temperature,
        text={"format": {"type": "text"}} | echo(request.text, {}),
        tool_choice=request.tool_choice
        if isinstance(request.tool_choice, str)
        else echo(request.tool_choice, "auto"),
        tools=[tool.model_dump(include=set(ECHOED)) for tool in request.tools or ()],
        top_logprobs=request.top_logprobs or 0,
        top_p=request.top_p,
    )


def _answer(output: list[OutputItem]) -> list[Message]:
    """The model's turn, as messages."""
    transcript = Transcript()
    for item in output:
        match item:
            case OutputReasoning(content=parts):
                transcript.thought("".join(part.text for part in parts))
            case OutputMessage(content=parts):
                transcript.answer("".join(part.text for part in parts))
            case OutputCall():
                transcript.call(item.call_id, item.name, item.arguments)
    return transcript.messages


async def fold_response(events: AsyncIterator[ResponseEvent]) -> ResponseObject:
    """The response that the last event holds."""
    async for event in events:
        last = event.told
    assert isinstance(last, ResponseCompleted | ResponseIncomplete)
    return last.response
