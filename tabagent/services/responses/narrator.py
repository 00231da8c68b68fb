"""Turns the steps of a generation into the events of a response, in OpenAI's order."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, ClassVar, TypeVar, cast

from tabagent import wire
from tabagent.errors import TabAgentError
from tabagent.replies.generation import Ended, Opened, Step
from tabagent.replies.logprobs import TokenLogprob, token_logprobs
from tabagent.replies.usage import timings
from tabagent.services.responses import events as e
from tabagent.services.responses.reply import (
    IncompleteDetails,
    ItemStatus,
    OutputCall,
    OutputItem,
    OutputMessage,
    OutputReasoning,
    OutputText,
    ReasoningText,
    ResponseFailure,
    ResponseObject,
    response_usage,
)

T = TypeVar("T", bound=e.Typed)


class Narrator:
    """Tells one response. `stored` is what its end says of being kept."""

    def __init__(self, response: ResponseObject) -> None:
        self._response, self.stored = response, False
        self._number = _Numbered()
        self.output: list[OutputItem] = []  # whole
        self._item: _Message | _Reasoning | _Call | None = None  # the one that goes on
        self._waiting: list[wire.Chance] = []  # of tokens whose text has not come yet
        self._ending: wire.Ending | None = None

    def tell(self, step: Step) -> Iterator[e.AnyEvent]:
        match step:
            case wire.Piece():
                yield from self._piece(step)
            case Opened():
                yield self._number(e.ResponseCreated, response=self._response)
                yield self._number(e.ResponseInProgress, response=self._response)
            case Ended(ending=ending):
                self._ending = ending
                if self._item is None:  # it said nothing at all: an empty message says so
                    yield from self._begin(_Message(self._number, self._place()))
                yield from self._close("completed" if self._reason() is None else "incomplete")
            case wire.Usage():
                yield self._end(step)

    def fail(self, error: TabAgentError) -> Iterator[e.AnyEvent]:
        """What is told of an error, unless nothing was told before it."""
        if self._number.used:
            failure = ResponseFailure(code=error.slug, message=error.detail)
            response = self._response.model_copy(
                update={"status": "failed", "error": failure, "output": self.output}
            )
            yield self._number(e.ResponseFailed, response=response)

    def _piece(self, piece: wire.Piece) -> Iterator[e.AnyEvent]:
        if piece.reasoning:
            if not isinstance(item := self._item, _Reasoning):
                item = _Reasoning(self._number, self._place())
                yield from self._begin(item)
            yield item.more(piece.reasoning)
        if piece.text:
            if not isinstance(item := self._item, _Message):
                item = _Message(self._number, self._place())
                yield from self._begin(item)
            yield item.more(piece.text, [*self._waiting, *piece.chances])
            self._waiting = []
        elif not piece.reasoning and not piece.tools:
            self._waiting += piece.chances
        for delta in piece.tools:
            if delta.id is not None:
                call = _Call(self._number, self._place(), delta.id, delta.name or "")
                yield from self._begin(call)
            if delta.arguments:
                assert isinstance(self._item, _Call), "a call begins with its id"
                yield self._item.more(delta.arguments)

    def _place(self) -> tuple[str, int]:
        """The response's id and the index of the item that begins now."""
        return self._response.id, len(self.output) + (self._item is not None)

    def _begin(self, item: _Message | _Reasoning | _Call) -> Iterator[e.AnyEvent]:
        yield from self._close("completed")
        self._item = item
        yield from item.begin()

    def _close(self, status: ItemStatus) -> Iterator[e.AnyEvent]:
        if self._item is not None:
            yield from self._item.end(status)
            self.output.append(self._item.item(status))
            self._item = None

    def _reason(self) -> IncompleteDetails | None:
        """Why it did not come to an end, if it did not."""
        assert self._ending is not None
        if self._ending.cause == "halted":
            return IncompleteDetails(reason="halted")
        if self._ending.reason == "length":
            return IncompleteDetails(reason="max_output_tokens")
        return None

    def _end(self, usage: wire.Usage) -> e.AnyEvent:
        reason = self._reason()
        response = self._response.model_copy(
            update={
                "status": "completed" if reason is None else "incomplete",
                "incomplete_details": reason,
                "completed_at": int(time.time()) if reason is None else None,
                "output": self.output,
                "store": self.stored,
                "usage": response_usage(usage),
                "timings": timings(usage),
            }
        )
        if reason is None:
            return self._number(e.ResponseCompleted, response=response)
        return self._number(e.ResponseIncomplete, response=response)


class _Numbered:
    """Makes events and counts them."""

    def __init__(self) -> None:
        self.used = 0

    def __call__(self, kind: type[T], **fields: Any) -> T:
        # Our own values in our own types: checking each would double the cost of a token.
        self.used += 1
        return cast(T, kind.model_construct(sequence_number=self.used - 1, **fields))


class _Item:
    """An item that goes on. What it is made of comes in parts."""

    prefix: ClassVar[str]  # of its id

    def __init__(self, number: _Numbered, place: tuple[str, int]) -> None:
        response_id, self._index = place
        self.id = f"{self.prefix}_{response_id.removeprefix('resp_')}_{self._index}"
        self._number = number
        self._parts: list[str] = []
        self._here: dict[str, Any] = {"item_id": self.id, "output_index": self._index}

    @property
    def _whole(self) -> str:
        return "".join(self._parts)

    def item(self, status: ItemStatus) -> OutputItem:
        raise NotImplementedError

    def begin(self) -> Iterator[e.AnyEvent]:
        yield self._number(
            e.OutputItemAdded, output_index=self._index, item=self.item("in_progress")
        )

    def end(self, status: ItemStatus) -> Iterator[e.AnyEvent]:
        yield self._number(e.OutputItemDone, output_index=self._index, item=self.item(status))


class _Text(_Item):
    """An item whose content is one part, of text."""

    def __init__(self, number: _Numbered, place: tuple[str, int]) -> None:
        super().__init__(number, place)
        self._here["content_index"] = 0

    def _part(self) -> OutputText | ReasoningText:
        raise NotImplementedError

    def _done(self) -> e.AnyEvent:
        raise NotImplementedError

    def begin(self) -> Iterator[e.AnyEvent]:
        yield from super().begin()
        yield self._number(e.ContentPartAdded, **self._here, part=self._part())

    def end(self, status: ItemStatus) -> Iterator[e.AnyEvent]:
        yield self._done()
        yield self._number(e.ContentPartDone, **self._here, part=self._part())
        yield from super().end(status)


class _Message(_Text):
    prefix = "msg"

    def __init__(self, number: _Numbered, place: tuple[str, int]) -> None:
        super().__init__(number, place)
        self._logprobs: list[TokenLogprob] = []

    def item(self, status: ItemStatus) -> OutputItem:
        content = [] if status == "in_progress" else [self._part()]
        return OutputMessage(id=self.id, status=status, content=content)

    def _part(self) -> OutputText:
        return OutputText(text=self._whole, logprobs=self._logprobs)

    def more(self, text: str, chances: list[wire.Chance]) -> e.AnyEvent:
        self._parts.append(text)
        logprobs = [TokenLogprob(**entry) for entry in token_logprobs(chances)]
        self._logprobs += logprobs
        return self._number(e.OutputTextDelta, **self._here, delta=text, logprobs=logprobs)

    def _done(self) -> e.AnyEvent:
        return self._number(
            e.OutputTextDone, **self._here, text=self._whole, logprobs=self._logprobs
        )


class _Reasoning(_Text):
    prefix = "rs"

    def item(self, status: ItemStatus) -> OutputItem:
        content = [] if status == "in_progress" else [self._part()]
        return OutputReasoning(id=self.id, status=status, content=content)

    def _part(self) -> ReasoningText:
        return ReasoningText(text=self._whole)

    def more(self, text: str) -> e.AnyEvent:
        self._parts.append(text)
        return self._number(e.ReasoningTextDelta, **self._here, delta=text)

    def _done(self) -> e.AnyEvent:
        return self._number(e.ReasoningTextDone, **self._here, text=self._whole)


class _Call(_Item):
    prefix = "fc"

    def __init__(self, number: _Numbered, place: tuple[str, int], call_id: str, name: str) -> None:
        super().__init__(number, place)
        self._call_id, self._name = call_id, name

    def item(self, status: ItemStatus) -> OutputItem:
        return OutputCall(
            id=self.id,
            status=status,
            call_id=self._call_id,
            name=self._name,
            arguments=self._whole,
        )

    def more(self, arguments: str) -> e.AnyEvent:
        self._parts.append(arguments)
        return self._number(e.ArgumentsDelta, **self._here, delta=arguments)

    def end(self, status: ItemStatus) -> Iterator[e.AnyEvent]:
        yield self._number(e.ArgumentsDone, **self._here, name=self._name, arguments=self._whole)
        yield from super().end(status)
