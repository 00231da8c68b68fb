"""What a model takes, said from its header and measured on the worker that runs it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.catalog.gguf_files import TENSOR_F32
from tests.live import LiveServer
from tests.worker.sized_gguf import Measures, write_sized

BASE = Measures()
CASES = {
    "small": (BASE, 1024, 4),
    "wide": (replace(BASE, width=1024, heads=16, kv_heads=4, feed_forward=4096), 2048, 4),
    "long": (replace(BASE, layers=8, feed_forward=1024), 4096, 4),
    "words": (replace(BASE, words=40_000, tied=True), 1024, 2),
    "whole floats": (replace(BASE, type=TENSOR_F32), 2048, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_the_estimate_is_within_a_tenth_of_what_the_worker_takes(tmp_path: Path, case: str) -> None:
    measures, n_ctx, slots = CASES[case]
    models = tmp_path / "models"
    models.mkdir()
    write_sized(models / "made.gguf", measures)
    layout = {"model": "local/made", "n_ctx": n_ctx, "slots": slots}
    with LiveServer(tmp_path, models_dir=models, prompt_cache_bytes=0) as live:
        said = live.client.post("/v1/resources/estimate", json=layout).json()["memory"]
        loaded = live.owner.post("/v1/models/load", json=layout).json()
        assert loaded["estimated_bytes"] == said["total_bytes"]
        # A whole micro-batch and an answer.
        body = {"model": "local/made", "prompt": "!" * 600, "max_tokens": 4}
        assert live.client.post("/v1/completions", json=body).status_code == 200
        took = psutil.Process(loaded["pid"]).memory_info().rss
    assert said["total_bytes"] == pytest.approx(took, rel=0.1)


def test_sixty_gigabytes_are_refused_at_once_with_their_arithmetic(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    huge = replace(BASE, width=8192, layers=70, heads=64, kv_heads=8, feed_forward=28672)
    write_sized(models / "huge.gguf", huge)
    with LiveServer(tmp_path, models_dir=models, memory_limit=20 * 10**9) as live:
        assert live.client.get("/v1/models/local%2Fhuge").json()["size_bytes"] > 60e9
        began = time.monotonic()
        problem = live.chat("hello", "local/huge").json()
        assert time.monotonic() - began < 0.5
        assert (problem["status"], problem["code"]) == (507, "out-of-memory")
        assert problem["required_bytes"] > 60e9 > problem["available_bytes"] == 20 * 10**9
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
