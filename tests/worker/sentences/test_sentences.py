"""sentence-transformers' own format in its worker: the same numbers, and nobody's code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tabagent import wire
from tabagent.catalog.layouts import read_layout
from tests.worker.child import Child
from tests.worker.gguf.pooling_driver import cosines
from tests.worker.onnx.driver import Reader, rows
from tests.worker.torch_peer import TorchPeer

Tiny = Callable[..., Path]
TEXTS = ["the cat sat on the mat", "dog", "a green river, a tree? yes!", "x", "house " * 30]
pytestmark = pytest.mark.timeout(120)


class Sentences:
    """A worker with one model. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Sentences:
        self.child = Child("sentences").__enter__()
        try:
            self.answer = self._load()
        except BaseException:
            self.child.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.child.__exit__()

    def _load(self) -> wire.Done | wire.Failed:
        path = self._folder / "model.safetensors"
        layout = read_layout(path)
        assert layout is not None
        more: dict[str, Any] = {"slots": 4, "kv_tokens": 512, "threads": 2, "queue_wait_s": 60.0}
        self.child.say(
            wire.Load(
                1,
                str(path),
                layout.context_length,
                pooling=layout.pooling,
                reading=layout.reading,
                **more,
            )
        )
        answer = self.child.answer(1)
        assert not isinstance(answer, wire.Finished)
        return answer

    def ask(self, command: wire.Pooled) -> dict[str, Any]:
        self.child.say(command)
        answer = self.child.answer(command.id)
        assert isinstance(answer, wire.Done), answer
        return answer.result


def test_vectors_are_those_of_the_library(tiny: Tiny, torch_peer: TorchPeer) -> None:
    prompts = {"query": "the question: "}
    folder = tiny(pooling="mean", prompts=prompts, include_prompt=False)
    with Sentences(folder) as worker:
        assert isinstance(worker.answer, wire.Done)
        assert worker.answer.result["dimensions"] == 32
        found = rows(worker.ask(wire.Embed(2, TEXTS)))
        assert cosines(found, torch_peer.vectors(folder, TEXTS)).min() > 0.99999
        asked = rows(worker.ask(wire.Embed(3, TEXTS, prompt="query")))
        expected = torch_peer.vectors(folder, TEXTS, prompt_name="query")
        assert cosines(asked, expected).min() > 0.99999
        late = worker.ask(wire.Rank(4, "cat", ["cat", "a dog"], method="late-interaction"))
        assert late["method"] == "late-interaction"
        assert all(-1 < score < 1 for score in late["scores"])


def test_heads_are_run_too(tiny: Tiny, torch_peer: TorchPeer) -> None:
    folder = tiny("rerank", config={"initializer_range": 0.3})
    documents = ["the cat sat on the mat", "a dog", "green river, green tree"]
    with Sentences(folder) as worker:
        found = worker.ask(wire.Rank(2, "where is the cat?", documents))
        expected = torch_peer.ranks(folder, [("where is the cat?", text) for text in documents])
        assert found["scores"] == pytest.approx(expected, abs=1e-4)


def test_onnx_and_torch_mark_the_same_names(tiny: Tiny) -> None:
    folder = tiny("entities", labels=["O", "B-PER", "I-PER"], config={"initializer_range": 1.0})
    text = "the cat sat on a green mat by dog river"
    reader = Reader(folder)
    try:
        (expected,) = reader.ask(lambda id_: wire.Mark(id_, [text]))["spans"]
    finally:
        reader.close()
    with Sentences(folder) as worker:
        (found,) = worker.ask(wire.Mark(2, [text]))["spans"]
    assert expected
    assert [(a, c, d) for a, _, c, d in found] == [(a, c, d) for a, _, c, d in expected]
    np.testing.assert_allclose([s for _, s, *_ in found], [s for _, s, *_ in expected], atol=1e-4)


def test_code_that_a_model_brings_is_not_run(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "brings-code"
    shutil.copytree(tiny("rerank"), folder)
    proof = tmp_path / "it-ran"
    (folder / "evil.py").write_text(f"open({str(proof)!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "auto_map": {"AutoModelForSequenceClassification": "evil.Evil"},
        "model_type": "evil",
    }
    (folder / "config.json").write_text(json.dumps(config))
    with Sentences(folder) as worker:
        assert isinstance(worker.answer, wire.Failed)
        assert worker.answer.slug in ("unsupported-model", "model-corrupt")
    assert not proof.exists()


def test_modules_of_others_are_not_imported(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "other-module"
    shutil.copytree(tiny(), folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "evil.Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    with Sentences(folder) as worker:
        assert isinstance(worker.answer, wire.Failed)
        assert worker.answer.slug == "unsupported-model"
        assert "evil.Transformer" in worker.answer.detail


def test_pickled_weights_are_not_read(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny(), folder)
    weights = folder / "model.safetensors"
    weights.rename(folder / "pytorch_model.bin")
    weights.write_bytes((16).to_bytes(8, "little") + b"{}              ")
    with Sentences(folder) as worker:
        assert isinstance(worker.answer, wire.Failed)
        assert worker.answer.slug == "model-corrupt"
