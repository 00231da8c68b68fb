"""A server as a process of its own, with the built-in models, that can be killed at any moment."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tabagent.runtime import DataDirectory, Running
from tests.live import eventually


class Killable:
    """`tabagent serve` on a directory. Use as a context manager; `started_s` is how long it took."""

    def __init__(self, data: Path) -> None:
        self._data = data

    def __enter__(self) -> Self:
        begun = time.monotonic()
        self._words = (self._data / "stderr.txt").open("w+b")  # no pipe, which workers hold open
        command = [sys.executable, "-m", "tabagent", "serve", "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--data-dir", str(self._data), "--log-level", "error"],
            stdout=subprocess.DEVNULL,
            stderr=self._words,
        )

        def announced() -> Running | None:
            assert self.process.poll() is None, (self._data / "stderr.txt").read_text()
            running = DataDirectory(self._data).running()
            return running if running and running.pid == self.process.pid else None

        running = eventually(announced, 20)
        token = (self._data / "token").read_text().strip()
        self.client = httpx.Client(
            base_url=running.url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=20,
            trust_env=False,
        )
        assert self.client.get("/health").status_code == 200
        self.started_s = time.monotonic() - begun
        return self

    def kill(self) -> str:
        """Its last words on stderr."""
        self.process.kill()
        self.process.wait(10)
        self._words.seek(0)
        return self._words.read().decode(errors="replace")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.kill()
        self._words.close()
