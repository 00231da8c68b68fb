"""What is said of the machine: the probe over HTTP, recipes, recommendations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tabagent.catalog.models import Model
from tabagent.catalog.recommended import recommended
from tabagent.config import Settings
from tabagent.engine.verdict import Verdict, guessed, judge
from tabagent.hardware.devices import Accelerators, Device, Kind
from tabagent.hardware.findings import Report
from tabagent.hardware.probe import probe
from tabagent.services.hardware.recipes import Recipe, recipes
from tabagent.services.hardware.recommendations import (
    RecommendationsRequest,
    RecommendedModels,
    recommendations,
)
from tests.hardware.recorded import LLAMA, machine, record
from tests.live import LiveServer

GB = 10**9
INSTALLED = {"llama-cpp-python": "0.3.36", "onnxruntime": "1.31.1"}
CUDA0 = {"name": "CUDA0", "description": "NVIDIA GeForce RTX 4060", "kind": "gpu"}
CARD = Accelerators(frozenset({"cuda"}), (Device("cuda", 0, "a card", 24 * GB, 24 * GB),))


def report(root: Path, name: str, *kinds: Kind, devices: tuple[dict[str, str], ...] = ()) -> Report:
    said = {**LLAMA, "devices": [*LLAMA["devices"], *devices]}
    children = {
        "tabagent.worker.gguf.report": said,
        "tabagent.worker.providers": {"providers": ["CPUExecutionProvider"]},
    }
    made = machine(
        record(name), root, kinds=frozenset(kinds), versions=INSTALLED, children=children
    )
    return probe(made)


def named(found: list[Recipe]) -> dict[str, Recipe]:
    return {recipe.recipe: recipe for recipe in found}


def test_the_probe_is_shown_with_its_sources(counter: LiveServer) -> None:
    shown = counter.client.get("/v1/hardware/info").json()
    assert shown["cpu"]["source"] == "/proc/cpuinfo"
    assert shown["memory"]["total_bytes"] <= shown["memory"]["machine_bytes"]
    engines = {engine["name"]: engine for engine in shown["engines"]}
    assert engines["llama-cpp-python"]["build"].startswith("llama.cpp ")
    assert "CPUExecutionProvider" in engines["onnxruntime"]["providers"]
    system = counter.client.get("/v1/system/info").json()
    assert system["cpu"] == shown["cpu"]
    assert system["gpus"] == shown["gpus"]
    assert system["llama_cpp"] == engines["llama-cpp-python"]["build"]
    assert system["engines"] == {name: engine["version"] for name, engine in engines.items()}


def test_a_card_that_the_build_can_use_works(tmp_path: Path) -> None:
    found = named(recipes(report(tmp_path, "rtx_4060", "cuda", devices=(CUDA0,))))
    assert found["gguf-cuda"].works
    assert found["gguf-cuda"].devices == ["NVIDIA GeForce RTX 4060"]
    assert found["gguf-cpu"].works
    rocm = found["gguf-rocm"]  # of the processor's own graphics
    assert (rocm.works, rocm.reason) == (False, "the installed llama.cpp cannot use rocm")
    assert "GGML_HIP" in (rocm.fix or "")


def test_a_card_that_the_build_cannot_use_says_what_to_install(tmp_path: Path) -> None:
    found = named(recipes(report(tmp_path, "rtx_4060")))["gguf-cuda"]
    assert not found.works
    assert "-DGGML_CUDA=on" in (found.fix or "")


def test_a_build_that_does_not_find_the_card_is_believed(tmp_path: Path) -> None:
    found = named(recipes(report(tmp_path, "rtx_4060", "cuda")))["gguf-cuda"]
    assert not found.works
    assert "finds no such device" in (found.reason or "")


@pytest.mark.parametrize(
    ("name", "recipe", "reason"),
    [
        ("laptop", "gguf-cuda", "no NVIDIA card is found"),
        ("raspberry_pi_5", "gguf-vulkan", "no graphics processor is found"),
        ("no_driver", "gguf-cuda", "NVIDIA 0x2504 has no driver"),
        ("apple_m2_pro", "gguf-metal", "the installed llama.cpp cannot use metal"),
        ("arc_b580", "gguf-sycl", "the installed llama.cpp cannot use sycl"),
        ("laptop", "onnx-cuda", "the installed ONNX Runtime has no CUDAExecutionProvider"),
        ("laptop", "sentence-transformers-cuda", "it is not installed"),
    ],
)
def test_what_does_not_work_says_why(tmp_path: Path, name: str, recipe: str, reason: str) -> None:
    found = named(recipes(report(tmp_path, name)))[recipe]
    assert not found.works
    assert (found.reason or "").startswith(reason)


def test_without_engines_nothing_works_and_each_says_what_to_install(tmp_path: Path) -> None:
    every = recipes(probe(machine(record("laptop"), tmp_path)))
    assert not any(recipe.works for recipe in every)
    found = named(every)
    assert found["gguf-cpu"].fix == "pip install llama-cpp-python"
    assert found["onnx-directml"].fix == "pip install onnxruntime-directml"
    assert "tabagent[sentence-transformers]" in (found["sentence-transformers-cpu"].fix or "")


def test_execution_providers_are_judged_by_what_is_installed(tmp_path: Path) -> None:
    found = named(recipes(report(tmp_path, "rtx_4060")))
    assert found["onnx-cpu"].works
    cuda = found["onnx-cuda"]
    assert (cuda.works, cuda.fix) == (False, "pip install onnxruntime-gpu, which replaces it")


def test_an_engine_that_does_not_start_works_nowhere(tmp_path: Path) -> None:
    broken = probe(machine(record("rtx_4060"), tmp_path, versions=INSTALLED))
    found = named(recipes(broken))
    assert not found["gguf-cpu"].works
    assert "does not start" in (found["gguf-cpu"].reason or "")


# ---- recommendations -----------------------------------------------------------------------------
def recommend(
    available: int, devices: Accelerators | None = None, **wish: Any
) -> RecommendedModels:
    def verdict(what: Model | int) -> Verdict:
        model = guessed("this", weight_bytes=what) if isinstance(what, int) else what
        return judge(model, Settings(threads=8), available, devices or Accelerators())

    return recommendations(recommended(), verdict, RecommendationsRequest(**wish))


def test_the_list_is_dated_and_sound() -> None:
    known = recommended()
    assert known.dated.year >= 2026
    assert len({model.repo for model in known.models}) == len(known.models)
    assert {model.task for model in known.models} == {"chat", "completion", "embedding", "rerank"}
    for model in known.models:
        assert model.repo.count("/") == 1
        assert model.license and model.about and model.context_length >= 512
        assert 0 < model.active_parameters <= model.parameters
        for variant in model.variants:
            bits = 8 * variant.size_bytes / model.parameters
            assert 3.5 < bits < 18, (model.repo, variant.name, bits)
        sizes = [variant.size_bytes for variant in model.variants]
        assert sizes == sorted(sizes) and len(set(sizes)) == len(sizes)


def test_every_model_that_is_recommended_fits_and_is_not_slow() -> None:
    found = recommend(16 * GB)
    assert found.dated == recommended().dated
    assert len(found.data) >= 10
    for model in found.data:
        assert model.fits != "no"
        assert model.pace != "slow"
        chosen = next(v for v in model.variants if model.pull == f"{model.repo}:{v.name}")
        assert chosen.size_bytes == model.size_bytes
        assert chosen.required_bytes <= 16 * GB


def test_a_small_machine_gets_small_models_and_a_card_large_ones() -> None:
    def largest(found: RecommendedModels) -> int:
        return max(model.parameters for model in found.data)

    small, large = recommend(3 * GB, task="chat"), recommend(32 * GB, CARD, task="chat")
    assert largest(small) < 5 * GB
    assert largest(large) > 25 * GB
    assert large.data[0].device == "cuda:0"
    assert large.data[0].pace == "fast"


def test_a_processor_gets_mixtures_of_experts_rather_than_what_crawls() -> None:
    first = recommend(64 * GB, task="chat").data[0]
    assert first.active_parameters < 5 * GB < first.parameters


def test_anywhere_lists_what_does_not_fit_with_the_reason() -> None:
    found = recommend(2 * GB, fits="anywhere")
    assert len(found.data) == len(recommended().models)
    huge = next(model for model in found.data if "gpt-oss-120b" in model.repo)
    assert (huge.fits, "are free" in (huge.reason or "")) == ("no", True)


def test_recommendations_are_asked_by_task(counter: LiveServer) -> None:
    path = "/v1/hardware/recommendations"
    found = counter.client.get(path, params={"task": "embedding", "fits": "anywhere"}).json()
    assert {model["task"] for model in found["data"]} == {"embedding"}
    refused = counter.client.get(path, params={"task": "poetry"})
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["pointer"] == "/task"
