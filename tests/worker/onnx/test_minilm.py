"""all-MiniLM-L6-v2: the vectors of sentence-transformers, however texts come together."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tabagent import wire
from tests.worker.gguf.pooling_driver import cosines
from tests.worker.onnx.conftest import Open
from tests.worker.onnx.driver import Reader, rows
from tests.worker.torch_peer import TorchPeer

SCRIPTS = [
    "the river runs past old houses, markets and a small green garden near our school",
    "река течёт мимо старых домов рынков и маленького зелёного сада возле нашей школы",
    "河流 经过 老 房子 市场 和 我们 学校 附近 的 小 花园",
    "النهر يجري قرب بيوت قديمة وأسواق وحديقة خضراء صغيرة قرب مدرستنا",
    "नदी पुराने घरों बाज़ारों और हमारे स्कूल के पास छोटे हरे बाग़ से होकर बहती है",
    "το ποτάμι κυλά δίπλα σε παλιά σπίτια αγορές και έναν μικρό πράσινο κήπο",
    "川 は 古い 家 市場 学校 の 近く の 小さな 庭 を 流れる 😀 naïve café",
]


def texts(count: int, seed: int = 5) -> list[str]:
    """Of 1 to 400 words, in several scripts."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        words = SCRIPTS[number % len(SCRIPTS)].split()
        length = 1 + round(399 * draw.random() ** 3)
        found.append(" ".join(draw.choice(words) for _ in range(length)))
    return found


TEXTS = texts(200)


@pytest.fixture(scope="module")
def expected(minilm: Path, torch_peer: TorchPeer) -> npt.NDArray[np.float64]:
    return torch_peer.vectors(minilm, TEXTS)


@pytest.fixture
def reader(minilm: Path, open_: Open) -> Reader:
    return open_(minilm)


def test_two_hundred_texts_have_the_vectors_of_sentence_transformers(
    reader: Reader, expected: npt.NDArray[np.float64]
) -> None:
    found = reader.vectors(TEXTS, truncate="end")  # as sentence-transformers does unasked
    assert found.shape == (200, 384)
    assert cosines(found, expected).min() > 0.9999
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("count", [1, 16, 33, 200])
def test_any_batch_and_order_gives_what_one_at_a_time_gives(reader: Reader, count: int) -> None:
    chosen = random.Random(count).sample(range(200), count)
    together = reader.vectors([TEXTS[n] for n in chosen], truncate="end")
    for place in random.Random(1).sample(range(count), min(count, 12)):
        (alone,) = reader.vectors([TEXTS[chosen[place]]], truncate="end")
        assert np.abs(alone - together[place]).max() < 1e-4


def test_256_short_texts_equal_one_at_a_time(reader: Reader) -> None:
    many = [f"{text.split()[0]} {number}" for number, text in enumerate((TEXTS * 2)[:256])]
    together = reader.vectors(many)
    for place in range(0, 256, 23):
        (alone,) = reader.vectors([many[place]])
        assert np.abs(alone - together[place]).max() < 1e-4


def test_requests_at_once_get_their_own_vectors(
    reader: Reader, expected: npt.NDArray[np.float64]
) -> None:
    order = random.Random(3).sample(range(200), 200)
    ids = {
        n: reader.submit(lambda id_, n=n: wire.Embed(id_, [TEXTS[n]], "end"))  # type: ignore[misc]
        for n in order[:80]
    }
    many = reader.submit(lambda id_: wire.Embed(id_, [TEXTS[n] for n in order[80:]], "end"))
    reader.run()
    for n, id_ in ids.items():
        end = reader.ended[id_]
        assert isinstance(end, wire.Done)
        assert cosines(rows(end.result)[0], expected[n]) > 0.9999
    end = reader.ended[many]
    assert isinstance(end, wire.Done)
    assert cosines(rows(end.result), expected[order[80:]]).min() > 0.9999


def test_meaning_is_there(reader: Reader) -> None:
    scores = reader.scores(
        "How do I brew tea?",
        ["Pour boiling water over the leaves and wait.", "The train to Kraków leaves at nine."],
    )
    assert scores[0] > scores[1] + 0.2
    late = reader.scores(
        "How do I brew tea?",
        ["Pour boiling water over the leaves and wait.", "The train to Kraków leaves at nine."],
        method="late-interaction",
    )
    assert late[0] > late[1]
