"""The tiny model, written once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tabagent import wire
from tests.worker import tiny_pooling
from tests.worker.gguf.driver import Engine
from tests.worker.gguf.pooling_driver import Pooler
from tests.worker.tiny_gguf import write_model

Start = Callable[..., Engine]
Open = Callable[..., Pooler]


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


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models that pool, by name."""
    place = tmp_path_factory.mktemp("pooling")
    bert, qwen = tiny_pooling.write_bert, tiny_pooling.write_qwen
    rank, template = tiny_pooling.RANK, tiny_pooling.RERANK
    return {
        "bert": bert(place / "bert.gguf"),
        "qwen": qwen(place / "qwen.gguf"),
        "ranker": bert(place / "ranker.gguf", pooling=rank, head=True),
        "jina": bert(place / "jina.gguf", jina=True),
        "jina ranker": bert(place / "jina-ranker.gguf", pooling=rank, head=True, jina=True),
        "newer ranker": bert(place / "newer.gguf", pooling=rank, head=True, eos=True),
        "qwen ranker": qwen(place / "qwen-ranker.gguf", pooling=rank, template=template),
    }


@pytest.fixture
def open_(files: dict[str, Path]) -> Iterator[Open]:
    """Opens models that pool, and closes them."""
    opened: list[Pooler] = []

    def make(name: str, pooling: wire.Pooling, **settings: Any) -> Pooler:
        opened.append(Pooler(files[name], pooling, **settings))
        return opened[-1]

    yield make
    for pooler in opened:
        pooler.close()


@pytest.fixture
def bert(open_: Open) -> Pooler:
    return open_("bert", "mean")


@pytest.fixture
def qwen(open_: Open) -> Pooler:
    return open_("qwen", "last")
