"""One model and one compiler for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tabagent.worker.constraint.compiler import Compiler
from tabagent.worker.constraint.vocabulary import Vocabulary
from tabagent.worker.gguf.native import Model
from tests.worker.constraint import real


@pytest.fixture(scope="package")
def model() -> Iterator[Model]:
    model = real.load()
    yield model
    model.close()


@pytest.fixture(scope="package")
def vocabulary(model: Model) -> Vocabulary:
    return real.vocabulary(model)


@pytest.fixture(scope="package")
def compiler(vocabulary: Vocabulary) -> Iterator[Compiler]:
    compiler = Compiler(lambda: vocabulary)
    yield compiler
    compiler.close()
