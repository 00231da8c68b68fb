"""Two servers asked in turn, so that whatever else the machine does meets both."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from benchmarks import load, prompts
from benchmarks.server import Server

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Runs(Generic[T]):
    """What each side gave, one a run."""

    ours: list[T] = field(default_factory=list)
    theirs: list[T] = field(default_factory=list)

    def each(self, value: Callable[[T], U]) -> Runs[U]:
        return Runs([value(one) for one in self.ours], [value(one) for one in self.theirs])


class Pair:
    """Our server and the peer, with the same model in the same layout."""

    def __init__(self, ours: Server, theirs: Server, runs: int) -> None:
        self._ours, self._theirs, self._runs = ours, theirs, runs

    async def agree(self) -> None:
        """Load our model, warm both up, and see that both read a prompt as the same tokens."""
        counts = []
        for server in (self._ours, self._theirs):
            (chat,) = await load.run(server.port, [prompts.chat(24, "agree", tokens=8)])
            counts.append(chat.usage["prompt_tokens"])
        if counts[0] != counts[1]:
            sys.exit(f"the servers do not do the same work: {counts} tokens for one prompt")

    async def ask(self, what: str, one: Callable[[Server, str], Awaitable[T]]) -> Runs[T]:
        """Ask both in turn, in the other order every second run. `one` gets a seed for its run."""
        found: Runs[T] = Runs()
        for run in range(self._runs):
            say(f"{what}, run {run + 1} of {self._runs}")
            seed = f"{what}/{run}"
            sides = [(self._ours, found.ours), (self._theirs, found.theirs)]
            for server, values in sides if run % 2 == 0 else sides[::-1]:
                values.append(await one(server, seed))
        say("")
        return found


def say(text: str) -> None:
    """Show what is being measured, on one line that the next replaces."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
