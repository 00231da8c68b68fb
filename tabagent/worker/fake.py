"""A backend without weights: the real process and pipe, with an engine that fails on demand.

It counts: asked with the text "5", it answers "1 2 3 4 5 ". Other words make it misbehave:

    sleep      every token takes 50 ms          crash      dies by SIGABRT at the third token
    exit       leaves with code 3               stall      the engine thread stops moving
    noise      prints into stdout and stderr
    raise      an error that is nobody's fault

The path of the model it is told to load can misbehave too: `slow`, `corrupt`, `crash`, `die`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tabagent import wire
from tabagent.errors import ContextLengthExceeded, InvalidRequest, ModelCorrupt
from tabagent.worker.backend import Counts

CONTEXT: Final = 4096


@dataclass(eq=False)
class _Count:
    id: int
    words: list[str]
    limit: int
    said: int = 0
    cause: wire.StopCause = "eos"


class FakeBackend:
    """Counts upwards."""

    engine = "fake 1"

    def __init__(self) -> None:
        self._running: list[_Count] = []
        self._waiting: list[_Count] = []
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
        return {"device": "none"}

    def ask(self, command: wire.Render | wire.Tokenize | wire.Detokenize) -> dict[str, Any]:
        match command:
            case wire.Render(messages=messages):
                text = "\n".join(m["content"] for m in messages)
                return {"text": text, "tokens": list(text.encode())}
            case wire.Tokenize(text=text):
                return {"tokens": list(text.encode()), "pieces": list(text)}
            case wire.Detokenize(tokens=tokens):
                if any(token > 255 for token in tokens):
                    raise InvalidRequest("its vocabulary is the 256 bytes", param="tokens")
                return {"text": bytes(tokens).decode(errors="replace")}

    def prepare(self, command: wire.Generate) -> list[str]:
        text = command.messages[-1]["content"] if command.messages else command.text or ""
        if len(text) > CONTEXT:
            raise ContextLengthExceeded(
                "too long",
                prompt_tokens=len(text),
                context_length=CONTEXT,
                max_tokens=command.max_tokens,
            )
        return list(text.split())

    def submit(self, command: wire.Generate, prepared: list[str]) -> None:
        number = next((int(word) for word in prepared if word.isdigit()), 10)
        count = _Count(command.id, prepared, number)
        if command.max_tokens is not None and command.max_tokens < number:
            count.limit, count.cause = command.max_tokens, "length"
        self._waiting.append(count)

    def cancel(self, id: int, *, halt: bool) -> wire.Finished | None:
        for counts in (self._running, self._waiting):
            for count in counts:
                if count.id == id:
                    counts.remove(count)
                    return self._finished(count, "halted") if halt else None
        return None

    def step(self) -> list[wire.Event]:
        while self._waiting and len(self._running) < self._slots:
            self._running.append(self._waiting.pop(0))
        self._steps += 1
        pieces: list[tuple[int, str, int]] = []
        ends: list[wire.Event] = []
        for count in list(self._running):
            self._misbehave(count)
            count.said += 1
            pieces.append((count.id, f"{count.said} ", count.said))
            if count.said >= count.limit:
                self._running.remove(count)
                ends.append(self._finished(count, count.cause))
        return [wire.Pieces(pieces), *ends]

    def _misbehave(self, count: _Count) -> None:
        words = count.words
        if "sleep" in words:
            time.sleep(0.05)
        if count.said < 2:
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

    def _finished(self, count: _Count, cause: wire.StopCause) -> wire.Finished:
        usage = wire.Usage(prompt_tokens=len(count.words), completion_tokens=count.said)
        return wire.Finished(count.id, "length" if cause == "length" else "stop", cause, usage)

    @property
    def busy(self) -> bool:
        return bool(self._running or self._waiting)

    def counts(self) -> Counts:
        return Counts(len(self._running), len(self._waiting), self._steps)

    def close(self) -> None:
        pass
