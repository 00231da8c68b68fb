"""One choice of a generation: its tokens, how the next is drawn, and how its text leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Generic, TypeVar

from tabagent import wire
from tabagent.errors import GrammarInvalid
from tabagent.worker.constraint.compiler import Constraint
from tabagent.worker.dialect.parser import Parser, Said
from tabagent.worker.generation.chances import chance
from tabagent.worker.generation.model import Logits
from tabagent.worker.generation.sampling import Sampler
from tabagent.worker.text import TextStream


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A request that is ready to run: all its choices begin with these tokens."""

    tokens: list[int]
    text: str
    limit: int  # most tokens to generate
    limit_cause: wire.StopCause  # what it means to reach it
    bias: dict[int, float] = field(default_factory=dict)
    constraint: Constraint | None = None  # as it is before the first token
    parser: Callable[[], Parser] | None = None
    shown: frozenset[int] = frozenset()  # control tokens whose text is part of the answer
    closing: Sequence[int] = ()  # what ends the model's reasoning


Chosen = TypeVar("Chosen", bound="Choice")


class Generation(Generic[Chosen]):
    """A request: what its choices have in common."""

    def __init__(self, command: wire.Generate, prompt: Prompt) -> None:
        self.id, self.command, self.prompt = command.id, command, prompt
        self.adapters = tuple((path, by) for path, by in command.loras if by)
        self.sequences: list[Chosen] = []  # that have not ended
        self.queued_at = monotonic()
        self.started_at = 0.0
        self.first_at = 0.0
        self.cached = 0
        self.generated = 0
        self.reasoned = 0
        self.drafted = 0
        self.accepted = 0

    def usage(self) -> wire.Usage:
        now = monotonic()
        started = self.started_at or now
        return wire.Usage(
            prompt_tokens=len(self.prompt.tokens),
            completion_tokens=self.generated,
            cached_tokens=self.cached,
            reasoning_tokens=self.reasoned,
            drafted_tokens=self.drafted,
            accepted_tokens=self.accepted,
            queued_ms=(started - self.queued_at) * 1e3,
            prompt_ms=((self.first_at or now) - started) * 1e3,
            predicted_ms=(now - self.first_at) * 1e3 if self.first_at else 0.0,
        )


class Choice:
    """One answer to a request. `piece` gives a token's bytes, those of control tokens only when asked."""

    def __init__(
        self,
        generation: Generation[Any],
        index: int,
        sampler: Sampler,
        piece: Callable[..., bytes],
    ) -> None:
        command, prompt = generation.command, generation.prompt
        self.generation, self.index = generation, index
        self.tokens = list(prompt.tokens)
        self.scores = command.echo and command.logprobs is not None
        self._sampler, self._piece = sampler, piece
        self._constraint = prompt.constraint.copy() if prompt.constraint else None
        self._parser = prompt.parser() if prompt.parser else None
        self._stream = TextStream(command.stop)
        self._top = command.logprobs
        self._thoughts = 0
        self._text = prompt.text if command.echo else ""
        self._reasoning = ""
        self._tools: list[wire.ToolDelta] = []
        self._chances: list[wire.Chance] = []
        if self.scores:
            self._chances.append(wire.Chance(self._bytes(self.tokens[0]), None))
        sampler.remember(prompt.tokens)

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.generation.prompt.tokens)

    @property
    def room(self) -> int:
        """How many tokens it may still generate."""
        return self.generation.prompt.limit - self.generated

    def score(self, position: int, logits: Logits) -> None:
        """Note how likely the prompt's token after `position` was."""
        if position + 1 < len(self.generation.prompt.tokens):
            token = self.tokens[position + 1]
            self._chances.append(chance(logits, token, self._top or 0, self._bytes))

    def draw(self, logits: Logits) -> int:
        """The next token. Raises GrammarInvalid when its constraint cannot go on."""
        if self._constraint is None:
            token = self._sampler.sample(logits)
            if self._top is not None:
                self._chances.append(chance(logits, token, self._top, self._bytes))
            return token
        before = logits.copy() if self._top is not None else None
        self._constraint.allow(logits)
        token = self._sampler.sample(logits)
        if before is not None:
            self._chances.append(chance(before, token, self._top or 0, self._bytes))
        return token

    def append(self, token: int, ends: frozenset[int]) -> wire.StopCause | None:
        """Take a token that was drawn; what ended the sequence, if that did."""
        generation = self.generation
        generation.first_at = generation.first_at or monotonic()
        if token in ends:
            if self._top is not None:
                self._chances.pop()  # it is no part of the answer
            return "eos"
        if not self._fits(token):
            assert self._constraint is not None
            if self._constraint.accepting:  # only an end may follow, and ends are ignored
                return "eos"
            raise GrammarInvalid("no token of the model's can go on from here")
        self._take(token)
        if self._thinking:
            self._thoughts += 1
            generation.reasoned += 1
        if cause := self._cause():
            return cause
        for token in self._forced():
            if not self._fits(token):
                break
            self._take(token)
            if cause := self._cause():
                return cause
        if self._constraint is not None and self._constraint.finished:
            return "eos"
        return None

    def _fits(self, token: int) -> bool:
        """Let the constraint take a token. False when it may not follow."""
        try:
            if self._constraint is not None:
                self._constraint.accept(token)
        except ValueError:
            return False
        return True

    def _take(self, token: int) -> None:
        self.tokens.append(token)
        self.generation.generated += 1
        self._sampler.accept(token)
        self._hear(self._stream.feed(self._bytes(token)))

    def _cause(self) -> wire.StopCause | None:
        if self._stream.stopped:
            return "stop"
        return self.generation.prompt.limit_cause if self.room <= 0 else None

    def _forced(self) -> list[int]:
        """Tokens that follow whatever the model would say."""
        budget = self.generation.command.thinking_budget
        if self._thinking and budget is not None and self._thoughts == max(budget, 1):
            return list(self.generation.prompt.closing)
        if self._constraint is not None and self._top is None:
            return self._constraint.forced()
        return []

    @property
    def _thinking(self) -> bool:
        return self._parser is not None and self._parser.reasoning_open

    def _bytes(self, token: int) -> bytes:
        return self._piece(token, special=token in self.generation.prompt.shown)

    # ---- what leaves ----------------------------------------------------------------------------
    def _hear(self, text: str) -> None:
        if self._parser is None:
            self._text += text
        elif text:
            self._keep(self._parser.feed(text))

    def _keep(self, said: Said | None) -> None:
        if said is not None:
            self._text += said.content
            self._reasoning += said.reasoning
            self._tools += said.tools

    def speak(self, cause: wire.StopCause | None = None) -> wire.Piece | None:
        """What has come since the last time, if anything has; with a cause also the end."""
        end: wire.Ending | None = None
        if cause is not None:
            self._hear(self._stream.flush())
            if self._parser is not None:
                self._keep(self._parser.end())
            end = wire.Ending(self._reason(cause), cause)
        elif not (self._text or self._reasoning or self._tools or self._chances):
            return None
        piece = wire.Piece(
            self.generation.id,
            self.generated,
            self._text,
            self.index,
            self._reasoning,
            self._tools,
            self._chances,
            end,
        )
        self._text = self._reasoning = ""
        self._tools, self._chances = [], []
        return piece

    def _reason(self, cause: wire.StopCause) -> wire.FinishReason:
        if cause in ("length", "context"):
            return "length"
        called = self._parser is not None and self._parser.called
        return "tool_calls" if called and cause == "eos" else "stop"

    def close(self) -> None:
        self._sampler.close()
