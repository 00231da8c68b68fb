"""Who runs, who waits, and what is told of them: the same whatever engine computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, Generic

from tabagent import wire
from tabagent.errors import QueueTimeout, TabAgentError
from tabagent.worker.backend import failed
from tabagent.worker.generation.sequence import Chosen, Generation

Advance = Callable[[], wire.StopCause | None]
"""Gives a sequence its next tokens; what ends it, if that does."""


class Turns(ABC, Generic[Chosen]):
    """Sequences in an engine with so many slots."""

    def __init__(self, slots: int, queue_wait_s: float) -> None:
        self._slots, self._queue_wait_s = slots, queue_wait_s
        self._running: list[Chosen] = []  # oldest first
        self._waiting: deque[Chosen] = deque()
        self.steps = 0

    @property
    def busy(self) -> bool:
        return bool(self._running or self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, generation: Generation[Chosen]) -> None:
        self._waiting.extend(generation.sequences)

    def cancel(self, id_: int, *, halt: bool) -> list[wire.Event]:
        """Take a generation out, wherever it is; its slots are free at once.

        With `halt` it ends in order, with what it has said so far.
        """
        found = [s for s in (*self._running, *self._waiting) if s.generation.id == id_]
        if not found:
            return []
        generation = found[0].generation
        pieces: list[wire.Piece] = []
        for sequence in found:
            self._retire(sequence)
            if halt and (piece := sequence.speak("halted")):
                pieces.append(piece)
        return [wire.Pieces(pieces), wire.Finished(id_, generation.usage())] if halt else []

    @abstractmethod
    def step(self) -> list[wire.Event]:
        """One step of work, and what came of it."""

    @abstractmethod
    def _retire(self, sequence: Chosen) -> None:
        """Close a sequence and take it out of its generation and of whatever holds it."""

    def _expire(self) -> list[wire.Event]:
        """Turn away who waited too long, but none that has begun."""
        since = monotonic() - self._queue_wait_s
        late: dict[Generation[Any], None] = {
            s.generation: None
            for s in self._waiting
            if not s.generation.started_at and s.generation.queued_at <= since
        }
        if not late:
            return []
        error = QueueTimeout(f"no slot came free in {self._queue_wait_s:g} s", retry_after=5)
        return [self._fail(generation, error) for generation in late]

    def _fail(self, generation: Generation[Any], error: TabAgentError) -> wire.Failed:
        for sequence in list(generation.sequences):
            self._retire(sequence)
        return failed(generation.id, error)

    def _tell(self, advances: Iterable[tuple[Chosen, Advance]]) -> list[wire.Event]:
        """Advance sequences and say what came of it: Pieces for all, then Finished and Failed."""
        pieces: list[wire.Piece] = []
        events: list[wire.Event] = []
        for sequence, advance in advances:
            generation = sequence.generation
            try:
                cause = advance()
            except TabAgentError as error:
                events.append(self._fail(generation, error))
                continue
            piece = sequence.speak(cause)
            if piece is not None:
                pieces.append(piece)
            if cause is not None:
                self._retire(sequence)
                if not generation.sequences:
                    events.append(wire.Finished(generation.id, generation.usage()))
        return [wire.Pieces(pieces), *events] if pieces else events
