"""Facts are kept over a restart, never trusted too far, and can be lost at any time."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tabagent.app import GUIDE
from tabagent.catalog.gguf_header import GgufHeader, read_gguf_header
from tabagent.catalog.models import Catalog, Model
from tests.catalog.test_layouts import QWEN, make, safetensors
from tests.catalog.test_models import put


class Reader:
    """Reads headers and counts them."""

    def __init__(self) -> None:
        self.read: Counter[str] = Counter()

    def __call__(self, path: Path) -> GgufHeader:
        self.read[path.name] += 1
        return read_gguf_header(path)


def catalog(tmp_path: Path, reader: Callable[[Path], GgufHeader] = read_gguf_header) -> Catalog:
    """As a process makes it that starts anew."""
    return Catalog(tmp_path / "models", GUIDE, kept=tmp_path / "facts", read=reader)


def plain(models: list[Model]) -> list[Model]:
    """Problems are objects of their own each time."""
    return [replace(model, problem=None) for model in models]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    put(folder / "maker" / "model" / "model-Q4_K_M.gguf")
    put(folder / "loose.gguf")
    make(folder / "maker" / "words", {"config.json": QWEN, "modules.json": "[]"})
    safetensors(folder / "maker" / "words" / "model.safetensors", {"a": [2]})
    return folder


def test_a_process_that_starts_anew_reads_no_header_again(tmp_path: Path, models: Path) -> None:
    first = catalog(tmp_path).scan()
    reader = Reader()
    again = catalog(tmp_path, reader).scan()
    assert not reader.read
    assert plain(again) == plain(first)
    assert {m.id: m.problem.slug for m in again if m.problem} == {
        "maker/words:safetensors": "not-available-here"
    }


def test_what_has_changed_is_read_again_and_alone(tmp_path: Path, models: Path) -> None:
    catalog(tmp_path).scan()
    file = models / "loose.gguf"
    file.write_bytes(file.read_bytes() + b"more")
    os.utime(file, ns=(1, 1))
    reader = Reader()
    catalog(tmp_path, reader).scan()
    assert reader.read == {"loose.gguf": 1}


def test_a_file_that_went_is_not_kept_for_ever(tmp_path: Path, models: Path) -> None:
    catalog(tmp_path).scan()
    before = (tmp_path / "facts").stat().st_size
    (models / "loose.gguf").unlink()
    catalog(tmp_path).scan()
    assert (tmp_path / "facts").stat().st_size < before


def test_a_damaged_file_is_read_again_each_time_and_the_rest_is_not(
    tmp_path: Path, models: Path
) -> None:
    (models / "broken.gguf").write_bytes(b"GGUF and no more")
    catalog(tmp_path).scan()
    reader = Reader()
    assert any(m.problem and m.id == "local/broken" for m in catalog(tmp_path, reader).scan())
    assert reader.read == {"broken.gguf": 1}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: b"\xc1" * 50,
        lambda data: data[: len(data) // 2],
        lambda data: data[:20] + bytes(20) + data[40:],
        lambda data: b"\x91" * 100_000,
        lambda data: msgspec.msgpack.encode(("another/1", [])),
        lambda data: msgspec.msgpack.encode(["x"]),
        lambda data: msgspec.msgpack.encode({"a": 1}),
    ],
)
def test_a_spoiled_file_is_as_good_as_none(
    tmp_path: Path, models: Path, spoil: Callable[[bytes], bytes]
) -> None:
    first = catalog(tmp_path).scan()
    file = tmp_path / "facts"
    file.write_bytes(spoil(file.read_bytes()))
    assert plain(catalog(tmp_path).scan()) == plain(first)
    reader = Reader()
    catalog(tmp_path, reader).scan()
    assert not reader.read  # it was written again


def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path, models: Path) -> None:
    there: list[Any] = Catalog(models, GUIDE, kept=tmp_path / "no" / "such" / "facts").scan()
    (tmp_path / "facts").mkdir()
    assert plain(catalog(tmp_path).scan()) == plain(there)
    assert not list(tmp_path.glob("facts?*"))  # no draft is left


def test_names_that_are_no_text_are_kept_too(tmp_path: Path, models: Path) -> None:
    name = os.fsdecode(b"strange-\xff.gguf")
    put(models / name)
    catalog(tmp_path).scan()
    reader = Reader()
    assert any(m.path.name == name for m in catalog(tmp_path, reader).scan())
    assert not reader.read


def test_a_model_that_moved_to_another_place_has_its_new_name(tmp_path: Path, models: Path) -> None:
    catalog(tmp_path).scan()
    elsewhere = Catalog(
        tmp_path / "none", GUIDE, added=[models / "loose.gguf"], kept=tmp_path / "facts"
    )
    found = {m.id: m.location for m in elsewhere.scan()}
    assert found["local/loose"] == "added-path"
