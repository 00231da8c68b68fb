"""From steps to an answer: every step is one event of a stream, and a plain reply is folded from the
steps of the same events.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import msgspec

from tabagent import wire
from tabagent.operation import Call, Event
from tabagent.replies.generation import Ended, Opened, Step
from tabagent.replies.usage import timings, token_usage


class Answer:
    """What all events of an answer share. Most of an event is encoded once, here."""

    prefix: ClassVar[str]  # of its id
    object: ClassVar[str]  # of its events

    def __init__(self, call: Call, model: str, *, logprobs: bool) -> None:
        self.id = self.prefix + call.request_id.replace("-", "")
        self.created = int(time.time())
        self.model, self.logprobs = model, logprobs
        shared = {"id": self.id, "object": self.object, "created": self.created, "model": model}
        self._head = msgspec.json.encode(shared)[:-1] + b',"choices":['

    def encode(self, step: Step) -> bytes:
        """The event of a step. This runs for every token: plain dicts, no models."""
        if isinstance(step, wire.Usage):
            usage, times = token_usage(step).encode(), timings(step).encode()
            return self._head + b'],"usage":' + usage + b',"timings":' + times + b"}"
        return self._head + msgspec.json.encode(self.part(step)) + b"]}"

    def part(self, step: Opened | wire.Piece | Ended) -> dict[str, Any]:
        """What a step adds to its choice."""
        raise NotImplementedError


class StepEvent(Event):
    """One step; written only when it is sent."""

    __slots__ = ("answer", "step")

    def __init__(self, step: Step, answer: Answer) -> None:
        self.step, self.answer = step, answer

    def encode(self) -> bytes:
        return self.answer.encode(self.step)


E = TypeVar("E", bound=StepEvent)


@dataclass(slots=True)
class ToolCall:
    """A tool call as far as it was told; the arguments in parts."""

    id: str
    name: str
    parts: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        return "".join(self.parts)


@dataclass(slots=True)
class Choice:
    """One answer as far as it was told."""

    index: int
    text_parts: list[str] = field(default_factory=list)
    reasoning_parts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    chances: list[wire.Chance] = field(default_factory=list)
    ending: wire.Ending | None = None

    @property
    def text(self) -> str:
        return "".join(self.text_parts)

    @property
    def reasoning(self) -> str:
        return "".join(self.reasoning_parts)

    def add(self, piece: wire.Piece) -> None:
        self.text_parts.append(piece.text)
        self.reasoning_parts.append(piece.reasoning)
        self.chances += piece.chances
        for delta in piece.tools:
            if delta.index == len(self.calls):
                self.calls.append(ToolCall(delta.id or "", delta.name or ""))
            self.calls[delta.index].parts.append(delta.arguments)


@dataclass(slots=True)
class Folded:
    """Everything that a generation told."""

    choices: list[Choice]
    usage: wire.Usage


async def fold(events: AsyncIterator[E]) -> tuple[E, Folded]:
    """The last event of a stream, which must be its usage, and what all amount to."""
    choices: dict[int, Choice] = {}
    usage: wire.Usage | None = None
    async for event in events:
        match event.step:
            case wire.Piece() as piece:
                choices.setdefault(piece.index, Choice(piece.index)).add(piece)
            case Ended(index, ending):
                choices.setdefault(index, Choice(index)).ending = ending
            case wire.Usage() as usage:
                pass
    assert usage is not None, "a plain reply is folded from a stream with usage"
    return event, Folded([choices[index] for index in sorted(choices)], usage)
