"""One server for the tiny models and the guide, and the client that most people have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.engine_proof.models import write_models
from tests.live import LiveServer

EXACT: dict[str, Any] = {
    "flash_attention": "off",
    "cache_type_k": "f32",
    "cache_type_v": "f32",
}
"""An untrained model's next two tokens are about as likely: halved numbers would change its mind
with the company that it has in a batch."""


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    place = tmp_path_factory.mktemp("proof")
    (place / "models").mkdir()
    write_models(place / "models")
    with LiveServer(place, **EXACT) as live:
        yield live


@pytest.fixture(scope="package")
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="local", max_retries=0) as made:
        yield made
