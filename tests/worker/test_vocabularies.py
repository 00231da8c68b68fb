"""Real vocabularies for tests: kept small, and missed loudly where they must be there."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from scripts import vocabularies
from tests.worker.conftest import Vocabulary


def test_only_vocabularies_are_unpacked(tmp_path: Path) -> None:
    names = ["p/models/ggml-vocab-a.1.gguf", "p/models/ggml-vocab-a.gguf.inp", "p/setup.py"]
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for name in [*names, "p/../models/ggml-vocab-b.gguf", "p/models/x/ggml-vocab-c.gguf"]:
            member = tarfile.TarInfo(name)
            member.size = 1
            archive.addfile(member, io.BytesIO(b"x"))
    vocabularies.unpack(tmp_path / "a.tar.gz", tmp_path / "kept")
    kept = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert kept == ["ggml-vocab-a.1.gguf", "ggml-vocab-b.gguf"]


def test_a_missing_vocabulary_skips_with_advice_and_fails_in_ci(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"run `python -m scripts\.vocabularies` once"):
        vocabulary("no-such-model")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no vocabulary 'no-such-model'"):
        vocabulary("no-such-model")
