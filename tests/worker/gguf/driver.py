"""Drives a backend that generates in this process, as the worker's engine thread would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from tabagent import wire
from tabagent.worker.gguf.engine import GgufBackend

GREEDY = {"temperature": 0.0, "ignore_eos": True}


Prompt: TypeAlias = str | list[int] | list[dict[str, Any]]
"""A text, tokens, or messages."""


@dataclass
class Told:
    """What one request has come to so far."""

    texts: dict[int, str] = field(default_factory=dict)  # by choice
    reasonings: dict[int, str] = field(default_factory=dict)
    chances: dict[int, list[wire.Chance]] = field(default_factory=dict)
    tools: list[wire.ToolDelta] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    endings: dict[int, wire.Ending] = field(default_factory=dict)
    end: wire.Finished | wire.Failed | None = None

    def hear(self, piece: wire.Piece) -> None:
        assert self.end is None, "text after the end"
        assert piece.index not in self.endings, "text after the choice's end"
        for kept, came in (
            (self.texts, piece.text),
            (self.reasonings, piece.reasoning),
        ):
            kept[piece.index] = kept.get(piece.index, "") + came
        self.chances.setdefault(piece.index, []).extend(piece.chances)
        self.tools += piece.tools
        self.counts.append(piece.tokens)
        if piece.end is not None:
            self.endings[piece.index] = piece.end

    @property
    def text(self) -> str:
        return self.texts.get(0, "")

    @property
    def finished(self) -> wire.Finished:
        assert isinstance(self.end, wire.Finished), self.end
        return self.end

    @property
    def reason(self) -> str:
        return self.endings[0].reason

    @property
    def cause(self) -> str:
        return self.endings[0].cause

    @property
    def usage(self) -> wire.Usage:
        return self.finished.usage


class Engine:
    def __init__(
        self,
        path: Path,
        *,
        slots: int = 8,
        n_ctx: int = 256,
        kv_tokens: int = 0,
        queue_wait_s: float = 60.0,
        kept_bytes: int = 2**28,
        make: Callable[[], Any] = GgufBackend,
        **more: Any,
    ) -> None:
        self.backend: GgufBackend = make()  # or another engine's, with the same face
        more["kept_bytes"] = kept_bytes
        room = kv_tokens or slots * n_ctx
        command = wire.Load(1, str(path), n_ctx, slots, room, 1, queue_wait_s, **more)
        try:
            self.facts = self.backend.load(command, lambda _: None)
        except BaseException:
            self.backend.close()
            raise
        self.told: dict[int, Told] = {}
        self.ended: list[int] = []  # ids in the order of their ends
        self._last_id = 0

    def close(self) -> None:
        self.backend.close()

    def submit(self, prompt: Prompt, **more: Any) -> int:
        """Queue a request, greedy and deaf to end tokens unless told otherwise; its id."""
        self._last_id += 1
        sampling = wire.Sampling(**(GREEDY | more.pop("sampling", {})))
        given: dict[str, Any] = {"messages": prompt}
        if isinstance(prompt, str):
            given = {"text": prompt}
        elif isinstance(prompt[0], int):
            given = {"tokens": prompt}
        command = wire.Generate(self._last_id, sampling, **given, **more)
        prepared = self.backend.prepare(command)
        self.told[self._last_id] = Told()
        self.backend.submit(command, prepared)
        return self._last_id

    def step(self) -> list[wire.Event]:
        events = self.backend.step()
        self._hear(events)
        return events

    def halt(self, id_: int) -> Told:
        """Stop a request in order; what it came to."""
        self._hear(self.backend.cancel(id_, halt=True))
        return self.told[id_]

    def _hear(self, events: list[wire.Event]) -> None:
        for event in events:
            if isinstance(event, wire.Pieces):
                for piece in event.items:
                    self.told[piece.id].hear(piece)
            else:
                assert isinstance(event, wire.Finished | wire.Failed)
                assert self.told[event.id].end is None, "a second end"
                self.told[event.id].end = event
                self.ended.append(event.id)

    def run(self, most: int = 20_000) -> None:
        """Until nothing is left to do."""
        while self.backend.busy:
            self.step()
            most -= 1
            assert most, "it does not come to an end"

    def say(self, prompt: Prompt, **more: Any) -> Told:
        """One request, alone, to its end."""
        id_ = self.submit(prompt, **more)
        self.run()
        return self.told[id_]

    @property
    def slots_used(self) -> int:
        return self.backend.counts().slots_used

    def tokens(self, text: str, *, special: bool = False) -> list[int]:
        found: list[int] = self.backend.ask(wire.Tokenize(1, text, parse_special=special))["tokens"]
        return found
