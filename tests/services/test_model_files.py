"""Files that are no models, offered as models to a live server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tabagent.app import GUIDE
from tabagent.catalog.models import BUILTIN, EMBEDDER
from tests.catalog.gguf_files import STRING, basics, gguf, pair, small_model, small_tensors
from tests.live import FAKE, LiveServer, fake_model

GOOD = GUIDE.read_bytes()
BROKEN = {
    "empty": b"",
    "elf": b"\x7fELF" + bytes(200),
    "text": b"this is not a model\n" * 50,
    "truncated-header": GOOD[:100],
    "truncated-data": GOOD[:-1000],
    "onnx": b"\x08\x08\x12\x07pytorch" + bytes(100),
    "only-a-header": small_model(),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    place = tmp_path_factory.mktemp("files")
    models = place / "models"
    models.mkdir()
    for name, content in BROKEN.items():
        (models / f"{name}.gguf").write_bytes(content)
    (models / "foreign.gguf").write_bytes(gguf(basics("martian"), small_tensors()))
    mixed = bytearray(GOOD)
    middle = len(mixed) // 2
    mixed[middle : middle + 4096] = bytes(4096)
    (models / "zeroed.gguf").write_bytes(mixed)
    with LiveServer(place) as live:
        live.answer("Hello", None)
        yield live


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_a_typed_422(server: LiveServer, name: str) -> None:
    pid = server.worker(BUILTIN).pid
    for _ in range(2):
        loaded = server.owner.post("/v1/models/load", json={"model": f"local/{name}"})
        assert loaded.status_code == 422, loaded.text
        body = loaded.json()
        assert body["code"] == "model-corrupt"
        assert body["file"] == f"{name}.gguf"
        assert body["check"]
        assert "/" not in body["detail"]
        asked = server.chat("Hello", f"local/{name}")
        assert asked.json()["code"] in ("model-corrupt", "wrong-model-task")
    listed = server.client.get(f"/v1/models/local/{name}").json()
    if name == "only-a-header":  # sound as far as it goes: the engine finds out
        assert listed["problem"] is None
    else:
        assert listed["problem"]["code"] == "model-corrupt"
    assert server.worker(BUILTIN).pid == pid
    assert server.answer("Hello", None)


def test_an_unknown_architecture_is_named(server: LiveServer) -> None:
    response = server.owner.post("/v1/models/load", json={"model": "local/foreign"})
    assert response.status_code == 422, response.text
    assert response.json()["code"] == "unsupported-model"
    assert response.json()["architecture"] == "martian"


def test_damage_that_only_the_numbers_show_harms_nobody_else(server: LiveServer) -> None:
    """Zeroed weights are a model that talks nonsense, or none: the server lives either way."""
    server.chat("Hello", "local/zeroed", max_tokens=4)
    assert server.answer("Hello", None)


def test_a_list_says_what_fits_when_it_is_asked(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=[fake_model()], memory_limit=10 * 10**6) as live:
        plain = live.client.get("/v1/models").json()["data"]
        assert {row["fits"] for row in plain} == {None}
        asked = live.client.get("/v1/models", params={"fits": "true"}).json()["data"]
        assert {row["id"]: row["fits"] for row in asked} == {
            BUILTIN: "no",
            EMBEDDER: "no",
            FAKE: "unknown",
        }
    with LiveServer(tmp_path) as live:
        assert live.client.get(f"/v1/models/{BUILTIN}").json()["fits"] == "yes"


def test_a_model_says_what_its_template_tells_it_of(tmp_path: Path) -> None:
    template = "{% if tools %}{{ tools }}{% endif %}<think></think>{{ messages }}"
    path = tmp_path / "models" / "able.gguf"
    path.parent.mkdir()
    path.write_bytes(
        gguf([*basics(), pair("tokenizer.chat_template", STRING, template)], small_tensors())
    )
    with LiveServer(tmp_path) as live:
        able = live.client.get("/v1/models/local%2Fable").json()["capabilities"]
        assert {name for name, has in able.items() if has} == {
            "chat", "completion", "tools", "reasoning",
        }  # fmt: skip


def test_a_device_that_is_not_here_fits_nothing_and_breaks_no_list(tmp_path: Path) -> None:
    with LiveServer(tmp_path, device="cuda") as live:
        rows = live.client.get("/v1/models", params={"fits": "true"}).json()["data"]
        assert {row["fits"] for row in rows} == {"no"}
        answer = live.client.get("/v1/hardware/recommendations", params={"fits": "anywhere"}).json()
        assert all("cuda" in row["reason"] for row in answer["data"])
        assert live.chat("hello", None).json()["code"] == "not-available-here"


def test_a_variant_of_a_repository_is_loaded_by_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "maker" / "model"
    folder.mkdir(parents=True)
    for variant in ("Q8_0", "F16"):
        (folder / f"model-{variant}.gguf").write_bytes(GOOD)
    with LiveServer(tmp_path) as live:

        def load(**wish: str) -> dict[str, Any]:
            answer: dict[str, Any] = live.owner.post("/v1/models/load", json=wish).json()
            return answer

        assert load(model="maker/model", variant="f16")["model"] == "maker/model:F16"
        loaded = load(model="maker/model", quantization="Q8_0")
        assert loaded["model"] == "maker/model:Q8_0"
        assert load(model="maker/model", variant="Q2_K")["code"] == "model-not-found"
        clash = load(model="maker/model:F16", variant="Q8_0")
        assert clash["code"] == "invalid-request"
        info = live.client.get("/v1/models/maker%2Fmodel%3AQ8_0").json()
        assert info["resident_bytes"] > 0
