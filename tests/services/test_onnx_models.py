"""ONNX models as clients use them: beside GGUF ones, by variant, and the embedder that is built in."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import openai
import pytest

from tabagent.catalog.models import BUILTIN, EMBEDDER
from tests.live import LiveServer
from tests.services.test_embeddings import problem
from tests.worker.gguf.pooling_driver import cosines
from tests.worker.onnx.conftest import minilm, tiny, torch_peer
from tests.worker.onnx.test_minilm import TEXTS
from tests.worker.tiny_pooling import write_bert
from tests.worker.torch_peer import TorchPeer

__all__ = ["minilm", "tiny", "torch_peer"]
MINILM = "sentence/minilm"


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory,
    minilm: Path,
    tiny: Callable[..., Path],
    torch_peer: TorchPeer,
) -> Iterator[LiveServer]:
    place = tmp_path_factory.mktemp("onnx-models")
    models = place / "models"
    for variant in ("fp16", "int8"):
        if not (minilm / "onnx" / f"model_{variant}.onnx").is_file():
            torch_peer.convert(minilm, variant)
    heads = {
        "ranker": tiny("rerank", config={"initializer_range": 0.3}),
        "mood": tiny("classification", labels=["bad", "good", "odd"]),
        "names": tiny(
            "entities", labels=["O", "B-PER", "I-PER"], config={"initializer_range": 1.0}
        ),
    }
    shutil.copytree(minilm, models / "sentence" / "minilm")
    for name, folder in heads.items():
        shutil.copytree(folder, models / "heads" / name)
        (models / "heads" / name / "model.safetensors").unlink()
    write_bert(models / "bert.gguf")
    with LiveServer(place) as live:
        yield live


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="local", max_retries=0) as made:
        yield made


def vectors(client: openai.OpenAI, model: str, texts: list[str]) -> npt.NDArray[np.float64]:
    answer = client.embeddings.create(model=model, input=texts, extra_body={"truncate": "end"})
    return np.array([entry.embedding for entry in answer.data])


def test_the_openai_client_gets_the_vectors_of_sentence_transformers(
    client: openai.OpenAI, minilm: Path, torch_peer: TorchPeer
) -> None:
    found = vectors(client, MINILM, TEXTS[:40])
    assert cosines(found, torch_peer.vectors(minilm, TEXTS[:40])).min() > 0.9999


def test_variants_load_by_name_and_lose_as_little_as_they_should(
    client: openai.OpenAI, server: LiveServer
) -> None:
    whole = vectors(client, f"{MINILM}:FP32", TEXTS[:64])
    least = {"FP16": 0.9999, "INT8": 0.85}  # of the mean: bytes lose much of odd texts
    for variant, bound in least.items():
        like = cosines(vectors(client, f"{MINILM}:{variant}", TEXTS[:64]), whole)
        print(f"{variant}: worst cosine {like.min():.5f}, mean {like.mean():.5f}")
        assert like.mean() > bound
    loaded = {row["model"]: row for row in server.client.get("/v1/models/loaded").json()["data"]}
    row = loaded[f"{MINILM}:INT8"]
    assert row["execution_provider"] == "CPUExecutionProvider"
    assert row["engine"].startswith("onnxruntime ")
    assert row["notes"] == []
    asked = server.owner.post("/v1/models/load", json={"model": MINILM, "variant": "FP16"})
    assert asked.json()["model"] == f"{MINILM}:FP16"


def test_gguf_chat_runs_beside_onnx_and_gguf_vectors(
    client: openai.OpenAI, server: LiveServer
) -> None:
    said = client.chat.completions.create(
        model=BUILTIN, messages=[{"role": "user", "content": "What is TabAgent?"}], temperature=0
    )
    assert said.choices[0].message.content
    assert vectors(client, "local/bert", ["the cat"]).shape == (1, 64)
    assert vectors(client, MINILM, ["the cat"]).shape == (1, 384)
    workers = [row for row in server.client.get("/v1/models/loaded").json()["data"] if row["pid"]]
    assert len({row["engine"].split()[0] for row in workers}) == 2


def test_the_built_in_embedder_finds_what_is_meant(
    tmp_path: Path, client: openai.OpenAI, server: LiveServer
) -> None:
    texts = ["Pull gets a model from a hub.", "Ports are numbers.", "Tea is brewed with leaves."]
    with LiveServer(tmp_path) as fresh:  # of which nothing was pulled
        body = {"query": "How do I download a model?", "texts": texts}
        found = fresh.client.post("/v1/semantic-search", json=body).json()
    assert found["model"] == EMBEDDER
    assert found["results"][0]["index"] == 0
    assert vectors(client, EMBEDDER, ["a cat", "a dog"]).shape == (2, 256)
    listed = server.client.get("/v1/embedding-models").json()["data"]
    row = next(row for row in listed if row["id"] == EMBEDDER)
    assert (row["dimensions"], row["context_length"], row["quantization"]) == (256, 8192, "INT8")
    nothing = server.client.post("/v1/embeddings", json={"model": EMBEDDER, "input": "   "})
    problem(nothing, "invalid-request", "/input")


def test_one_setting_names_a_better_model(tmp_path: Path, server: LiveServer) -> None:
    models = server.settings.models_path
    asked = {"input": "the cat"}
    with LiveServer(tmp_path, models_dir=models, embedding_model="local/bert") as live:
        assert live.client.post("/v1/embeddings", json=asked).json()["model"] == "local/bert"
    default = server.client.post("/v1/embeddings", json=asked).json()["model"]
    assert default not in (EMBEDDER, "")  # what a person put there goes before what is built in


def test_rerank_says_how_it_ranked(server: LiveServer) -> None:
    body: dict[str, Any] = {"query": "the cat", "documents": ["a dog", "the cat sat", "river"]}
    cross = server.client.post("/v1/rerank", json={"model": "heads/ranker", **body}).json()
    assert (cross["method"], cross["scale"]) == ("cross-encoder", "probability")
    assert all(0 < row["relevance_score"] < 1 for row in cross["results"])
    plain = server.client.post("/v1/rerank", json={"model": MINILM, **body}).json()
    assert (plain["method"], plain["scale"]) == ("similarity", "cosine")
    assert plain["results"][0]["index"] == 1
    body["method"] = "late-interaction"
    late = server.client.post("/v1/rerank", json={"model": MINILM, **body}).json()
    assert late["method"] == "late-interaction"
    assert late["results"][0]["index"] == 1
    refused = server.client.post("/v1/rerank", json={"model": "local/bert", **body})
    assert problem(refused, "unsupported-parameter")["param"] == "method"
    unnamed = server.client.post("/v1/rerank", json=body | {"method": "similarity"}).json()
    assert unnamed["method"] == "similarity"


def test_texts_are_classified(server: LiveServer) -> None:
    body = {"model": "heads/mood", "input": ["the cat sat", "a dog"]}
    found = server.client.post("/v1/classify", json=body).json()
    assert [row["index"] for row in found["data"]] == [0, 1]
    for row in found["data"]:
        assert {entry["label"] for entry in row["scores"]} == {"bad", "good", "odd"}
        assert sum(entry["score"] for entry in row["scores"]) == pytest.approx(1)
        assert row["score"] == max(entry["score"] for entry in row["scores"])
    short = server.client.post("/v1/classify", json=body | {"top_n": 1, "input": "a"}).json()
    assert len(short["data"][0]["scores"]) == 1
    wrong = server.client.post("/v1/classify", json=body | {"model": "heads/names"})
    assert "entities" in problem(wrong, "wrong-model-task")["detail"]
    long = server.client.post("/v1/classify", json=body | {"input": ["a", "cat " * 500]})
    problem(long, "context-length-exceeded", "/input/1")


def test_a_blank_query_is_refused_by_its_place(server: LiveServer) -> None:
    """The built-in embedder has no token for spaces, and none around a text."""
    body = {"model": EMBEDDER, "query": "   ", "documents": ["tea"]}
    problem(server.client.post("/v1/rerank", json=body), "invalid-request", "/query")
    blank = {"model": EMBEDDER, "query": "tea", "documents": ["   ", "tea"]}
    ranked = server.client.post("/v1/rerank", json=blank).json()["results"]
    assert [row["index"] for row in ranked] == [1, 0]


def test_names_are_found_with_their_places(server: LiveServer) -> None:
    text = "the cat sat on a green mat by dog river"
    found = server.client.post("/v1/entities", json={"input": text}).json()
    assert found["model"] == "heads/names:FP32"
    (row,) = found["data"]
    assert row["entities"]
    for entity in row["entities"]:
        assert entity["text"] == text[entity["start"] : entity["end"]]
        assert entity["label"] == "PER"


def test_a_hostile_file_is_refused_and_nobody_else_notices(
    tmp_path: Path, tiny: Callable[..., Path]
) -> None:
    folder = tmp_path / "models" / "evil" / "model"
    shutil.copytree(tiny(), folder)
    graph = folder / "onnx" / "model.onnx"
    hostile = onnx.load(graph)
    hostile.graph.node.append(onnx.helper.make_node("Run", ["input_ids"], ["x"], domain="evil"))
    onnx.save(hostile, folder / "onnx" / "model_q4.onnx")
    (folder / "onnx" / "model_fp16.onnx").write_bytes(graph.read_bytes()[:5000])
    (folder / "onnx" / "model_int8.onnx").write_bytes(b"\xff" * 5000)
    expected = {"Q4": "unsupported-model", "FP16": "model-corrupt", "INT8": "model-corrupt"}
    with LiveServer(tmp_path) as live:
        for variant, slug in expected.items():
            asked = {"model": f"evil/model:{variant}", "input": "a"}
            problem(live.client.post("/v1/embeddings", json=asked), slug)
        assert live.client.get("/v1/models/loaded").json()["data"] == []
        good = {"model": "evil/model:FP32", "input": "a"}
        assert live.client.post("/v1/embeddings", json=good).status_code == 200


def test_without_a_model_for_it_that_is_the_problem(tmp_path: Path) -> None:
    with LiveServer(tmp_path) as fresh:
        for route in ("classify", "entities"):
            answer = fresh.client.post(f"/v1/{route}", json={"input": "a"})
            assert "folder" in problem(answer, "model-not-found")["pull_hint"]
