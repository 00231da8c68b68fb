"""The fake engine: what `script.py` makes up leaves here as a real engine's answers would.

Words that make it misbehave, beside those that `script.py` knows:

    sleep      every token takes 50 ms          crash      dies by SIGABRT at the third token
    exit       leaves with code 3               stall      the engine thread stops moving
    noise      prints into stdout and stderr
    raise      an error that is nobody's fault
    cached     had computed the prompt before   draft      guessed eight tokens, five of them right

The path of the model it is told to load can misbehave too: `slow`, `corrupt`, `crash`, `die`, and
`layers-N` has no memory for more than N layers on a device.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from tabagent import wire
from tabagent.errors import ContextLengthExceeded, ModelCorrupt, OutOfMemory
from tabagent.worker.backend import Counts, Work, halted
from tabagent.worker.fake.script import (
    Said,
    calls_of,
    check_results,
    detokenise,
    formatted,
    prompt_of,
    script,
)
from tabagent.worker.fake.vectors import Reading, check

CONTEXT: Final = 4096


@dataclass(eq=False)
class _Generation:
    command: wire.Generate
    words: list[str]
    open: dict[int, int]  # tokens said by each choice that has not ended
    usage: wire.Usage


@dataclass(eq=False)
class _Choice:
    generation: _Generation
    index: int
    tokens: Iterator[Said]
    upcoming: Said | None = field(init=False)
    said: int = 0

    def __post_init__(self) -> None:
        self.upcoming = next(self.tokens, None)

    def step(self) -> list[wire.Piece]:
        """One token; the last one says how the choice ended."""
        command, usage = self.generation.command, self.generation.usage
        pieces = [_echo(command, self.index)] if command.echo and not self.said else []
        piece = wire.Piece(command.id, self.said, index=self.index)
        if (said := self.upcoming) is not None:
            self.said += 1
            usage.completion_tokens += 1
            usage.reasoning_tokens += bool(said.reasoning)
            piece = wire.Piece(
                command.id,
                self.said,
                said.text,
                self.index,
                said.reasoning,
                list(said.tools),
                [_chance(said.token, command.logprobs)] if command.logprobs is not None else [],
            )
            self.upcoming = next(self.tokens, None)
        if self.upcoming is None:
            called = bool(calls_of(command))
            piece.end = wire.Ending("tool_calls" if called else "stop", "eos")
        elif self.said == command.max_tokens:
            piece.end = wire.Ending("length", "length")
        self.generation.open[self.index] = self.said
        if piece.end:
            del self.generation.open[self.index]
        return [*pieces, piece]


class FakeBackend:
    """Counts upwards."""

    engine = "fake 1"

    def __init__(self) -> None:
        self._running: list[_Choice] = []
        self._waiting: list[_Choice] = []
        self._reading: list[Reading] = []
        self._slots = 1
        self._steps = 0

    def load(self, command: wire.Load, progress: Callable[[float], None]) -> dict[str, Any]:
        self._slots = command.slots
        if "slow" in command.path:
            for part in range(10):
                progress(part / 10)
                time.sleep(0.05)
        if "corrupt" in command.path:
            raise ModelCorrupt("made to fail", file="fake", check="fake", expected="a", actual="b")
        if "crash" in command.path:
            print("these are my last words", file=sys.stderr, flush=True)
            os.abort()
        if "die" in command.path:
            os.kill(os.getpid(), signal.SIGKILL)
        if (found := re.search(r"layers-(\d+)", command.path)) and command.n_gpu_layers > int(
            found[1]
        ):
            raise OutOfMemory("made to fail", device="gpu")
        return {"device": "none"}

    def sleep(self) -> bool:
        return not self.busy

    def ask(self, command: wire.Render | wire.Tokenize | wire.Detokenize) -> dict[str, Any]:
        match command:
            case wire.Render():
                tools = [f"[{tool.name}]" for tool in command.dialogue.tools]
                said = [message["content"] or "" for message in command.messages]
                text = "\n".join([*tools, *said])
                return {"text": text, "tokens": list(text.encode())}
            case wire.Tokenize(text=text):
                return {"tokens": list(text.encode()), "pieces": list(text)}
            case wire.Detokenize(tokens=tokens):
                return {"text": detokenise(tokens)}

    def prepare(self, command: Work) -> list[str]:
        if not isinstance(command, wire.Generate):
            check(command)
            return []
        text = prompt_of(command)
        if len(text) > CONTEXT:
            raise ContextLengthExceeded(
                "too long",
                prompt_tokens=len(text),
                context_length=CONTEXT,
                max_tokens=command.max_tokens,
            )
        check_results(command.messages or [])
        if command.format is not None:
            formatted(command.format, 0)  # refuses what it does not know
        return list(text.split())

    def submit(self, command: Work, prepared: list[str]) -> None:
        if not isinstance(command, wire.Generate):
            self._reading.append(Reading(command))
            return
        usage = wire.Usage(prompt_tokens=len(prepared), completion_tokens=0)
        if "cached" in prepared:
            usage.cached_tokens = len(prepared) - 1
        if "draft" in prepared:
            usage.drafted_tokens, usage.accepted_tokens = 8, 5
        open_ = dict.fromkeys(range(command.n), 0)
        generation = _Generation(command, prepared, open_, usage)
        self._waiting += [_Choice(generation, index, script(command, index)) for index in open_]

    def cancel(self, id: int, *, halt: bool) -> list[wire.Event]:
        self._reading = [reading for reading in self._reading if reading.command.id != id]
        mine = [c for c in (*self._running, *self._waiting) if c.generation.command.id == id]
        self._running = [choice for choice in self._running if choice not in mine]
        self._waiting = [choice for choice in self._waiting if choice not in mine]
        if not mine or not halt:
            return []
        return halted(id, mine[0].generation.open, mine[0].generation.usage)

    def step(self) -> list[wire.Event]:
        while self._waiting and len(self._running) < self._slots:
            self._running.append(self._waiting.pop(0))
        self._steps += 1
        pieces: list[wire.Piece] = []
        ends: list[wire.Event] = []
        for reading in list(self._reading):
            self._misbehave(reading.texts[reading.done].split(), reading.done)
            reading.done += 1
            if reading.done == len(reading.texts):
                self._reading.remove(reading)
                ends.append(reading.answer())
        for choice in list(self._running):
            self._misbehave(choice.generation.words, choice.said)
            pieces += choice.step()
            if pieces[-1].end:
                self._running.remove(choice)
                if not choice.generation.open:
                    command = choice.generation.command
                    ends.append(wire.Finished(command.id, choice.generation.usage))
        return [wire.Pieces(pieces), *ends]

    def _misbehave(self, words: list[str], done: int) -> None:
        if "sleep" in words:
            time.sleep(0.05)
        if done < 2:
            return
        if "noise" in words:
            print("noise on stdout", flush=True)
            os.write(1, b"\xff\xff\xff\xff")
        if "stall" in words:
            time.sleep(3600)
        if "raise" in words:
            raise RuntimeError("made to fail")
        if "exit" in words:
            os._exit(3)
        if "crash" in words:
            print("these are my last words", file=sys.stderr, flush=True)
            os.abort()

    @property
    def busy(self) -> bool:
        return bool(self._running or self._waiting or self._reading)

    def counts(self) -> Counts:
        running = len(self._running) + len(self._reading)
        return Counts(running, len(self._waiting), self._steps)

    def close(self) -> None:
        pass


def _echo(command: wire.Generate, index: int) -> wire.Piece:
    """The prompt as a piece of the answer, a token for each word."""
    piece = wire.Piece(command.id, 0, prompt_of(command), index)
    if command.logprobs is not None:
        tokens = [word.encode() for word in prompt_of(command).split(" ")]
        tokens[1:] = [b" " + token for token in tokens[1:]]
        piece.chances = [_chance(token, command.logprobs) for token in tokens]
        piece.chances[0] = wire.Chance(tokens[0], None)
    return piece


def _chance(token: bytes, alternatives: int) -> wire.Chance:
    """Half a nat for what was said, one less for each alternative to it."""
    others = [(b"or-%d" % n, -0.5 - n) for n in range(1, alternatives)]
    return wire.Chance(token, -0.5, [(token, -0.5), *others] if alternatives else [])
