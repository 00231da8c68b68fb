"""A worker process and both ends of its pipe, for tests."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, Self, TypeVar

from tabagent import wire
from tabagent.frames import FrameDecoder, FrameError, encode

E = TypeVar("E", bound=wire.Event)
WAIT_S = 15.0  # longer than anything takes on a busy machine


class Child:
    """`python -m tabagent.worker BACKEND`. Use as a context manager."""

    def __init__(self, backend: str = "fake", beat_s: float = 0.2) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tabagent.worker", backend, str(beat_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        self.beats: list[wire.Beat] = []
        self.broken: Exception | None = None
        self._words = b""
        self._early: dict[int, wire.Done | wire.Failed | wire.Finished] = {}
        self._events: queue.SimpleQueue[wire.Event | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._read), threading.Thread(target=self._listen)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        self.hello = self.next(wire.Hello)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.end()

    # ---- saying ---------------------------------------------------------------------------------
    def say(self, *commands: wire.Command) -> None:
        self.raw(b"".join(encode(wire.encode(command)) for command in commands))

    def raw(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def load(self, path: str = "/fake", **more: Any) -> dict[str, Any]:
        settings = {"n_ctx": 256, "slots": 4, "kv_tokens": 1024, "threads": 1, "queue_wait_s": 60.0}
        self.say(wire.Load(1, path, **(settings | more)))
        done = self.answer(1)
        assert isinstance(done, wire.Done), done
        return done.result

    def hang_up(self) -> None:
        """What a gateway's death looks like from here."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    # ---- hearing --------------------------------------------------------------------------------
    def event(self, timeout: float = WAIT_S) -> wire.Event | None:
        """The next event that is no beat; None at the end of the pipe."""
        return self._events.get(timeout=timeout)

    def next(self, kind: type[E]) -> E:
        event = self.event()
        assert isinstance(event, kind), event
        return event

    def answer(self, id_: int) -> wire.Done | wire.Failed | wire.Finished:
        """The answer to a command. Answers to others are kept, pieces are dropped."""
        while id_ not in self._early and (event := self.event()) is not None:
            if isinstance(event, wire.Done | wire.Failed | wire.Finished):
                assert event.id not in self._early, "a second answer"
                self._early[event.id] = event
        if id_ in self._early:
            return self._early.pop(id_)
        raise AssertionError(f"the worker left without an answer: {self.words()}")

    def text(self, id_: int) -> tuple[str, wire.Done | wire.Failed | wire.Finished]:
        """All text of a generation, and how it ended."""
        text = ""
        while (event := self.event()) is not None:
            if isinstance(event, wire.Pieces):
                text += "".join(piece.text for piece in event.items if piece.id == id_)
            elif isinstance(event, wire.Done | wire.Failed | wire.Finished) and event.id == id_:
                return text, event
        raise AssertionError(f"the worker left without an answer: {self.words()}")

    def rest(self) -> list[wire.Event]:
        """Everything up to the end of the pipe."""
        return list(iter(self.event, None))

    def end(self, timeout: float = WAIT_S) -> int:
        """Wait for its exit code."""
        code = self.process.wait(timeout)
        for thread in self._threads:
            thread.join(WAIT_S)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe and not pipe.closed:
                pipe.close()
        return code

    def words(self) -> str:
        return self._words.decode(errors="replace")

    def _read(self) -> None:
        decoder = FrameDecoder()
        try:
            for data in _chunks(self.process.stdout):
                for body in decoder.feed(data):
                    event = wire.decode_event(body)
                    if isinstance(event, wire.Beat):
                        self.beats.append(event)
                    else:
                        self._events.put(event)
        except (FrameError, ValueError) as error:
            self.broken = error
        self._events.put(None)

    def _listen(self) -> None:
        for data in _chunks(self.process.stderr):
            self._words += data


def _chunks(pipe: Any) -> Iterator[bytes]:
    return iter(lambda: os.read(pipe.fileno(), 1 << 16), b"")


def generate(id_: int, text: str, **more: Any) -> wire.Generate:
    sampling = wire.Sampling(**more.pop("sampling", {}))
    return wire.Generate(id_, sampling, text=text, **more)
