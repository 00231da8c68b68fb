"""ONNX files that somebody made to do harm, or that were damaged: refused with a type, at once."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from tabagent import wire
from tabagent.errors import ModelCorrupt, TabAgentError, UnsupportedModel
from tabagent.worker.onnx.graph import check_file
from tests.worker.child import Child
from tests.worker.onnx.conftest import Open

Tiny = Callable[..., Path]
Model = onnx.ModelProto


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    target = tmp_path / "model"
    shutil.copytree(tiny(), target)
    return target


def outside(folder: Path, said: dict[str, str], *, size: int = 10**6) -> Path:
    """The model with one tensor in a file elsewhere, as `said`."""
    file = folder / "onnx" / "model.onnx"
    model = onnx.load(file)
    tensor = next(t for t in model.graph.initializer if len(t.raw_data) > 1000)
    tensor.data_location = TensorProto.EXTERNAL
    length = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    for key, value in (
        {"location": "weights.bin", "offset": "0", "length": str(length)} | said
    ).items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    onnx.save(model, file)
    (folder / "onnx" / "weights.bin").write_bytes(bytes(size))
    return file


def test_weights_beside_the_graph_are_read(folder: Path, open_: Open) -> None:
    outside(folder, {})
    assert open_(folder).vectors(["the cat"]).shape[0] == 1


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../tokenizer.json", "sub/weights.bin", "..", "", "a\\b", "missing.bin"],
)
def test_weights_elsewhere_are_refused(folder: Path, location: str) -> None:
    with pytest.raises(ModelCorrupt):
        check_file(outside(folder, {"location": location}))


@pytest.mark.parametrize(
    "said",
    [
        {"offset": "-1"},
        {"offset": "99999999999999999999"},
        {"length": "1000001"},
        {"offset": "1000000"},
        {"offset": "x"},
    ],
)
def test_offsets_out_of_the_file_are_refused(folder: Path, said: dict[str, str]) -> None:
    with pytest.raises(ModelCorrupt):
        check_file(outside(folder, said))


def test_links_out_of_the_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    file = outside(folder, {})
    weights = folder / "onnx" / "weights.bin"
    secret = tmp_path / "secret.bin"
    weights.rename(secret)
    weights.symlink_to(secret)
    with pytest.raises(ModelCorrupt, match="links elsewhere"):
        check_file(file)
    weights.unlink()
    os.link(secret, weights)
    with pytest.raises(ModelCorrupt, match="hard link"):
        check_file(file)
    weights.unlink()
    weights.mkdir()
    with pytest.raises(ModelCorrupt):
        check_file(file)


def test_the_links_of_a_hub_cache_are_followed(folder: Path, tmp_path: Path) -> None:
    file = outside(folder, {})
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for name in ("model.onnx", "weights.bin"):
        link = folder / "onnx" / name
        link.rename(blobs / f"{name}.blob")
        link.symlink_to(blobs / f"{name}.blob")
    check_file(file)


def test_operations_of_a_library_are_refused_by_name(folder: Path) -> None:
    file = folder / "onnx" / "model.onnx"
    model = onnx.load(file)
    inside = onnx.helper.make_node("RunShell", ["input_ids"], ["x"], domain="evil.corp")
    model.graph.node.append(inside)
    onnx.save(model, file)
    with pytest.raises(UnsupportedModel, match=r"RunShell.*evil\.corp"):
        check_file(file)
    body = onnx.helper.make_graph([inside], "body", [], [])
    model.graph.node[-1].CopyFrom(
        onnx.helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    )
    onnx.save(model, file)
    with pytest.raises(UnsupportedModel, match="RunShell"):
        check_file(file)


def test_what_is_no_model_is_refused(folder: Path) -> None:
    file = folder / "onnx" / "model.onnx"
    whole = file.read_bytes()
    for data in (b"", b"\x00" * 64, b"GGUF", whole[: len(whole) // 2], b"\xff" * 1000):
        file.write_bytes(data)
        with pytest.raises(ModelCorrupt):
            check_file(file)


def test_damaged_files_end_in_an_answer(folder: Path, open_: Open) -> None:
    file = folder / "onnx" / "model.onnx"
    whole = file.read_bytes()
    draw = random.Random(11)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 8)):
            data[draw.randrange(min(len(data), 20_000))] = draw.randrange(256)
        file.write_bytes(data)
        try:
            check_file(file)
        except TabAgentError:
            continue


@pytest.mark.timeout(180)
def test_a_worker_answers_for_damaged_files(folder: Path) -> None:
    file = folder / "onnx" / "model.onnx"
    whole = file.read_bytes()
    draw = random.Random(4)
    refused = 0
    for _ in range(12):
        data = bytearray(whole)
        for _ in range(6):
            data[draw.randrange(3_000)] = draw.randrange(256)
        file.write_bytes(data)
        with Child("onnx-pooling") as child:
            load = {"n_ctx": 128, "slots": 1, "kv_tokens": 128, "threads": 1, "queue_wait_s": 9.0}
            child.say(wire.Load(1, str(file), pooling="mean", **load))  # type: ignore[arg-type]
            answer = child.answer(1)  # or it dies, and the gateway says that its file is bad
            if isinstance(answer, wire.Failed):
                refused += 1
                assert answer.slug in ("model-corrupt", "unsupported-model"), answer
    assert refused > 3
