"""`tabagent serve`, started as anyone starts it."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.server import Layout, Server, child, wait


@contextmanager
def tabagent(settings: Mapping[str, str] | None = None, *flags: str) -> Iterator[Server]:
    """A server that listens, on a data directory of its own. `settings`: names without prefix."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TABAGENT_")}
    environment |= {f"TABAGENT_{name}": value for name, value in (settings or {}).items()}
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "tabagent", "serve", "--port", "0"]
        command += ["--data-dir", directory, *flags]
        file = Path(directory) / "runtime.json"
        with child(command, environment) as (process, began):
            wait("tabagent", process, file.exists, 0.002)
            port = urlsplit(json.loads(file.read_text())["url"]).port
            assert port is not None
            yield Server("tabagent", port, process, began, "/v1/tokenize", "text")


@contextmanager
def tabagent_with(layout: Layout) -> Iterator[Server]:
    """A server that will load this model at the first request."""
    settings = {
        "SLOTS": str(layout.slots),
        "N_CTX": str(layout.n_ctx),
        "THREADS": str(layout.threads),
    }
    with tabagent(settings, "--model", str(layout.model)) as server:
        yield server
