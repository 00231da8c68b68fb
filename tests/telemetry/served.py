"""`tabagent serve` as a process of its own, whose every output is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, Self

import httpx

from tabagent.runtime import DataDirectory, Running
from tests.live import eventually


class Served:
    """Use as a context manager. `settings` by their names in small letters."""

    def __init__(self, data: Path, *, stderr: int | IO[bytes] | None = None, **settings: str):
        self.data, self._stderr = data, stderr
        self._settings = {f"TABAGENT_{name.upper()}": value for name, value in settings.items()}

    def __enter__(self) -> Self:
        self.data.mkdir(parents=True, exist_ok=True)
        self._out = (self.data / "stdout.txt").open("wb")
        self._err = (self.data / "stderr.txt").open("wb")
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tabagent",
                "serve",
                "--port",
                "0",
                "--data-dir",
                str(self.data),
            ],
            env={**os.environ, **self._settings},
            stdout=self._out,
            stderr=self._err if self._stderr is None else self._stderr,
        )

        def announced() -> Running | None:
            assert self.process.poll() is None, self.output()
            running = DataDirectory(self.data).running()
            return running if running and running.pid == self.process.pid else None

        self.url = eventually(announced, 20).url
        self.token = (
            self._settings.get("TABAGENT_TOKEN") or (self.data / "token").read_text().strip()
        )
        self.client = httpx.Client(base_url=self.url, timeout=30, trust_env=False)
        self.owner = httpx.Client(
            base_url=self.url,
            timeout=30,
            trust_env=False,
            headers={"Authorization": f"Bearer {self.token}"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.owner.close()
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)
        self._out.close()
        self._err.close()

    def output(self) -> str:
        """Everything that it wrote."""
        files = (self.data / name for name in ("stdout.txt", "stderr.txt"))
        return "".join(file.read_text(errors="replace") for file in files)

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """The log's lines, which are JSON; those of one event."""
        text = (self.data / "stderr.txt").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        return [line for line in lines if event in (None, line["event"])]

    def line(self, event: str, **facts: Any) -> dict[str, Any]:
        """The one that says this; it may be written a moment after its answer."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.lines(event) if facts.items() <= line.items()]

        [line] = eventually(found, what=f"no line {event} with {facts}")
        return dict(line)
