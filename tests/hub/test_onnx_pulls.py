"""ONNX models from a hub: a graph, its weights, and the files that say how to use them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tabagent.errors import UnsupportedModel
from tests.hub.fake_hub import FakeHub
from tests.hub.test_repository import found
from tests.live import LiveServer

GUIDE = Path(__file__).parent.parent / "models" / "guide-onnx"
FILES = {
    file.relative_to(GUIDE).as_posix(): file.read_bytes()
    for file in GUIDE.rglob("*")
    if file.is_file()
}
WEIGHTS = "onnx/model_quantized.onnx"
MODEL = "maker/model:Q8"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub(FILES | {"README.md": b"# A model", "onnx/model_q4.onnx": b"other"}) as made:
        yield made


@pytest.fixture
def server(tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveServer]:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with LiveServer(tmp_path, hub_endpoint=hub.url) as live:
        yield live


def pulled(server: LiveServer, model: str = MODEL) -> dict[str, Any]:
    answer = server.owner.post("/v1/pull", json={"model": model, "stream": False}, timeout=60)
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    assert job["state"] == "done", job
    return job


def test_each_graph_is_a_variant_with_what_it_needs() -> None:
    files = {
        "config.json": b"{}", "tokenizer.json": b"{}", "1_Pooling/config.json": b"{}",
        "other/config.json": b"{}", "onnx/model.onnx": bytes(30), "onnx/model.onnx_data": bytes(90),
        "onnx/model_fp16.onnx": bytes(50), "pytorch_model.bin": bytes(200), "train.json": b"{}",
    }  # fmt: skip
    with FakeHub(files) as hub:
        variants = {variant.name: variant for variant in found(hub).variants}
    assert set(variants) == {"FP32", "FP16"}
    assert {file.path for file in variants["FP32"].files} == {
        "onnx/model.onnx", "1_Pooling/config.json", "config.json", "onnx/model.onnx_data",
        "tokenizer.json",
    }  # fmt: skip
    assert variants["FP16"].size == 56


def test_builds_of_genai_are_variants_by_their_folders() -> None:
    folder = "cpu-int4"
    files = {
        f"{folder}/genai_config.json": b"{}", f"{folder}/tokenizer.json": b"{}",
        f"{folder}/model.onnx": bytes(9), f"{folder}/model.onnx.data": bytes(9),
        "README.md": b"# A model",
    }  # fmt: skip
    with FakeHub(files) as hub:
        (variant,) = found(hub).variants
    assert variant.name == "cpu-int4"
    assert len(variant.files) == 4


def test_a_graph_without_a_tokenizer_is_no_variant() -> None:
    files = {"config.json": b"{}", "onnx/model.onnx": bytes(30)}
    with FakeHub(files) as hub, pytest.raises(UnsupportedModel, match="ONNX"):
        found(hub)


def test_an_onnx_model_is_pulled_and_chats(server: LiveServer, hub: FakeHub) -> None:
    pulled(server)
    assert not hub.asked_for("/maker/model/resolve/" + "onnx/model_q4.onnx")
    folder = server.settings.models_path / "maker" / "model"
    for name, body in FILES.items():
        assert (folder / name).read_bytes() == body
    chat: dict[str, Any] = {
        "model": "maker/model", "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0,
    }  # fmt: skip
    answer = server.client.post("/v1/chat/completions", json=chat, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == MODEL
    assert answer.json()["choices"][0]["message"]["content"]


def test_wrong_bytes_of_a_small_file_never_appear(server: LiveServer, hub: FakeHub) -> None:
    def lie(asked: Any, body: bytes) -> Any:
        wrong = body.replace(b"llama", b"lhama") if asked.path.endswith("/config.json") else body
        return FakeHub.right(asked, wrong)

    hub.misbehave = lie
    answer = server.owner.post("/v1/pull", json={"model": MODEL, "stream": False}, timeout=60)
    assert "checksum-mismatch" in answer.text
    assert not (server.settings.models_path / "maker" / "model" / "config.json").exists()


def test_deleting_a_variant_leaves_what_another_needs(server: LiveServer, hub: FakeHub) -> None:
    pulled(server, "maker/model:Q4")
    pulled(server)
    folder = server.settings.models_path / "maker" / "model"
    gone = server.owner.post("/v1/delete", json={"model": MODEL}).json()
    assert gone["files"] == [WEIGHTS]
    assert (folder / "tokenizer.json").is_file()
    rest = server.owner.post("/v1/delete", json={"model": "maker/model:Q4"}).json()
    assert "tokenizer.json" in rest["files"]
    assert not folder.exists()
