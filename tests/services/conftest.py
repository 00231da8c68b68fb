"""The real `openai` client against the fake engine, which says what it is asked to act out."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.live import LiveServer


@pytest.fixture(scope="session")
def client(counter: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{counter.url}/v1", api_key="local", max_retries=0) as made:
        yield made
