"""Takes a model's answer apart, as it arrives, into content, reasoning and calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import msgspec

from tabagent import wire
from tabagent.worker.dialect.calls import Calls
from tabagent.worker.dialect.families import Reasoning, Syntax
from tabagent.worker.dialect.reader import Reader, Wait, overlap

Thoughts = Literal["none", "possible", "open"]
"""Whether a prompt ends inside of reasoning, or reasoning may follow it."""


class Said(msgspec.Struct):
    """What some text added to the answer."""

    content: str = ""
    reasoning: str = ""
    tools: list[wire.ToolDelta] = []

    def tell(self, delta: wire.ToolDelta) -> None:
        """Add to the calls; parts of the arguments of one call are put together."""
        if self.tools and self.tools[-1].index == delta.index:
            self.tools[-1].arguments += delta.arguments
        else:
            self.tools.append(delta)

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.tools)


class Parser(Protocol):
    """One choice of a generation. `feed` it all text, control tokens that matter included."""

    closing: str
    """Text that ends the reasoning, for an engine that ends it by force."""

    @property
    def reasoning_open(self) -> bool:
        """Whether what comes next is reasoning."""

    @property
    def called(self) -> bool:
        """Whether a function was called."""

    def feed(self, text: str) -> Said | None:
        """What `text` adds, as far as it is certain; None when that is nothing."""

    def end(self) -> Said | None:
        """What was held back. Nothing is fed after it."""


class PlainParser:
    """Text that is content and nothing else."""

    closing = ""
    reasoning_open = False
    called = False

    def feed(self, text: str) -> Said | None:
        return Said(text) if text else None

    def end(self) -> Said | None:
        return None


class ReadingParser:
    """A parser that runs `_read` over the text as it arrives."""

    closing = ""

    def __init__(self) -> None:
        self.reasoning_open = False
        self._reader = Reader()
        self._said = Said()
        self._reading = self._read()
        self._done = False  # from here on, all is content

    @property
    def called(self) -> bool:
        raise NotImplementedError

    def _read(self) -> Wait[None]:
        """Read to the end, or to where all that follows is content."""
        raise NotImplementedError

    def feed(self, text: str) -> Said | None:
        if self._done:
            return Said(text) if text else None
        self._reader.add(text)
        return self._resume()

    def end(self) -> Said | None:
        self._reader.ended = True
        return None if self._done else self._resume()

    def _resume(self) -> Said | None:
        if next(self._reading, self) is self:
            self._done = True
            self._said.content += self._reader.rest()
        said = self._said
        if not said:
            return None
        self._said = Said()
        return said

    def _pass_to(self, stop: int) -> str:
        """What stands here before `stop`."""
        text = self._reader.slice(self._reader.at, stop)
        self._reader.at = stop
        self._reader.keep()
        return text


class TurnParser(ReadingParser):
    """Reasoning first, if any, then content and calls in any order."""

    def __init__(
        self,
        reasoning: Reasoning | None,
        thoughts: Thoughts,
        syntax: Syntax | None,
        tools: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self._reasoning = reasoning if thoughts != "none" else None
        self.closing = reasoning.closing if reasoning else ""
        self.reasoning_open = thoughts == "open"
        self._answer = reasoning.answer if reasoning else ("", "")
        self._syntax = syntax
        self._calls = Calls(self._reader, syntax, tools, self._tell) if syntax else None

    @property
    def called(self) -> bool:
        return self._calls is not None and self._calls.told > 0

    def _tell(self, delta: wire.ToolDelta) -> None:
        self._said.tell(delta)

    def _read(self) -> Wait[None]:
        reader = self._reader
        if self._reasoning:
            opening = (self._reasoning.open.rstrip(),)
            if self.reasoning_open or (yield from reader.take(opening)):
                self.reasoning_open = True
                yield from self._read_reasoning(self._reasoning.close)
                self.reasoning_open = False
                yield from self._skip_space()
        closing: tuple[str, ...] = ()
        if self._answer[0] and (yield from reader.take(self._answer[:1])):
            closing = self._answer[1:]
            yield from self._skip_space()
        if self._calls or closing:
            yield from self._read_content(closing)

    def _read_reasoning(self, close: str) -> Wait[None]:
        reader = self._reader
        yield from self._skip_space()
        while (found := reader.find(close)) < 0 and not reader.ended:
            self._said.reasoning += self._pass_to(self._safe((close,)))
            yield
        text = self._pass_to(found if found >= 0 else reader.end)
        self._said.reasoning += text.rstrip() if found >= 0 else text
        reader.at += len(close) if found >= 0 else 0
        reader.keep()

    def _read_content(self, closing: tuple[str, ...]) -> Wait[None]:
        """Content and calls; the first text of `closing` is neither."""
        reader, syntax = self._reader, self._syntax
        triggers = (syntax.trigger,) if syntax and syntax.trigger else ()
        if syntax and syntax.bare:
            start = reader.at
            yield from reader.space()
            if not (yield from reader.choose(("{",))) or not (yield from self._read_calls()):
                reader.at = start
        while True:
            markers = triggers + closing
            found, marker = min(
                ((at, marker) for marker in markers if (at := reader.find(marker)) >= 0),
                default=(-1, ""),
            )
            if found >= 0:
                self._said.content += self._pass_to(self._before_space(found))
                start, reader.at = reader.at, found
                if marker in triggers and (yield from self._read_calls()):
                    continue
                reader.at = start
                self._said.content += self._pass_to(found + len(marker) * (marker in triggers))
                if marker in closing:
                    reader.at += len(marker)
                    reader.keep()
                    closing = ()
            elif reader.ended:
                self._said.content += self._pass_to(reader.end)
                return
            else:
                self._said.content += self._pass_to(self._safe(markers))
                yield

    def _read_calls(self) -> Wait[bool]:
        assert self._calls is not None
        if not (yield from self._calls.read()):
            return False
        yield from self._skip_space()
        return True

    def _skip_space(self) -> Wait[None]:
        yield from self._reader.space()
        self._reader.keep()

    def _safe(self, markers: tuple[str, ...]) -> int:
        """Where what may be told ends: before white space and what may become a marker."""
        reader = self._reader
        return self._before_space(reader.end - overlap(reader.rest(), markers))

    def _before_space(self, stop: int) -> int:
        before = self._reader.slice(self._reader.at, stop)
        return self._reader.at + len(before.rstrip())
