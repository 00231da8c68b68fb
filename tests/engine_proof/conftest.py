"""One server for the tiny models and the guide, and the client that most people have."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.engine_proof.models import write_models
from tests.live import LiveServer


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    place = tmp_path_factory.mktemp("proof")
    (place / "models").mkdir()
    write_models(place / "models")
    with LiveServer(place) as live:
        yield live


@pytest.fixture(scope="package")
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="local", max_retries=0) as made:
        yield made
