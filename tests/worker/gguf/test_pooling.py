"""Vectors: the same alone, in any company, and as another program computes them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tabagent import wire
from tabagent.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    ModelCorrupt,
    TabAgentError,
    WrongModelTask,
)
from tests.worker.gguf.conftest import Open
from tests.worker.gguf.pooling_driver import Pooler, as_rows, cosines, peer_of
from tests.worker.tiny_pooling import write_bert, write_qwen

KINDS: list[tuple[str, wire.Pooling]] = [
    ("bert", "mean"),
    ("bert", "cls"),
    ("jina", "mean"),
    ("qwen", "last"),
    ("qwen", "mean"),
]
TEXTS = [
    "the cat sat on the mat",
    "a",
    "dog " * 150,
    "green river, green tree",
    "x y z",
    "the house " * 40,
    "?",
    "Größe 漢字",
]


# ---- the numbers --------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "pooling"), KINDS)
def test_vectors_are_what_another_program_computes_normalised(
    open_: Open, files: dict[str, Path], name: str, pooling: wire.Pooling
) -> None:
    found = open_(name, pooling).vectors(TEXTS)
    with peer_of(files[name], pooling) as peer:
        expected = peer.vectors(TEXTS)
    assert cosines(found, expected).min() > 0.99999
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-6)
    assert cosines(found[:1], expected[1:2]).max() < 0.99  # the numbers mean something at all


@pytest.mark.parametrize("flash", ["auto", "on", "off"])
@pytest.mark.parametrize(("name", "pooling"), KINDS)
def test_a_text_alone_has_the_vector_it_has_in_company(
    open_: Open, name: str, pooling: wire.Pooling, flash: str
) -> None:
    pooler = open_(name, pooling, flash_attention=flash)
    together = pooler.vectors(TEXTS)
    alone = np.concatenate([pooler.vectors([text]) for text in TEXTS])
    assert cosines(together, alone).min() > 0.99999


@pytest.mark.parametrize(("name", "pooling"), KINDS)
def test_a_text_of_more_than_512_tokens_works(
    open_: Open, files: dict[str, Path], name: str, pooling: wire.Pooling
) -> None:
    text = "dog cat river house " * 150 if name != "qwen" else "the dog is on. " * 60
    pooler = open_(name, pooling)
    id_ = pooler.embed([text, "the cat"])
    pooler.run()
    assert pooler.result(id_)["tokens"][0] > 600
    with peer_of(files[name], pooling) as peer:
        expected = peer.vectors([text])
    assert cosines(as_rows(pooler.result(id_)["vectors"])[:1], expected).min() > 0.99999


def test_raw_vectors_are_had_on_request(bert: Pooler, files: dict[str, Path]) -> None:
    raw = bert.vectors(TEXTS[:3], normalise=False)
    with peer_of(files["bert"], "mean") as peer:
        assert raw == pytest.approx(peer.vectors(TEXTS[:3]), rel=1e-3, abs=1e-4)


def test_fewer_dimensions_are_the_first_ones_normalised_again(bert: Pooler) -> None:
    whole, cut = bert.vectors(TEXTS), bert.vectors(TEXTS, dimensions=16)
    assert cut.shape == (len(TEXTS), 16)
    assert cosines(cut, whole[:, :16]).min() > 0.9999999
    assert np.linalg.norm(cut, axis=1) == pytest.approx(1, abs=1e-6)
    with pytest.raises(InvalidRequest, match="64 numbers") as caught:
        bert.embed(TEXTS, dimensions=65)
    assert caught.value.param == "dimensions"


def test_vectors_come_in_the_order_of_the_texts(bert: Pooler) -> None:
    draw = random.Random(3)
    texts = [
        " ".join(draw.choices(["the", "cat", "sat", "on", "mat"], k=n % 60 + 1)) for n in range(256)
    ]
    id_ = bert.embed(texts)
    bert.run()
    found = as_rows(bert.result(id_)["vectors"])
    for index in draw.sample(range(256), 12):
        assert cosines(found[index], bert.vectors([texts[index]])[0]) > 0.99999
    assert bert.result(id_)["tokens"] == [len(text.split()) + 2 for text in texts]


@pytest.mark.parametrize(
    ("name", "pooling", "text", "tokens"),
    [("bert", "mean", "[SEP]", 2 + 5), ("qwen", "last", "<|im_end|>", 10 + 1)],
)
def test_control_tokens_in_a_text_are_text(
    open_: Open, name: str, pooling: wire.Pooling, text: str, tokens: int
) -> None:
    pooler = open_(name, pooling)
    id_ = pooler.embed([text])
    pooler.run()
    assert pooler.result(id_)["tokens"] == [tokens]


# ---- what is refused ----------------------------------------------------------------------------
def test_a_text_that_is_too_long_is_named_before_anything_runs(bert: Pooler) -> None:
    with pytest.raises(ContextLengthExceeded) as caught:
        bert.embed(["short", "the " * 1023, "the " * 1022, "the " * 3000])
    error = caught.value
    assert "/input/1 has 1025 tokens" in error.detail
    assert (error.param, error.members["prompt_tokens"]) == ("input", 1025)
    assert [entry["pointer"] for entry in error.members["errors"]] == ["/input/1", "/input/3"]
    assert not bert.backend.busy


def test_a_text_that_may_be_cut_keeps_its_special_tokens(
    bert: Pooler, qwen: Pooler, files: dict[str, Path]
) -> None:
    for pooler, name, pooling in ((bert, "bert", "mean"), (qwen, "qwen", "last")):
        text = "the dog " * 1200
        id_ = pooler.embed([text], truncate="end")
        pooler.run()
        assert pooler.result(id_)["tokens"] == [1024]
        with peer_of(files[name], pooling) as peer:  # type: ignore[arg-type]  # a literal
            tokens = peer.tokens(text)
            expected = peer.row([*tokens[:1023], tokens[-1]])
        assert cosines(as_rows(pooler.result(id_)["vectors"])[0], expected) > 0.99999


def test_a_request_of_too_many_tokens_is_refused(bert: Pooler) -> None:
    with pytest.raises(InvalidRequest, match="65536") as caught:
        bert.embed(["the " * 1000] * 70)
    assert caught.value.members["errors"][0]["pointer"] == "/input"


def test_numbers_that_are_none_are_an_error_naming_the_text_and_harm_nobody_else(
    tmp_path: Path,
) -> None:
    kinds: list[tuple[Path, wire.Pooling]] = [
        (write_bert(tmp_path / "bert.gguf", sick="cat"), "mean"),
        (write_qwen(tmp_path / "qwen.gguf", sick="c"), "last"),
    ]
    for path, pooling in kinds:
        pooler = Pooler(path, pooling)
        expected = pooler.vectors(["the dog", "green tree " * 90])
        sick = pooler.embed(["the dog", "green tree", "the cat", "river"])
        healthy = pooler.embed(["the dog", "green tree " * 90])
        pooler.run()
        failed = pooler.ended[sick]
        assert isinstance(failed, wire.Failed)
        assert failed.slug == ModelCorrupt.slug
        assert [entry["pointer"] for entry in failed.members["errors"]] == ["/input/2"]
        assert failed.members["param"] == "input"
        assert str(tmp_path) not in repr(failed)
        found = as_rows(pooler.result(healthy)["vectors"])
        assert cosines(found, expected).min() > 0.99999
        assert cosines(pooler.vectors(["the dog"]), expected[:1]) > 0.99999
        pooler.close()


def test_a_vector_of_zeros_is_an_error(tmp_path: Path) -> None:
    pooler = Pooler(write_bert(tmp_path / "m.gguf", silent=True), "mean")
    id_ = pooler.embed(["the dog", "green"])
    pooler.run()
    failed = pooler.ended[id_]
    assert isinstance(failed, wire.Failed)
    assert failed.members["errors"][0]["pointer"] == "/input/0"
    pooler.close()


def test_each_kind_says_what_it_is_not(bert: Pooler, open_: Open) -> None:
    ranker = open_("ranker", "rank")
    wrong: list[tuple[Pooler, Any]] = [
        (bert, wire.Rank(1, "a", ["b"], method="cross-encoder")),
        (ranker, wire.Embed(1, ["a"])),
        (bert, wire.Generate(1, wire.Sampling(), text="a")),
    ]
    for pooler, command in wrong:
        with pytest.raises(WrongModelTask):
            pooler.backend.prepare(command)
    with pytest.raises(WrongModelTask):
        bert.backend.ask(wire.Render(1, [{"role": "user", "content": "a"}]))


def test_tokens_can_be_counted_with_a_model_that_pools(bert: Pooler) -> None:
    tokens = bert.backend.ask(wire.Tokenize(1, "the cat"))["tokens"]
    assert bert.backend.ask(wire.Detokenize(2, tokens))["text"].split() == ["the", "cat"]
    with pytest.raises(TabAgentError, match="not in the vocabulary"):
        bert.backend.ask(wire.Detokenize(3, [10**6]))


def test_a_longer_context_than_the_model_has_is_not_given(open_: Open) -> None:
    assert open_("bert", "mean", n_ctx=5000).facts["n_ctx"] == 1024
    assert open_("qwen", "last", n_ctx=5000).facts["n_ctx"] == 1024
    assert open_("bert", "mean", n_ctx=100).facts["n_ctx"] == 100


def test_a_guessing_model_beside_one_that_guesses_nothing_is_refused(open_: Open) -> None:
    with pytest.raises(InvalidRequest) as caught:
        open_("bert", "mean", draft_path="other.gguf")
    assert caught.value.param == "draft_model"
