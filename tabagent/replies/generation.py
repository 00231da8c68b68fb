"""Generating, as services do it: commands go in, steps come out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from tabagent import wire
from tabagent.catalog.models import Model, Task
from tabagent.errors import ModelNotFound
from tabagent.operation import Call

Resolve = Callable[[str | None], Awaitable[Model]]
"""The model that a request names; the selected one when it names none."""

FindAdapter = Callable[[str], Awaitable[Model]]
"""The adapter with this name. Raises ModelNotFound, or WrongModelTask when it is none."""


class Run(Protocol):
    """Runs commands side by side as one generation: yields their pieces, at last Finished.

    The choices of a command are numbered after those of the commands before it. The commands' ids
    are given by the runner. `keep_alive_s` is how long the model stays loaded afterwards.
    """

    def __call__(
        self,
        call: Call,
        model: Model,
        task: Task,
        *commands: wire.Generate,
        keep_alive_s: float | None = None,
    ) -> AsyncGenerator[wire.Piece | wire.Finished, None]: ...


@dataclass(frozen=True, slots=True)
class Opened:
    """A choice begins. All are opened, in order, before the first piece of any."""

    index: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A choice is complete."""

    index: int
    ending: wire.Ending


Step = Opened | wire.Piece | Ended | wire.Usage
"""What one event of a stream tells. The usage is the last; a piece's `end` is a step of its own."""


@dataclass(frozen=True, slots=True)
class Generator:
    """What services generate with. `raw_grammar`: whether requests may bring their own grammar."""

    resolve: Resolve
    run: Run
    find_adapter: FindAdapter
    raw_grammar: bool

    async def adapters(self, wanted: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
        """Adapters by name and scale become files and scales. Raises as FindAdapter does."""
        try:
            return [(str((await self.find_adapter(name)).path), scale) for name, scale in wanted]
        except ModelNotFound as error:
            error.param = "lora"
            raise

    async def write(
        self, call: Call, model: Model, messages: list[dict[str, Any]], max_tokens: int
    ) -> str:
        """A short text of our own asking: the likeliest, without reasoning."""
        command = wire.Generate(
            0,
            sampling=wire.Sampling(temperature=0.0),
            messages=messages,
            max_tokens=max_tokens,
            dialogue=wire.Dialogue(thinking=False),
        )
        parts: list[str] = []
        async with aclosing(self.steps(call, model, "chat", command)) as steps:
            async for step in steps:
                if isinstance(step, wire.Piece):
                    parts.append(step.text)
        return "".join(parts)

    async def steps(
        self,
        call: Call,
        model: Model,
        task: Task,
        *commands: wire.Generate,
        keep_alive_s: float | None = None,
    ) -> AsyncGenerator[Step, None]:
        """Nothing is told before the worker's first word: until then an error has its own status."""
        opened = False
        running = self.run(call, model, task, *commands, keep_alive_s=keep_alive_s)
        async with aclosing(running) as pieces:
            async for piece in pieces:
                if not opened:
                    opened = True
                    for index in range(sum(command.n for command in commands)):
                        yield Opened(index)
                if isinstance(piece, wire.Finished):
                    yield piece.usage
                    continue
                if piece.text or piece.reasoning or piece.tools or piece.chances:
                    yield piece
                if piece.end is not None:
                    yield Ended(piece.index, piece.end)
