"""Vocabularies of public models, for whatever depends on real tokens."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import vocabularies

Vocabulary = Callable[[str], Path]


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    """The GGUF file of a vocabulary by its name in llama.cpp: "qwen2", "llama-bpe", ..."""

    def find(name: str) -> Path:
        path = vocabularies.place() / f"ggml-vocab-{name}.gguf"
        if not path.is_file():
            missing = f"no vocabulary {name!r}: run `python -m scripts.vocabularies` once"
            pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
        return path

    return find
