"""Models in ONNX Runtime and torch lie whole on one device, and say where and why."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tabagent.catalog.models import Model
from tabagent.catalog.shape import Layer, Shape
from tabagent.config import Settings
from tabagent.engine import runtimes
from tabagent.engine.gate import place
from tabagent.engine.placement import LoadOptions
from tabagent.errors import NotAvailableHere, OutOfMemory
from tabagent.hardware.devices import Accelerators, Device, Kind
from tests.live import LiveServer

GB = 10**9
CARD = Device("cuda", 0, "card", 8 * GB, 7 * GB)
MACHINE = Accelerators(frozenset({"vulkan"}), (CARD,), frozenset({"rocm"}))
ENCODER = Model(
    id="a/encoder:FP32",
    path=Path("model.onnx"),
    backend="onnx-pooling",
    format="onnx",
    task="embedding",
    pooling="mean",
    size_bytes=90_000_000,
    context_length=512,
    embedding_length=384,
    shape=Shape(
        width=384,
        heads=12,
        feed_forward=1536,
        vocabulary=30_522,
        layers=(Layer(15_000_000, 384, 384),) * 6,
        input_bytes=0,
        output_bytes=0,
        other_bytes=0,
    ),
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the package onnxruntime-gpu."""
    monkeypatch.setattr(runtimes, "kinds", lambda: frozenset({"cuda"}))


@pytest.mark.usefixtures("with_cuda")
def test_what_fits_lies_whole_on_the_first_device(settings: Settings) -> None:
    placed = place(ENCODER, LoadOptions(), settings, 8 * GB, MACHINE)
    assert (placed.device, placed.n_gpu_layers) == ("cuda:0", 7)
    assert runtimes.providers_of(placed) == ["CUDAExecutionProvider"]
    (share,) = placed.shares
    assert 90e6 < share.total < GB
    assert placed.bytes < 200e6  # what stays in main memory


@pytest.mark.usefixtures("with_cuda")
def test_what_a_device_has_no_room_for_runs_on_the_processor_and_says_so(
    settings: Settings,
) -> None:
    full = replace(MACHINE, devices=(replace(CARD, free_bytes=50_000_000),))
    placed = place(ENCODER, LoadOptions(), settings, 8 * GB, full)
    assert placed.device == "cpu"
    assert runtimes.providers_of(placed) == []
    assert "cuda:0 has no room" in placed.notes[0]


@pytest.mark.parametrize(
    ("package", "kind", "provider"),
    [
        ("onnxruntime-gpu", "cuda", "CUDAExecutionProvider"),
        ("onnxruntime-rocm", "rocm", "MIGraphXExecutionProvider"),
        ("onnxruntime-directml", "vulkan", "DmlExecutionProvider"),
        ("onnxruntime-openvino", "sycl", "OpenVINOExecutionProvider"),
    ],
)
def test_every_build_asks_for_its_own_provider(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, package: str, kind: Kind, provider: str
) -> None:
    monkeypatch.setattr(runtimes, "kinds", lambda: frozenset({runtimes.PACKAGES[package]}))
    machine = Accelerators(devices=(replace(CARD, kind=kind),))
    placed = place(ENCODER, LoadOptions(), settings, 8 * GB, machine)
    assert runtimes.providers_of(placed)[0] == provider


def test_a_device_that_this_onnx_runtime_cannot_use_is_refused_by_name(settings: Settings) -> None:
    placed = place(ENCODER, LoadOptions(), settings, 8 * GB, MACHINE)
    assert placed.device == "cpu"
    with pytest.raises(NotAvailableHere, match="installed ONNX Runtime"):
        place(ENCODER, LoadOptions(device="cuda"), settings, 8 * GB, MACHINE)


def test_torch_is_not_asked_before_it_is_imported(settings: Settings) -> None:
    model = replace(ENCODER, backend="sentences", format="sentence-transformers")
    placed = place(model, LoadOptions(), settings, 8 * GB, MACHINE)
    assert placed.device == "cuda:0"
    alone = place(model, LoadOptions(), settings, 8 * GB, Accelerators())
    assert alone.device == "cpu"


def test_what_does_not_fit_is_refused_and_long_texts_shrink_first(settings: Settings) -> None:
    long = replace(ENCODER, context_length=8192)
    whole = place(long, LoadOptions(), settings, 30 * GB)
    assert whole.n_ctx == 8192
    assert whole.bytes > 5 * GB  # attention's matrices of 8,192 tokens, twelve heads, twice
    short = place(long, LoadOptions(), settings, GB)
    assert 512 <= short.n_ctx < 8192
    assert short.bytes <= GB
    assert "tokens instead of 8192" in short.notes[0]
    with pytest.raises(OutOfMemory):
        place(long, LoadOptions(), settings, 90_000_000)


def test_a_device_that_is_left_out_is_told_of(tmp_path: Path) -> None:
    source = Path(__file__).parent.parent / "models" / "guide-onnx"
    shutil.copytree(source, tmp_path / "models" / "a" / "guide-onnx")
    rocm = Accelerators(frozenset(), (replace(CARD, kind="rocm"),), frozenset())
    with LiveServer(tmp_path, look=lambda: rocm) as live:
        told = []
        for device in (None, "cpu"):
            wish = {"model": "a/guide-onnx", "device": device, "force_reload": True}
            wish = {name: value for name, value in wish.items() if value is not None}
            told.append(live.owner.post("/v1/models/load", json=wish, timeout=60).json()["notes"])
    assert told == [["it runs on the CPU: the installed ONNX Runtime cannot use rocm"], []]


@pytest.mark.timeout(120)
def test_a_decoder_takes_no_more_than_was_thought(tmp_path: Path) -> None:
    source = Path(__file__).parent.parent / "models" / "guide-onnx"
    shutil.copytree(source, tmp_path / "models" / "a" / "guide-onnx")
    with LiveServer(tmp_path) as live:
        body = {"model": "a/guide-onnx", "prompt": "word " * 1000, "max_tokens": 200}
        answer = live.client.post("/v1/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        (row,) = live.client.get("/v1/models/loaded").json()["data"]
        took = psutil.Process(row["pid"]).memory_info().rss
    assert took < row["estimated_bytes"] < 1.5e9
