"""Ranks: a query with each document, as the model was trained to read the two."""

from __future__ import annotations

import math
import random
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tabagent import wire
from tabagent.errors import ContextLengthExceeded, InvalidRequest, UnsupportedModel
from tabagent.worker.pooling.windows import window_starts
from tests.worker.gguf.conftest import Open
from tests.worker.gguf.pooling_driver import Peer, Pooler, peer_of
from tests.worker.tiny_pooling import RANK, RERANK, WORDS, write_bert, write_qwen

QUERY = "where is the cat?"
DOCUMENTS = ["the cat sat on the mat", "a dog", "", "green river, green tree", "x y z " * 30]
START, END = 2, 3  # [CLS] and [SEP]


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def score(peer: Peer, query: str, document: str | list[int]) -> float:
    words = peer.tokens(document)[1:-1] if isinstance(document, str) else document
    pair = [START, *peer.tokens(query)[1:-1], END, *words, END]
    return sigmoid(float(peer.row(pair, 1)[0]))


@pytest.mark.parametrize("name", ["ranker", "newer ranker"])
def test_an_encoder_reads_the_two_with_a_separator_between_and_behind(
    open_: Open, files: dict[str, Path], name: str
) -> None:
    found = open_(name, "rank").scores(QUERY, DOCUMENTS)
    with peer_of(files[name], "rank") as peer:
        expected = [score(peer, QUERY, document) for document in DOCUMENTS]
    assert found == pytest.approx(expected, abs=1e-4)
    assert max(found) - min(found) > 0.05


def test_a_head_with_a_tangent_is_read_as_the_logit_before_it(
    open_: Open, files: dict[str, Path]
) -> None:
    found = open_("jina ranker", "rank").scores(QUERY, DOCUMENTS)
    with peer_of(files["jina ranker"], "rank") as peer:
        for document, value in zip(DOCUMENTS, found, strict=True):
            pair = [*peer.tokens(QUERY), *peer.tokens(document)[1:]]
            tangent = float(peer.row(pair, 1)[0])
            assert value == pytest.approx(sigmoid(math.atanh(tangent)), abs=1e-3)
    assert max(found) - min(found) > 0.02


def test_a_causal_model_reads_its_own_template_as_one_text(
    open_: Open, files: dict[str, Path]
) -> None:
    ranker = open_("qwen ranker", "rank")
    found = ranker.scores(QUERY, DOCUMENTS[:4])
    assert ranker.facts["dimensions"] == 2
    with peer_of(files["qwen ranker"], "rank") as peer:
        for document, value in zip(DOCUMENTS[:4], found, strict=True):
            text = RERANK.replace("{query}", QUERY).replace("{document}", document)
            tokens = peer._llama.tokenize(text.encode(), add_bos=False, special=True)
            yes, no = peer.row(tokens, 2)
            assert yes + no == pytest.approx(1, abs=1e-5)
            assert value == pytest.approx(yes, abs=1e-3)
    assert max(found) - min(found) > 1e-3


def test_what_people_wrote_is_neither_control_nor_a_place_in_the_template(open_: Open) -> None:
    ranker = open_("qwen ranker", "rank")

    def tokens(query: str, document: str) -> int:
        id_ = ranker.rank(query, [document])
        ranker.run()
        found: int = ranker.result(id_)["tokens"]
        return found

    def length(text: str) -> int:
        return len(ranker.backend.ask(wire.Tokenize(1, text))["tokens"])

    plain = tokens("a", "b") - length(" a") - length(" b")
    assert length("<|im_end|>") == 10
    for query, document in (
        ("a<|im_end|>", "b"),
        ("a", "b<|im_start|>"),
        ("{document}", "b"),
        ("{query}{document}", "{query}"),
    ):
        assert tokens(query, document) == plain + length(" " + query) + length(" " + document)


def test_a_long_document_is_read_in_windows_of_which_the_best_counts(
    open_: Open, files: dict[str, Path]
) -> None:
    with peer_of(files["ranker"], "rank") as peer:
        room = 1024 - 3 - len(peer.tokens(QUERY)[1:-1])
        for seed in range(30):
            document = " ".join(random.Random(seed).choices(WORDS[seed % 7 :], k=2500))
            tokens = peer.tokens(document)[1:-1]
            windows = [tokens[at : at + room] for at in window_starts(len(tokens), room)]
            scores = [score(peer, QUERY, window) for window in windows]
            if scores[1] > max(scores[0], scores[2]) + 1e-3:
                break
    assert len(scores) == 3
    assert scores[1] == max(scores), "another text is needed, of which the middle is the best"
    ranker = open_("ranker", "rank")
    assert ranker.scores(QUERY, ["a", document])[1] == pytest.approx(scores[1], abs=1e-4)
    (first,) = ranker.scores(QUERY, [document], truncate=True)
    assert first == pytest.approx(scores[0], abs=1e-4)


def test_a_long_document_in_a_template_is_read_in_windows_too(open_: Open) -> None:
    ranker = open_("qwen ranker", "rank")
    id_ = ranker.rank("cat", ["a dog. " * 400, "short"])
    ranker.run()
    assert ranker.result(id_)["tokens"] > 2 * 1024
    assert len(ranker.result(id_)["scores"]) == 2


@pytest.mark.parametrize("length", [1, 7, 8, 9, 15, 20, 64, 65, 1000])
@pytest.mark.parametrize("room", [1, 8, 33])
def test_windows_cover_everything_and_overlap(length: int, room: int) -> None:
    starts = window_starts(length, room)
    covered = {at for start in starts for at in range(start, min(start + room, length))}
    assert covered == set(range(length))
    assert starts[-1] == max(0, length - room)
    if length > room >= 8:
        assert all(b - a < room for a, b in pairwise(starts))


@pytest.mark.parametrize("name", ["ranker", "qwen ranker"])
def test_a_query_that_leaves_no_room_is_refused(open_: Open, name: str) -> None:
    with pytest.raises(ContextLengthExceeded) as caught:
        open_(name, "rank").rank("cat " * 1020, ["a"])
    assert caught.value.members["errors"][0]["pointer"] == "/query"
    assert caught.value.param == "query"


def test_more_tokens_than_one_request_may_have_are_refused(open_: Open) -> None:
    with pytest.raises(InvalidRequest, match="262144") as caught:
        open_("ranker", "rank").rank("cat", ["dog " * 1000] * 270)
    assert caught.value.members["errors"][0]["pointer"] == "/documents"


def test_many_documents_are_ranked_in_their_order(open_: Open, files: dict[str, Path]) -> None:
    documents = [f"the {'cat ' * (n % 17)}{'dog ' * (n % 5)}" for n in range(200)]
    found = open_("ranker", "rank").scores(QUERY, documents)
    with peer_of(files["ranker"], "rank") as peer:
        for index in range(0, 200, 23):
            assert found[index] == pytest.approx(score(peer, QUERY, documents[index]), abs=1e-4)


def test_a_head_that_does_not_rank_is_not_taken_for_one(tmp_path: Path) -> None:
    labels = ("joy", "anger", "fear")
    path = write_bert(tmp_path / "m.gguf", pooling=RANK, head=True, labels=labels)
    with pytest.raises(UnsupportedModel, match="3 outputs"):
        Pooler(path, "rank")


def test_of_several_outputs_the_share_of_yes_counts(tmp_path: Path) -> None:
    path = write_bert(tmp_path / "m.gguf", pooling=RANK, head=True, labels=("no", "yes", "maybe"))
    ranker = Pooler(path, "rank")
    (found,) = ranker.scores(QUERY, ["a dog"])
    with peer_of(path, "rank") as peer:
        tokens = [START, *peer.tokens(QUERY)[1:-1], END, *peer.tokens("a dog")[1:-1], END]
        row = np.exp(peer.row(tokens, 3))
    assert found == pytest.approx(row[1] / row.sum(), abs=1e-4)
    ranker.close()


@pytest.mark.parametrize("template", ["{query}", "{document}", "{query}{document}{document}"])
def test_a_template_without_a_place_for_both_is_refused(tmp_path: Path, template: str) -> None:
    path = write_qwen(tmp_path / "m.gguf", pooling=RANK, template=template)
    with pytest.raises(UnsupportedModel, match=re.escape("rerank template")):
        Pooler(path, "rank")
