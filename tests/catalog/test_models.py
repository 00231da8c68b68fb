"""Which models there are, and by what names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tabagent.app import GUIDE
from tabagent.catalog.models import BUILTIN, Catalog
from tabagent.errors import ModelNotFound
from tests.worker.tiny_lora import write_lora


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(GUIDE.read_bytes())
    return path


def test_the_builtin_model_is_always_there(tmp_path: Path) -> None:
    model = Catalog(tmp_path / "none", GUIDE).find(BUILTIN)
    assert (model.task, model.architecture, model.problem) == ("chat", "llama", None)
    assert model.size_bytes < 8_000_000
    assert model.context_length == 2048
    assert model.shape is not None
    assert min(model.shape.rows) > 0


def test_places_give_names(tmp_path: Path) -> None:
    put(tmp_path / "loose.gguf")
    put(tmp_path / "some owner" / "repo" / "Q4_K_M.gguf")
    put(tmp_path / "folder" / "deep~er.gguf")
    put(tmp_path / "split-00002-of-00003.gguf")
    ids = {model.id for model in Catalog(tmp_path, GUIDE).scan()}
    assert ids == {BUILTIN, "local/loose", "some-owner/repo:Q4_K_M", "local/deep-er"}


def test_two_files_of_one_name_are_two_models(tmp_path: Path) -> None:
    put(tmp_path / "a" / "same.gguf")
    put(tmp_path / "b" / "same.gguf")
    named = put(tmp_path.parent / "same.gguf")
    catalog = Catalog(tmp_path, GUIDE, [named])
    assert {"local/same", "local/same-2", "local/same-3"} <= {m.id for m in catalog.scan()}
    assert catalog.find("local/same").path == named


def test_a_short_name_is_enough_where_it_is_clear(tmp_path: Path) -> None:
    put(tmp_path / "one" / "chat" / "x.gguf")
    put(tmp_path / "mine.gguf")
    catalog = Catalog(tmp_path, GUIDE)
    assert catalog.find("Guide").id == BUILTIN
    assert catalog.find("mine").id == "local/mine"
    for name in ("", "/", "..", "../mine", "mine.gguf", str(tmp_path / "mine.gguf")):
        with pytest.raises(ModelNotFound):
            catalog.find(name)


def test_files_may_come_change_and_go(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path, GUIDE)
    with pytest.raises(ModelNotFound):
        catalog.find("local/new")
    file = put(tmp_path / "new.gguf")
    assert catalog.find("local/new").problem is None
    file.write_bytes(b"no longer a model")
    problem = catalog.find("local/new").problem
    assert problem is not None
    assert problem.slug == "model-corrupt"
    file.unlink()
    with pytest.raises(ModelNotFound):
        catalog.find("local/new")


def test_a_broken_file_is_listed_with_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"\x7fELF" + b"\0" * 100)
    bad = Catalog(tmp_path, GUIDE).find("local/bad")
    assert bad.problem is not None
    assert bad.problem.members["file"] == "bad.gguf"
    assert str(tmp_path) not in str(bad.problem.members)


def test_an_adapter_is_known_as_one(tmp_path: Path) -> None:
    write_lora(tmp_path / "style.gguf")
    (adapter,) = (m for m in Catalog(tmp_path, GUIDE).scan() if m.id == "local/style")
    assert (adapter.task, adapter.problem) == ("adapter", None)
