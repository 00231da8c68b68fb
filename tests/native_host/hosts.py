"""A host as the browser runs it: a real process between two pipes, and servers for it."""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

import psutil

from native_host import relay
from tests.live import eventually
from tests.native_host import plain_server

ID = "abcdefghijklmnopabcdefghijklmnop"
ORIGIN = f"chrome-extension://{ID}/"
PLAIN = [sys.executable, "-IS", plain_server.__file__]


def framed(body: bytes | dict[str, Any]) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return len(raw).to_bytes(4, sys.byteorder) + raw


class HostProcess:
    """What it writes is read by a thread and must be frames of JSON objects, to the last byte."""

    def __init__(self, command: Sequence[str], *, reading: bool = True, **more: Any) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **more,
        )
        assert self.process.stdin is not None
        self.stdin: IO[bytes] = self.process.stdin
        self.messages: queue.Queue[dict[str, Any]] = queue.Queue()
        self.broken = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        if reading:
            self.read_on()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        if failed:
            self.process.kill()
        with contextlib.suppress(OSError):  # it has ended by itself
            self.stdin.close()
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()
            if self._reader.ident is not None:
                self._reader.join(10)
            for pipe in (self.process.stdout, self.process.stderr):
                assert pipe is not None
                pipe.close()

    def read_on(self) -> None:
        self._reader.start()

    def send(self, body: bytes | dict[str, Any]) -> None:
        self.stdin.write(framed(body))
        self.stdin.flush()

    def receive(self, timeout: float = 10) -> dict[str, Any]:
        """The next message that is no status."""
        return self.receive_that(lambda message: message.get("event") != "status", timeout)

    def receive_that(
        self, condition: Callable[[dict[str, Any]], bool], timeout: float = 10
    ) -> dict[str, Any]:
        while True:
            message = self.messages.get(timeout=timeout)
            if condition(message):
                return message

    def ask(self, body: bytes | dict[str, Any], timeout: float = 10) -> dict[str, Any]:
        self.send(body)
        return self.receive(timeout)

    def finish(self, timeout: float = 10) -> list[dict[str, Any]]:
        """End of file; whatever it says until it ends by itself."""
        self.stdin.close()
        self.process.wait(timeout)
        self._reader.join(timeout)
        assert not self.broken, self.broken
        return list(self.messages.queue)

    def said_to_stderr(self) -> str:
        assert self.process.stderr is not None
        said: bytes = self.process.stderr.read()
        return said.decode()

    def _read(self) -> None:
        assert self.process.stdout is not None
        source = self.process.stdout
        while header := source.read(4):
            length = int.from_bytes(header, sys.byteorder)
            if len(header) < 4 or length > relay.MOST_TO_BROWSER:
                self.broken = f"a header {header!r}"
                return
            body = source.read(length)
            try:
                message = json.loads(body)
            except ValueError:
                self.broken = f"{len(body)} of {length} bytes: {body[:80]!r}"
                return
            self.messages.put(message)


class Place:
    """A data directory with a host installed in it."""

    def __init__(self, data_dir: Path, *, python: str = sys.executable, **config: Any) -> None:
        self.data_dir, self.python = data_dir, python
        self.files = data_dir / "native_host"
        self.files.mkdir(parents=True)
        shutil.copy(relay.__file__, self.files / "relay.py")
        self.configure(**config)

    def configure(self, **config: Any) -> None:
        values = {
            "data_dir": str(self.data_dir),
            "command": PLAIN,
            "auto_start": False,
            "allowed_origins": [ORIGIN],
        }
        (self.files / "host.json").write_text(json.dumps(values | config))

    def host(self, *arguments: str, reading: bool = True, **more: Any) -> HostProcess:
        command = [self.python, "-IS", str(self.files / "relay.py"), *(arguments or (ORIGIN,))]
        return HostProcess(command, reading=reading, **more)

    @contextmanager
    def server(self, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
        """The plain server, started by somebody else."""
        (self.data_dir / "runtime.json").unlink(missing_ok=True)
        process = subprocess.Popen(
            [*PLAIN, "--data-dir", str(self.data_dir), *flags], stdout=subprocess.DEVNULL
        )
        try:
            eventually((self.data_dir / "runtime.json").exists, 10)
            yield process
        finally:
            process.kill()
            process.wait()

    def started(self) -> list[int]:
        """Process ids of the servers that were started here."""
        file = self.data_dir / "starts"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def running(self) -> list[psutil.Process]:
        return [
            psutil.Process(pid)
            for pid in self.started()
            if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        ]

    def stop_all(self) -> None:
        """Also one that starts only now, since somebody thought the first was not coming."""
        while running := self.running():
            for process in running:
                process.kill()
            time.sleep(0.2)
