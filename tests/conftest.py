"""Every test gets its own data directory and a clean environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tabagent import logs
from tabagent.catalog.models import BUILTIN
from tests.live import LiveServer, fake_models

logs.configure("warning", "console")


@pytest.fixture(autouse=True)
def _own_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("TABAGENT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="session")
def guide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server whose built-in model is loaded. Shared: leave it as you find it."""
    with LiveServer(tmp_path_factory.mktemp("guide")) as server:
        assert server.owner.post("/v1/models/load", json={"model": BUILTIN}).status_code == 200
        yield server


@pytest.fixture(scope="session")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with the fake engine. Shared: leave it as you find it."""
    with LiveServer(tmp_path_factory.mktemp("fake"), extra=fake_models()) as server:
        yield server
