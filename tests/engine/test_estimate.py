"""What a model takes, said from its header and measured on the worker that runs it."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import psutil
import pytest

from tabagent.worker.binding import C
from tests.catalog.gguf_files import TENSOR_F32
from tests.live import LiveServer
from tests.worker.sized_gguf import Measures, write_sized
from tests.worker.tiny_pooling import write_bert

BASE = Measures()
# Few layers: a step that takes long is made shorter, and would not fill a whole micro-batch.
WIDE = replace(BASE, layers=2, width=1024, heads=16, kv_heads=4, feed_forward=4096)
CASES: dict[str, tuple[Measures, dict[str, Any]]] = {
    "small": (BASE, {"n_ctx": 1024, "slots": 4}),
    "wide": (WIDE, {"n_ctx": 1536}),
    "long": (replace(BASE, layers=8, feed_forward=1024), {"n_ctx": 3072, "slots": 4}),
    "deep in the middle": (replace(BASE, layers=2, feed_forward=8192), {"n_ctx": 1024, "slots": 1}),
    "words": (replace(BASE, words=40_000, tied=True), {"n_ctx": 1024, "slots": 2}),
    "whole floats": (replace(BASE, type=TENSOR_F32), {"n_ctx": 2048, "slots": 1}),
    "shared": (BASE, {"n_ctx": 1024, "slots": 4, "kv_layout": "shared"}),
    "without flash": (
        replace(BASE, heads=32, kv_heads=32),
        {"n_ctx": 768, "slots": 1, "flash_attention": "off"},
    ),
    "bytes in the cache": (
        replace(BASE, layers=8),
        {"n_ctx": 2048, "cache_type_k": "q8_0", "cache_type_v": "q8_0"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_estimate_is_within_a_tenth_of_what_the_worker_takes(tmp_path: Path, case: str) -> None:
    measures, layout = CASES[case]
    write_sized(folder(tmp_path) / "made.gguf", measures)
    assert taken(tmp_path, layout) == pytest.approx(1.0, rel=0.1)


def test_weights_that_are_rearranged_for_the_processor_count_once(tmp_path: Path) -> None:
    path = folder(tmp_path)
    whole = replace(WIDE, type=TENSOR_F32)
    four_bits(write_sized(tmp_path / "whole.gguf", whole), path / "made.gguf")
    assert taken(tmp_path, {"n_ctx": 1024, "slots": 2}) == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("flash", ["auto", "off"])
def test_an_encoder_that_reads_long_texts_at_once_is_estimated_too(
    tmp_path: Path, flash: str
) -> None:
    path = folder(tmp_path) / "made.gguf"
    write_bert(path, size=(256, 4, 4, 1024), tokens=2000, context=1536)
    with LiveServer(tmp_path, models_dir=path.parent) as live:
        wish = {"model": "local/made", "flash_attention": flash}
        loaded = live.owner.post("/v1/models/load", json=wish).json()
        body = {"model": "local/made", "input": ["a " * 1530]}
        assert live.client.post("/v1/embeddings", json=body).status_code == 200
        took = psutil.Process(loaded["pid"]).memory_info().rss
    assert loaded["estimated_bytes"] == pytest.approx(took, rel=0.1)


def folder(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    return path


def four_bits(source: Path, target: Path) -> Path:
    """The model in Q4_K_M, which most people have."""
    wish = C.llama_model_quantize_default_params()
    wish.ftype, wish.nthread = 15, 2
    assert C.llama_model_quantize(os.fsencode(source), os.fsencode(target), wish) == 0
    return target


def taken(tmp_path: Path, layout: dict[str, Any]) -> float:
    """The estimate, as a share of what the worker takes once its context is in use."""
    wish: dict[str, Any] = {"model": "local/made", "slots": 4} | layout
    with LiveServer(tmp_path, models_dir=tmp_path / "models", prompt_cache_bytes=0) as live:
        loaded = live.owner.post("/v1/models/load", json=wish).json()
        # The first prompt tells the worker its speed; those after it fill whole micro-batches,
        # unless the machine has other things to do: then steps are shorter, and leave memory alone.
        for letter, length in zip("!,;:?.+-*", chain([200], repeat(800)), strict=False):
            prompt = letter * min(wish["n_ctx"] - 20, length)
            body = {"model": "local/made", "prompt": prompt, "max_tokens": 2}
            assert live.client.post("/v1/completions", json=body).status_code == 200
            took = psutil.Process(loaded["pid"]).memory_info().rss
            if letter not in "!," and loaded["estimated_bytes"] < took * 1.1:
                break
        row = live.loaded("local/made")
    assert row["memory"][0]["estimated_bytes"] == loaded["estimated_bytes"]
    share: float = loaded["estimated_bytes"] / took
    return share


def test_sixty_gigabytes_are_refused_within_a_tenth_of_a_second(tmp_path: Path) -> None:
    huge = replace(BASE, width=8192, layers=70, heads=64, kv_heads=8, feed_forward=28672)
    write_sized(folder(tmp_path) / "huge.gguf", huge)
    path = tmp_path / "models"
    with LiveServer(tmp_path, models_dir=path, memory_limit=2 * 10**9) as live:
        assert live.client.get("/v1/models/local%2Fhuge").json()["size_bytes"] > 60e9
        took = []
        for _ in range(3):
            began = time.monotonic()
            problem = live.chat("hello", "local/huge").json()
            took.append(time.monotonic() - began)
        assert min(took) < 0.1
        assert (problem["status"], problem["code"]) == (507, "out-of-memory")
        assert problem["required_bytes"] > 60e9 > problem["available_bytes"] == 2 * 10**9
        assert "GB of weights" in problem["detail"]
        assert live.client.get("/v1/models/loaded").json()["data"] == []


def test_another_variant_that_fits_is_named(tmp_path: Path) -> None:
    models = tmp_path / "models" / "maker" / "model"
    models.mkdir(parents=True)
    write_sized(models / "F32.gguf", replace(BASE, layers=16, type=TENSOR_F32))
    write_sized(models / "Q8_0.gguf", replace(BASE, layers=16))
    with LiveServer(tmp_path, models_dir=tmp_path / "models", memory_limit=200 * 10**6) as live:
        ask = {"model": "maker/model:F32"}
        answer = live.client.post("/v1/hardware/feasibility", json=ask).json()
        assert not answer["fits"]
        assert answer["fitting_variants"] == ["maker/model:Q8_0"]
        problem = live.chat("hello", "maker/model:F32").json()
        assert problem["code"] == "out-of-memory"
        assert "maker/model:Q8_0 would fit" in problem["detail"]
