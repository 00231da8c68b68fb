"""The tiny model, written once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.worker.gguf.driver import Engine
from tests.worker.tiny_gguf import write_model

Start = Callable[..., Engine]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def start(tiny: Path) -> Iterator[Start]:
    """Starts engines, on the tiny model unless told otherwise, and closes them."""
    started: list[Engine] = []

    def make(path: Path = tiny, **settings: Any) -> Engine:
        started.append(Engine(path, **settings))
        return started[-1]

    yield make
    for engine in started:
        engine.close()


@pytest.fixture
def engine(start: Start) -> Engine:
    return start()
