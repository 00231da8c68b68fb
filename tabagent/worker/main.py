"""The worker process: reads commands, drives one backend, answers.

Four kinds of thread: the main one reads, two prepare requests, one owns the engine, one sends the
heartbeat. The gateway's death ends the process: the pipe closes, and on Linux the kernel says so.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NoReturn

import psutil

from tabagent import wire
from tabagent.errors import TabAgentError
from tabagent.frames import FrameDecoder, encode
from tabagent.worker.backend import Backend, Work, failed, halted
from tabagent.worker.confinement import die_with_parent

BACKENDS: Final = {
    "gguf": ("tabagent.worker.gguf.engine", "GgufBackend"),
    "gguf-pooling": ("tabagent.worker.gguf.pooling_engine", "backend"),
    "onnx": ("tabagent.worker.onnx.engine", "OnnxBackend"),
    "onnx-pooling": ("tabagent.worker.onnx.encoder", "backend"),
    "sentences": ("tabagent.worker.sentences.engine", "backend"),
    "fake": ("tabagent.worker.fake.engine", "FakeBackend"),
}
CRASH: Final = 70  # EX_SOFTWARE
LEAVE_S: Final = 0.5  # what the engine's thread gets to tidy up
SAVE_S: Final = 4.5  # where it keeps its state as well; a little less than the gateway waits


def run(backend: str, beat_s: float, *, debug: bool = False) -> NoReturn:
    """Serve one backend until told to leave, then end the process. `debug` tells of every request."""
    source, sink = _take_pipes()
    die_with_parent(CRASH)
    module, name = BACKENDS[backend]
    worker = Worker(getattr(importlib.import_module(module), name)(), source, sink, debug=debug)
    try:
        worker.serve(beat_s)
    except BaseException:  # what came was no command: nothing after it can be trusted
        _crash()
    # No return: the interpreter would wait for threads deep in a prompt, a load or the engine.
    sys.stderr.flush()
    os._exit(0)


def _take_pipes() -> tuple[int, int]:
    """Keep stdin and stdout for ourselves before any engine can print into them."""
    source, sink = os.dup(0), os.dup(1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return source, sink


class Worker:
    """Moves commands to a backend and events back."""

    def __init__(self, backend: Backend, source: int, sink: int, *, debug: bool = False) -> None:
        self._backend = backend
        self._source, self._sink, self._debug = source, sink, debug
        self._write_lock = threading.Lock()
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="prepare")
        self._preparing: dict[int, Work] = {}  # on their way to the engine thread
        self._process = psutil.Process()
        self._leave = threading.Event()
        self._leave_s = LEAVE_S

    def serve(self, beat_s: float) -> None:
        """Until the input ends or says so. Raises ValueError when it makes no sense."""
        self._send(wire.Hello(pid=os.getpid(), protocol=wire.PROTOCOL, engine=self._backend.engine))
        threading.Thread(target=self._beat_forever, args=(beat_s,), daemon=True).start()
        engine = threading.Thread(target=self._drive, name="engine", daemon=True)
        engine.start()
        decoder = FrameDecoder()
        while data := os.read(self._source, 1 << 16):
            for body in decoder.feed(data):
                self._hear(wire.decode_command(body))
            if self._leave.is_set():
                break
        # The gateway is gone or has said so: nobody waits for an answer any more.
        self._leave.set()
        self._inbox.put(None)
        engine.join(self._leave_s)

    # ---- commands -------------------------------------------------------------------------------
    def _hear(self, command: wire.Command) -> None:
        match command:
            case wire.Load():
                self._leave_s = SAVE_S if command.state_path else LEAVE_S
                self._inbox.put(lambda: self._answer(command.id, lambda: self._load(command)))
            case wire.Generate() | wire.Embed() | wire.Rank() | wire.Label() | wire.Mark():
                self._preparing[command.id] = command
                self._pool.submit(self._prepare, command)
            case wire.Sleep():
                self._inbox.put(lambda: self._answer(command.id, self._sleep))
            case wire.Cancel():
                self._inbox.put(lambda: self._cancel(command))
            case wire.Shutdown():
                self._leave.set()
            case _:
                self._pool.submit(self._answer, command.id, lambda: self._backend.ask(command))

    def _load(self, command: wire.Load) -> dict[str, Any]:
        facts = self._backend.load(
            command, lambda fraction: self._send(wire.Progress(command.id, fraction))
        )
        self._beat()  # what it takes is counted from now on
        return facts

    def _sleep(self) -> dict[str, Any]:
        asleep = self._backend.sleep()
        self._beat()
        return {"asleep": asleep}

    def _prepare(self, command: Work) -> None:
        try:
            prepared = self._backend.prepare(command)
        except TabAgentError as error:
            self._note("request_refused", command.id, code=error.slug)
            if self._claim(command.id) is not None:
                self._send(failed(command.id, error))
        except BaseException as error:
            self._break(command.id, error)
        else:
            self._inbox.put(lambda: self._submit(command, prepared))

    def _claim(self, id_: int) -> Work | None:
        """The request, if it is in preparation and so the caller's to answer: only one gets it."""
        return self._preparing.pop(id_, None)

    def _submit(self, command: Work, prepared: Any) -> None:
        if self._claim(command.id) is not None:  # else it was cancelled meanwhile
            self._note("request_taken", command.id, kind=type(command).__name__.lower())
            with self._answering(command.id):
                self._backend.submit(command, prepared)

    def _cancel(self, command: wire.Cancel) -> None:
        self._note("request_halted" if command.halt else "request_dropped", command.id)
        if (early := self._claim(command.id)) is not None:
            if command.halt and isinstance(early, wire.Generate):
                nothing = dict.fromkeys(range(early.n), 0)
                self._send(*halted(command.id, nothing, wire.Usage(0, 0)))
        else:
            self._send(*self._backend.cancel(command.id, halt=command.halt))
        self._beat()

    def _answer(self, id_: int, work: Callable[[], dict[str, Any]]) -> None:
        with self._answering(id_):
            self._send(wire.Done(id_, work()))

    @contextlib.contextmanager
    def _answering(self, id_: int) -> Iterator[None]:
        """Errors become the command's answer; what is no TabAgentError ends the process."""
        try:
            yield
        except TabAgentError as error:
            self._note("request_refused", id_, code=error.slug)
            self._send(failed(id_, error))
        except BaseException as error:
            self._break(id_, error)

    # ---- the engine's thread --------------------------------------------------------------------
    def _drive(self) -> None:
        backend = self._backend
        try:
            while not self._leave.is_set():
                self._run_inbox(wait=not backend.busy)
                if backend.busy and not self._leave.is_set():
                    before = backend.counts().slots_used
                    self._send(*backend.step())
                    if backend.counts().slots_used != before:
                        self._beat()
            backend.close()
        except BaseException as error:
            self._break(0, error)

    def _run_inbox(self, *, wait: bool) -> None:
        with contextlib.suppress(queue.Empty):
            while (job := self._inbox.get(block=wait)) is not None:
                job()
                wait = False

    # ---- events ---------------------------------------------------------------------------------
    def _beat_forever(self, beat_s: float) -> None:
        while not self._leave.wait(beat_s):
            self._beat()

    def _beat(self) -> None:
        counts, memory = self._backend.counts(), self._process.memory_info()
        self._send(
            wire.Beat(
                resident_bytes=memory.rss,
                mapped_bytes=getattr(memory, "shared", 0),  # Linux alone tells
                slots_used=counts.slots_used,
                waiting=counts.waiting,
                steps=counts.steps,
            )
        )

    def _note(self, event: str, id_: int, **facts: str) -> None:
        if self._debug:
            self._send(wire.Note(event, "debug", id_, dict(facts)))

    def _break(self, id_: int, error: BaseException) -> NoReturn:
        """Say over whose request, and go. The message may quote it, so its kind has to do."""
        self._send(wire.Note("worker_broke", "error", id_, {"error": type(error).__name__}))
        _crash()

    def _send(self, *events: wire.Event) -> None:
        """Write the events' frames with one call where the pipe has room."""
        data = memoryview(b"".join(encode(wire.encode(event)) for event in events))
        try:
            with self._write_lock:
                while data:
                    data = data[os.write(self._sink, data) :]
        except BrokenPipeError:
            self._leave.set()  # the gateway is gone; the reader sees it too


def _crash() -> NoReturn:
    """Say why and go: a worker in doubt serves nobody, a new one does."""
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(CRASH)
