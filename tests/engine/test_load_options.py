"""How a model is loaded, as callers ask for it and as they see it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.live import LiveServer
from tests.worker.tiny_gguf import write_model
from tests.worker.tiny_mamba import write_mamba

TINY = "local/tiny"
LONG = "in on an er the " * 10


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    place = tmp_path_factory.mktemp("options")
    (place / "models").mkdir()
    write_model(place / "models" / "tiny.gguf")
    write_model(place / "models" / "twin.gguf", seed=9)
    write_mamba(place / "models" / "mamba.gguf")
    with LiveServer(place) as live:
        yield live


def load(server: LiveServer, model: str = TINY, **options: Any) -> dict[str, Any]:
    reply = server.owner.post(
        "/v1/models/load", json={"model": model, "force_reload": True, **options}
    )
    found: dict[str, Any] = reply.json()
    return found


def test_options_are_taken_and_told(server: LiveServer) -> None:
    options: dict[str, Any] = {
        "n_ctx": 128,
        "slots": 3,
        "threads": 1,
        "threads_batch": 2,
        "flash_attention": "on",
        "cache_type_k": "f32",
        "cache_type_v": "bf16",
        "speculation": "ngram",
    }
    loaded = load(server, mmap=False, **options)
    assert {name: loaded[name] for name in options} == options
    assert server.chat("hi", TINY, max_tokens=20).json()["usage"]["completion_tokens"] <= 20


def test_a_draft_model_guesses_and_the_text_is_the_same(server: LiveServer) -> None:
    load(server, flash_attention="off")
    plain = server.answer("hello", TINY, max_tokens=40, temperature=0, ignore_eos=True)
    assert load(server, flash_attention="off", draft_model="local/twin")["draft_model"] == (
        "local/twin"
    )
    assert server.answer("hello", TINY, max_tokens=40, temperature=0, ignore_eos=True) == plain


@pytest.mark.parametrize(
    ("model", "options", "param"),
    [
        (TINY, {"draft_model": "tabagent/guide"}, "draft_model"),
        (TINY, {"speculation": "draft"}, "draft_model"),
        (TINY, {"flash_attention": "off", "cache_type_v": "q4_0"}, "cache_type_v"),
        (TINY, {"cache_type_k": "q8_0"}, "cache_type_k"),  # its heads are 16 numbers wide
        ("local/mamba", {"speculation": "ngram"}, "speculation"),
    ],
)
def test_what_cannot_be_loaded_so_is_refused_by_name(
    server: LiveServer, model: str, options: dict[str, Any], param: str
) -> None:
    refused = load(server, model, **options)
    assert (refused.get("status"), refused.get("param")) == (400, param)
    assert load(server)["state"] == "ready"


def test_computed_prompts_outlive_an_unload_where_that_is_asked_for(server: LiveServer) -> None:
    def cached() -> int:
        reply = server.chat(LONG, TINY, max_tokens=5).json()
        found: int = reply["usage"]["prompt_tokens_details"]["cached_tokens"]
        return found

    for keep in (False, True):
        load(server, keep_state=keep)
        cached()
        server.owner.post("/v1/models/unload", json={"model": TINY})
        load(server, keep_state=keep)
        assert (cached() > 50) == keep


def test_another_way_to_load_a_loaded_model_is_a_conflict_that_says_what_differs(
    server: LiveServer,
) -> None:
    load(server, slots=2)
    reply = server.owner.post("/v1/models/load", json={"model": TINY, "slots": 4})
    assert reply.status_code == 409
    assert "slots=2" in reply.json()["detail"]
    assert server.owner.post("/v1/models/load", json={"model": TINY}).status_code == 200
