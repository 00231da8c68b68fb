"""Models that are folders are listed with what their JSON says, and never break the listing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tabagent.app import GUIDE
from tabagent.catalog.json_files import LARGEST_JSON
from tabagent.catalog.models import Catalog, Model
from tests.catalog.test_models import put
from tests.catalog.test_places import cached, refer
from tests.live import LiveServer

BERT = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 384,
    "max_position_embeddings": 512,
}
QWEN = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "max_position_embeddings": 32768,
}


def make(folder: Path, files: dict[str, Any]) -> Path:
    """A repository's folder. Objects are written as JSON, numbers as so many bytes."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, int):
            file.write_bytes(bytes(content))
        else:
            file.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def safetensors(path: Path, shapes: dict[str, list[int]]) -> None:
    header = json.dumps(
        {"__metadata__": {"format": "pt"}}
        | {name: {"dtype": "F32", "shape": s, "data_offsets": [0, 0]} for name, s in shapes.items()}
    ).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def listed(tmp_path: Path, **where: Any) -> dict[str, Model]:
    catalog = Catalog(tmp_path / "models", GUIDE, **where)
    return {m.id: m for m in catalog.scan() if m.location != "built-in"}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return tmp_path / "models" / "maker" / "model"


def only(tmp_path: Path) -> Model:
    (model,) = listed(tmp_path).values()
    return model


def test_each_variant_of_transformers_js_is_a_model(tmp_path: Path, repo: Path) -> None:
    names = ("", "_fp16", "_quantized", "_int8", "_uint8", "_q4", "_q4f16", "_bnb4", "_O4")
    files = {f"onnx/model{name}.onnx": 100 + i for i, name in enumerate(names)}
    make(repo, {"config.json": BERT, "README.md": "---\nlicense: mit\n---\n", **files})
    found = listed(tmp_path)
    variants = ("FP32", "FP16", "Q8", "INT8", "UINT8", "Q4", "Q4F16", "BNB4", "O4")
    assert set(found) == {f"maker/model:{variant}" for variant in variants}
    q4 = found["maker/model:Q4"]
    assert (q4.format, q4.task, q4.architecture, q4.quantisation) == (
        "onnx", "embedding", "bert", "Q4",
    )  # fmt: skip
    assert (q4.size_bytes, q4.files, q4.context_length) == (105, 1, 512)
    assert (q4.embedding_length, q4.license, q4.parameters) == (384, "mit", 0)


def test_what_was_too_large_for_the_graph_counts(tmp_path: Path, repo: Path) -> None:
    files = {
        "onnx/model.onnx": 10,
        "onnx/model.onnx_data": 1000,
        "onnx/model.onnx_data_1": 500,
        "onnx/model_fp16.onnx": 20,
        "onnx/model_fp16.onnx.data": 300,
        "onnx/modelxonnx_data": 7,
    }
    make(repo, {"config.json": BERT, **files})
    found = listed(tmp_path)
    assert {name: (m.size_bytes, m.files) for name, m in found.items()} == {
        "maker/model:FP32": (1510, 3),
        "maker/model:FP16": (320, 2),
    }


@pytest.mark.parametrize(
    ("config", "more", "task"),
    [
        (QWEN, {}, "completion"),
        (QWEN, {"tokenizer_config.json": {"chat_template": "{{ messages }}"}}, "chat"),
        (QWEN, {"chat_template.jinja": "{{ messages }}"}, "chat"),
        (
            QWEN,
            {
                "tokenizer_config.json": {
                    "chat_template": [{"name": "default", "template": "{{ messages }}"}]
                }
            },
            "chat",
        ),
        (BERT, {}, "embedding"),
        ({"architectures": ["BertForMaskedLM"]}, {"modules.json": "[]"}, "embedding"),
        (
            {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}},
            {},
            "rerank",
        ),
        (
            {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "1": "b"}},
            {},
            "classification",
        ),
        (
            {"architectures": ["BertForTokenClassification"], "id2label": {"0": "O", "1": "B-PER"}},
            {},
            "entities",
        ),
    ],
)
def test_what_it_is_for_is_read_from_its_configuration(
    tmp_path: Path, repo: Path, config: dict[str, Any], more: dict[str, Any], task: str
) -> None:
    make(repo, {"config.json": config, "onnx/model.onnx": 9, **more})
    assert only(tmp_path).task == task


def test_onnxruntime_genai_keeps_variants_in_folders(tmp_path: Path, repo: Path) -> None:
    inside = {
        "genai_config.json": {"model": {"type": "phi3", "context_length": 4096}},
        "tokenizer_config.json": {"chat_template": "{{ messages }}"},
        "model.onnx": 10,
        "model.onnx.data": 90,
    }
    make(repo / "cpu_and_mobile" / "cpu-int4", inside)
    make(repo / "cuda" / "cuda-fp16", inside)
    found = listed(tmp_path)
    assert set(found) == {"maker/model:cpu-int4", "maker/model:cuda-fp16"}
    model = found["maker/model:cpu-int4"]
    assert (model.task, model.architecture, model.context_length) == ("chat", "phi3", 4096)
    assert (model.size_bytes, model.files) == (100, 2)


def test_sentence_transformers_are_known_by_their_modules(tmp_path: Path, repo: Path) -> None:
    make(
        repo,
        {
            "config.json": BERT,
            "modules.json": "[]",
            "sentence_bert_config.json": {"max_seq_length": 256},
        },
    )
    safetensors(repo / "model.safetensors", {"a": [30, 384], "b": [384], "c": []})
    model = only(tmp_path)
    assert model.id == "maker/model:safetensors"
    assert (model.format, model.task) == ("sentence-transformers", "embedding")
    assert (model.parameters, model.context_length) == (30 * 384 + 384 + 1, 256)


def test_weights_in_several_files_are_one_model(tmp_path: Path, repo: Path) -> None:
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    make(
        repo,
        {
            "config.json": BERT,
            "modules.json": "[]",
            "model.safetensors.index.json": {"weight_map": {"a": names[0], "b": names[1]}},
        },
    )
    for name in names:
        safetensors(repo / name, {"x": [7, 11]})
    model = only(tmp_path)
    assert (model.files, model.parameters) == (2, 154)


@pytest.mark.parametrize(
    "files",
    [
        {"model.onnx": 10},  # nothing describes it
        {"config.json": QWEN, "model.safetensors": 10},  # of another library
        {"config.json": BERT, "onnx/vision_encoder.onnx": 10, "onnx/embed_tokens.onnx": 10},
        {"config.json": BERT, "weights.bin": 10},
    ],
)
def test_what_is_no_model_of_ours_is_not_listed(
    tmp_path: Path, repo: Path, files: dict[str, Any]
) -> None:
    make(repo, files)
    assert listed(tmp_path) == {}


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ("{ not json", "model-corrupt"),
        ("[]", "model-corrupt"),
        ("[" * 200_000, "model-corrupt"),
        ('{"a": "' + "x" * LARGEST_JSON + '"}', "model-corrupt"),
        ("\x00\x01", "model-corrupt"),
        ({"architectures": ["WhisperForConditionalGeneration"]}, "unsupported-model"),
        ({"architectures": "BertModel", "hidden_size": "wide"}, "unsupported-model"),
        ({}, "unsupported-model"),
    ],
)
def test_a_description_that_cannot_be_used_is_a_listed_problem(
    tmp_path: Path, repo: Path, config: Any, code: str
) -> None:
    make(repo, {"config.json": config, "onnx/model.onnx": 10})
    problem = only(tmp_path).problem
    assert problem is not None and problem.slug == code
    assert str(tmp_path) not in problem.detail


@pytest.mark.parametrize(
    "values",
    [
        {"max_position_embeddings": -1, "hidden_size": 10**30},
        {"max_position_embeddings": True, "hidden_size": "384"},
        {"max_position_embeddings": 1e300, "id2label": 7, "model_type": ["bert"]},
        {"text_config": [], "num_labels": {}},
    ],
)
def test_values_of_the_wrong_kind_are_taken_as_not_said(
    tmp_path: Path, repo: Path, values: dict[str, Any]
) -> None:
    make(repo, {"config.json": {"architectures": ["BertModel"], **values}, "onnx/model.onnx": 10})
    model = only(tmp_path)
    assert (model.task, model.context_length, model.embedding_length) == ("embedding", 0, 0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 64,
        (10**9).to_bytes(8, "little") + b"{}",
        (9).to_bytes(8, "little") + b'{"a": {}}',
        (2).to_bytes(8, "little") + b"[]",
    ],
)
def test_a_damaged_safetensors_header_is_a_listed_problem(
    tmp_path: Path, repo: Path, content: bytes
) -> None:
    make(repo, {"config.json": BERT, "modules.json": "[]"})
    (repo / "model.safetensors").write_bytes(content)
    problem = only(tmp_path).problem
    assert problem is not None and problem.slug == "model-corrupt"


@pytest.mark.parametrize("name", ["../../secret.safetensors", "/etc/passwd", ".hidden", "gone"])
def test_an_index_leads_to_files_beside_it_alone(tmp_path: Path, repo: Path, name: str) -> None:
    index = {"weight_map": {"a": name}}
    make(repo, {"config.json": BERT, "modules.json": "[]", "model.safetensors.index.json": index})
    problem = only(tmp_path).problem
    assert problem is not None and problem.slug == "model-corrupt"


def test_both_formats_of_a_repository_are_listed_and_gguf_is_preferred(
    tmp_path: Path, repo: Path
) -> None:
    make(repo, {"config.json": BERT, "onnx/model_q4.onnx": 10})
    put(repo / "model-Q4_K_M.gguf")
    catalog = Catalog(tmp_path / "models", GUIDE)
    assert {m.id for m in catalog.scan()} >= {"maker/model:Q4", "maker/model:Q4_K_M"}
    assert catalog.find("maker/model").id == "maker/model:Q4_K_M"


def test_the_folder_gives_a_loose_model_its_name(tmp_path: Path) -> None:
    files = {"config.json": BERT, "onnx/model.onnx": 10}
    make(tmp_path / "models" / "minilm", files)
    make(tmp_path / "elsewhere" / "e5-small", files)
    found = listed(tmp_path, added=[tmp_path / "elsewhere" / "e5-small"])
    assert set(found) == {"local/minilm:FP32", "local/e5-small:FP32"}


def test_the_hub_s_cache_holds_them_too(tmp_path: Path) -> None:
    repository = cached(
        tmp_path / "hub", "models--maker--model", {"onnx/model_q4.onnx": "a", "config.json": "b"}
    )
    (repository / "blobs" / "b").write_text(json.dumps(BERT))
    refer(repository, "2" * 40)
    found = listed(tmp_path, hub_cache=tmp_path / "hub")
    assert found["maker/model:Q4"].task == "embedding"
    assert found["maker/model:Q4"].location == "hugging-face-cache"


def test_a_changed_description_is_read_again(tmp_path: Path, repo: Path) -> None:
    make(repo, {"config.json": BERT, "onnx/model.onnx": 10})
    catalog = Catalog(tmp_path / "models", GUIDE)
    assert catalog.scan()[1].context_length == 512
    make(repo, {"config.json": BERT | {"max_position_embeddings": 64}})
    os.utime(repo / "config.json", (5, 5))
    assert catalog.scan()[1].context_length == 64


def test_using_one_is_refused_with_what_would_work(tmp_path: Path, repo: Path) -> None:
    make(repo, {"config.json": QWEN, "modules.json": "[]"})
    safetensors(repo / "model.safetensors", {"a": [2]})
    with LiveServer(tmp_path, models_dir=tmp_path / "models") as live:
        row = live.client.get("/v1/models/maker%2Fmodel").json()
        assert (row["format"], row["problem"]["code"]) == (
            "sentence-transformers",
            "not-available-here",
        )
        for refused in (
            live.client.post("/v1/embeddings", json={"model": "maker/model", "input": "a"}),
            live.chat("a", "maker/model"),
            live.owner.post("/v1/models/load", json={"model": "maker/model"}),
            live.client.post(
                "/v1/rerank", json={"model": "maker/model", "query": "a", "documents": ["b"]}
            ),
        ):
            assert refused.status_code == 501, refused.text
            assert "take a GGUF" in refused.json()["detail"]
