"""Decoders as onnxruntime-genai's builder lays them out: fused attention, and no config.json."""

from __future__ import annotations

from pathlib import Path

import pytest

from tabagent.catalog.layouts import Layout, read_layout
from tabagent.worker.onnx.engine import OnnxBackend
from tests.worker.gguf.driver import Engine
from tests.worker.torch_peer import TorchPeer

GUIDE = Path(__file__).parents[2] / "models" / "guide-onnx"
PROMPT = [5, 9, 100, 300, 44]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, torch_peer: TorchPeer) -> Path:
    found = tmp_path_factory.mktemp("genai")
    torch_peer.build(found, GUIDE)
    return found


@pytest.fixture(scope="module")
def layout(place: Path) -> Layout:
    found = read_layout(place / "built" / "model.onnx")
    assert found is not None
    return found


def test_what_its_folder_says_is_read(layout: Layout) -> None:
    assert (layout.format, layout.task, layout.architecture) == ("onnx", "chat", "llama")
    assert layout.context_length == 512
    assert layout.speaking is not None
    assert layout.speaking.end_tokens == [2]
    assert (layout.speaking.key_heads, layout.speaking.head_size) == (2, 16)
    assert layout.shape is not None
    assert layout.shape.rows == (64, 64)
    assert [file.name for file in layout.files] == ["model.onnx", "model.onnx.data"]


@pytest.mark.timeout(120)
def test_it_says_what_torch_says_alone_and_beside_others(
    place: Path, layout: Layout, torch_peer: TorchPeer
) -> None:
    engine = Engine(
        place / "built" / "model.onnx", make=OnnxBackend, n_ctx=512, speaking=layout.speaking
    )
    try:
        ids = [
            engine.submit(PROMPT[:length], max_tokens=12, logprobs=0) for length in (5, 2, 3, 5, 4)
        ]
        engine.run()
        for id_, length in zip(ids, (5, 2, 3, 5, 4), strict=True):
            expected = torch_peer.continued(place, PROMPT[:length], 12)
            said = [chance.token for chance in engine.told[id_].chances[0]]
            assert said == [bytes_of(engine, token) for token in expected]
    finally:
        engine.close()


def bytes_of(engine: Engine, token: int) -> bytes:
    words, _ = engine.backend._loaded()
    return words.piece(token)
