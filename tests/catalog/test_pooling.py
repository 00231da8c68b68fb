"""Which files are of models that make vectors or rank, told by their headers alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tabagent.app import GUIDE
from tabagent.catalog.models import Catalog, Model
from tests.catalog.gguf_files import U32, pair
from tests.worker.tiny_gguf import write_model
from tests.worker.tiny_pooling import CLS, LAST, MEAN, RANK, RERANK, write_bert, write_qwen

Write = Callable[[Path], object]


def described(tmp_path: Path, write: Write) -> Model:
    write(tmp_path / "m.gguf")
    return Catalog(tmp_path, GUIDE).find("local/m")


@pytest.mark.parametrize(
    ("write", "task", "pooling"),
    [
        (lambda p: write_bert(p, pooling=MEAN), "embedding", "mean"),
        (lambda p: write_bert(p, pooling=CLS), "embedding", "cls"),
        (lambda p: write_bert(p, pooling=RANK, head=True), "rerank", "rank"),
        (lambda p: write_bert(p, pooling=None), "embedding", "mean"),
        (lambda p: write_bert(p, pooling=0), "embedding", "mean"),
        (lambda p: write_bert(p, pooling=None, head=True), "rerank", "rank"),
        (lambda p: write_bert(p, pooling=MEAN, head=True), "embedding", "mean"),
        (lambda p: write_bert(p, jina=True), "embedding", "mean"),
        (lambda p: write_bert(p, jina=True, pooling=RANK, head=True), "rerank", "rank"),
        (lambda p: write_qwen(p, pooling=LAST), "embedding", "last"),
        (lambda p: write_qwen(p, pooling=RANK, template=RERANK), "rerank", "rank"),
        (lambda p: write_qwen(p, pooling=None), "completion", None),
        (lambda p: write_qwen(p, pooling=0), "completion", None),
        (lambda p: write_model(p), "chat", None),
        (lambda p: write_model(p, more=[pair("llama.pooling_type", U32, 0)]), "chat", None),
    ],
)
def test_a_file_says_what_its_model_is_for(
    tmp_path: Path, write: Write, task: str, pooling: str | None
) -> None:
    model = described(tmp_path, write)
    assert model.problem is None
    assert (model.task, model.pooling) == (task, pooling)
    assert model.backend == ("gguf-pooling" if pooling else "gguf")
    assert model.embedding_length == (64 if task == "embedding" else 0)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda p: write_bert(p, pooling=RANK), "no head"),
        (lambda p: write_bert(p, pooling=9), "pooling type 9"),
    ],
)
def test_what_cannot_pool_is_listed_with_its_problem(
    tmp_path: Path, write: Write, words: str
) -> None:
    problem = described(tmp_path, write).problem
    assert problem is not None
    assert problem.slug == "unsupported-model"
    assert words in problem.detail
