"""The contract between a worker and the engine in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tabagent import wire
from tabagent.errors import TabAgentError

Work = wire.Generate | wire.Pooled
"""What takes a turn in the engine; a backend refuses the kinds that are not its own."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What the heartbeat tells."""

    slots_used: int
    waiting: int
    steps: int


def failed(id_: int, error: TabAgentError) -> wire.Failed:
    """An error on its way to the caller, with everything that rebuilds it there."""
    known = {"param": error.param, "retry_after": error.retry_after}
    members = error.members | {name: value for name, value in known.items() if value is not None}
    return wire.Failed(id_, error.slug, error.detail, members)


def halted(id_: int, open_choices: Mapping[int, int], usage: wire.Usage) -> list[wire.Event]:
    """How a halted generation ends: a piece for every open choice, then its answer.

    `open_choices` holds the tokens that each of them has generated, by index.
    """
    ending = wire.Ending("stop", "halted")
    pieces = [
        wire.Piece(id_, tokens, index=index, end=ending) for index, tokens in open_choices.items()
    ]
    return [wire.Pieces(pieces), wire.Finished(id_, usage)]


class Backend(Protocol):
    """One model in one engine.

    `prepare` and `ask` may run on several threads at once, beside a step. Everything else runs on
    one thread, the engine's. Errors meant for the caller are TabAgentErrors; anything else ends
    the process, and the supervisor starts another.
    """

    @property
    def engine(self) -> str:
        """Name and version of the engine; known before a model is."""

    def load(self, command: wire.Load, progress: Callable[[float], None]) -> dict[str, Any]:
        """Load the model; returns facts about it."""

    def ask(self, command: wire.Render | wire.Tokenize | wire.Detokenize) -> dict[str, Any]:
        """Answer something that needs the vocabulary or the template only."""

    def prepare(self, command: Work) -> Any:
        """Everything about a request that needs no slot: render, tokenise, refuse."""

    def submit(self, command: Work, prepared: Any) -> None:
        """Queue a prepared request."""

    def cancel(self, id: int, *, halt: bool) -> list[wire.Event]:
        """Free the request's slots now; with `halt` returns how it ended, as `halted` makes it.

        Nothing comes back where nobody is to be answered: without `halt`, or for an unknown id.
        """

    def step(self) -> list[wire.Event]:
        """One step of work for every running request, and what came of it."""

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do."""

    def counts(self) -> Counts:
        """Read from other threads."""

    def sleep(self) -> bool:
        """Give back what only running requests need; the next one gets it anew.

        False when that cannot be: a request runs, or there is nothing to give.
        """

    def close(self) -> None:
        """Give everything back."""
