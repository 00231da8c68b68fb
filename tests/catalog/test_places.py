"""Models are found where they lie: in added paths, and in Hugging Face's own cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tabagent.app import GUIDE
from tabagent.catalog.models import Catalog
from tabagent.catalog.places import hub_cache
from tabagent.config import Settings
from tests.catalog.test_models import put
from tests.live import LiveServer

OLD, NEW = "1" * 40, "2" * 40


def cached(cache: Path, folder: str, files: dict[str, str], revision: str = NEW) -> Path:
    """A repository as huggingface_hub keeps one: links to blobs, in a folder for the revision."""
    repository = cache / folder
    snapshot = repository / "snapshots" / revision
    for name, blob in files.items():
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not blob.endswith(".incomplete"):
            put(repository / "blobs" / blob)
        link.symlink_to(os.path.relpath(repository / "blobs" / blob, link.parent))
    return repository


def refer(repository: Path, revision: str) -> None:
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(revision)


def found(tmp_path: Path, **where: object) -> dict[str, str]:
    catalog = Catalog(tmp_path / "models", GUIDE, **where)  # type: ignore[arg-type]
    return {m.id: m.location for m in catalog.scan() if m.location != "built-in"}


def test_the_hub_s_cache_is_used_where_it_is(tmp_path: Path) -> None:
    repository = cached(
        tmp_path / "hub",
        "models--maker--small--model-GGUF",
        {"model-Q4_K_M.gguf": "a", "Q8_0/model.gguf": "b", "half.gguf": "c.incomplete"},
    )
    refer(repository, NEW)
    cached(tmp_path / "hub", "datasets--maker--texts", {"not-a-model.gguf": "d"})
    cached(tmp_path / "hub", "models--gpt2", {"gpt2.gguf": "e"})
    assert found(tmp_path, hub_cache=tmp_path / "hub") == {
        "maker/small--model-GGUF:Q4_K_M": "hugging-face-cache",
        "maker/small--model-GGUF:Q8_0": "hugging-face-cache",
        "local/gpt2:gpt2": "hugging-face-cache",
    }


def test_of_two_revisions_the_current_one_counts(tmp_path: Path) -> None:
    cached(tmp_path, "models--a--b", {"old-Q4_0.gguf": "x"}, OLD)
    repository = cached(tmp_path, "models--a--b", {"new-Q8_0.gguf": "y"})
    refer(repository, OLD)
    assert found(tmp_path, hub_cache=tmp_path) == {"a/b:Q4_0": "hugging-face-cache"}
    refer(repository, "../../elsewhere")  # then the newest
    os.utime(repository / "snapshots" / OLD, (1, 1))
    assert found(tmp_path, hub_cache=tmp_path) == {"a/b:Q8_0": "hugging-face-cache"}


def test_the_hub_s_own_variables_say_where_its_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub_cache() == Path(os.environ["HF_HUB_CACHE"])
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", "/somewhere")
    assert hub_cache() == Path("/somewhere/hub")
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert hub_cache() == Path("/caches/huggingface/hub")


def test_directories_and_files_may_be_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "disk" / "maker" / "model" / "Q4_0.gguf")
    put(tmp_path / "disk" / ".hidden" / "maker" / "Q5_0.gguf")
    one = put(tmp_path / "mine.gguf")
    monkeypatch.setenv("TABAGENT_MODEL_PATHS", f"{tmp_path / 'disk'}, {one}, /not/there")
    added = Settings(data_dir=tmp_path).model_paths
    assert found(tmp_path, added=added) == {
        "maker/model:Q4_0": "added-path",
        "local/mine": "added-path",
    }


def test_a_file_that_is_found_twice_is_one_model(tmp_path: Path) -> None:
    real = put(tmp_path / "models" / "maker" / "model" / "Q4_0.gguf")
    (tmp_path / "link.gguf").symlink_to(real)
    assert found(tmp_path, added=[tmp_path / "link.gguf", real.parent]) == {
        "maker/model:Q4_0": "models-directory"
    }


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    put(tmp_path / "disk" / "model.gguf")
    (tmp_path / "disk" / "again").symlink_to(tmp_path / "disk")
    assert found(tmp_path, added=[tmp_path / "disk"]) == {"local/model": "added-path"}


def test_what_is_not_ours_answers_and_is_not_deleted(tmp_path: Path) -> None:
    repository = cached(tmp_path / "hub", "models--maker--model", {"m-Q4_0.gguf": "x"})
    with LiveServer(tmp_path, hub_cache=tmp_path / "hub") as live:
        listed = live.client.get("/v1/models").json()["data"]
        assert ["maker/model:Q4_0", "hugging-face-cache"] in [
            [row["id"], row["location"]] for row in listed
        ]
        assert live.chat("hello", "maker/model").status_code == 200
        assert live.owner.post("/v1/models/unload", json={"model": "maker/model"}).is_success
        gone = live.owner.post("/v1/delete", json={"model": "maker/model"})
        assert (gone.status_code, gone.json()["code"]) == (409, "conflict")
    assert (repository / "blobs" / "x").is_file()
