"""Models with a head: cross-encoders, classifiers, and labels of single tokens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tabagent import wire
from tabagent.errors import ContextLengthExceeded, UnsupportedParameter, WrongModelTask
from tabagent.worker.pooling import spans
from tabagent.worker.pooling.model import Window
from tests.worker.onnx.conftest import Open
from tests.worker.torch_peer import TorchPeer

Tiny = Callable[..., Path]
QUERY = "where is the cat?"
DOCUMENTS = ["the cat sat on the mat", "a dog", "green river, green tree", "x y z " * 10]


def softmax(logits: Any) -> Any:
    shifted = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def test_a_cross_encoder_ranks_as_sentence_transformers(
    tiny: Tiny, open_: Open, torch_peer: TorchPeer
) -> None:
    folder = tiny("rerank", config={"initializer_range": 0.3})
    found = open_(folder).scores(QUERY, DOCUMENTS)
    expected = torch_peer.ranks(folder, [(QUERY, document) for document in DOCUMENTS])
    assert found == pytest.approx(expected, abs=1e-4)
    assert all(0 < score < 1 for score in found)


@pytest.mark.parametrize(
    "says",
    [
        {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
    ],
)
def test_scores_are_raw_where_the_model_says_so(
    tiny: Tiny, open_: Open, torch_peer: TorchPeer, tmp_path: Path, says: dict[str, Any]
) -> None:
    source = tiny("rerank", config={"initializer_range": 0.3})
    folder = tmp_path / "raw"
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | says))
    reader = open_(folder)
    assert reader.layout.reading is not None
    assert reader.layout.reading.scale == "raw"
    expected = torch_peer.ranks(folder, [(QUERY, document) for document in DOCUMENTS])
    assert reader.scores(QUERY, DOCUMENTS) == pytest.approx(expected, abs=1e-3)


def test_of_a_long_document_the_best_window_counts(tiny: Tiny, open_: Open) -> None:
    reader = open_(tiny("rerank", config={"initializer_range": 0.3}))
    long = "dog " * 200 + "the cat sat " * 60
    found = reader.ask(lambda id_: wire.Rank(id_, QUERY, [long]))
    assert found["tokens"] > 128
    (first,) = reader.scores(QUERY, [long], truncate=True)
    assert found["scores"][0] >= first
    room = 128 - len(reader.backend.ask(wire.Tokenize(1, QUERY))["tokens"]) - 3
    (begin,) = reader.scores(QUERY, ["dog " * room])
    assert first == pytest.approx(begin, abs=1e-5)


def test_a_query_must_leave_room(tiny: Tiny, open_: Open) -> None:
    with pytest.raises(ContextLengthExceeded, match="the query has"):
        open_(tiny("rerank")).scores("cat " * 120, DOCUMENTS)


def test_a_cross_encoder_is_no_embedder(tiny: Tiny, open_: Open) -> None:
    reader = open_(tiny("rerank"))
    with pytest.raises(UnsupportedParameter):
        reader.scores(QUERY, DOCUMENTS, method="late-interaction")
    with pytest.raises(WrongModelTask, match="/v1/rerank"):
        reader.vectors(["a"])


@pytest.mark.parametrize("several", [False, True])
def test_a_text_has_a_score_for_each_label(
    tiny: Tiny, open_: Open, torch_peer: TorchPeer, several: bool
) -> None:
    config = {"problem_type": "multi_label_classification"} if several else {}
    folder = tiny("classification", labels=["bad", "good", "odd"], config=config)
    reader = open_(folder)
    assert reader.layout.reading is not None
    assert reader.layout.reading.labels == ["bad", "good", "odd"]
    found = reader.ask(lambda id_: wire.Label(id_, DOCUMENTS))
    for text, scores in zip(DOCUMENTS, found["scores"], strict=True):
        logits = torch_peer.logits(folder, text, "classification")
        expected = 1 / (1 + np.exp(-logits)) if several else softmax(logits)
        np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_a_long_text_is_classified_in_parts_only_when_asked(tiny: Tiny, open_: Open) -> None:
    reader = open_(tiny("classification", labels=["bad", "good", "odd"]))
    long = "cat " * 200
    with pytest.raises(ContextLengthExceeded):
        reader.ask(lambda id_: wire.Label(id_, [long]))
    found = reader.ask(lambda id_: wire.Label(id_, [long, "dog"], "split"))
    np.testing.assert_allclose(np.sum(found["scores"], axis=1), 1, atol=1e-6)


def test_token_labels_are_those_of_transformers(
    tiny: Tiny, open_: Open, torch_peer: TorchPeer
) -> None:
    labels = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    folder = tiny("entities", labels=labels, config={"initializer_range": 1.0})
    text = "the cat sat on a green mat by dog river"
    (found,) = open_(folder).ask(lambda id_: wire.Mark(id_, [text]))["spans"]
    # Each word of this text is one token or spelt in letters, which share their mean.
    scores = softmax(torch_peer.logits(folder, text, "entities"))[1:-1]
    words = [("the", 1), ("cat", 1), ("sat", 1), ("on", 1), ("a", 1), ("green", 1), ("mat", 1),
             ("by", 2), ("dog", 1), ("river", 1)]  # fmt: skip
    at, expected = 0, []
    for word, count in words:
        mean = scores[at : at + count].mean(axis=0)
        expected.append((word, labels[int(mean.argmax())], float(mean.max())))
        at += count
    named = [entry for entry in expected if entry[1] != "O"]
    assert named, "a seed that names nothing tests nothing"
    assert " ".join(text[start:end] for _, _, start, end in found) == " ".join(
        word for word, _, _ in named
    )
    assert {kind for kind, *_ in found} == {label[2:] for _, label, _ in named}


def test_a_long_text_is_marked_whole(tiny: Tiny, open_: Open) -> None:
    folder = tiny("entities", labels=["O", "B-PER", "I-PER"], config={"initializer_range": 1.0})
    reader = open_(folder)
    long = "the cat sat on a green mat by dog river " * 40
    found = reader.ask(lambda id_: wire.Mark(id_, [long, "the cat"]))
    spans_ = found["spans"][0]
    assert spans_
    assert max(end for *_, end in spans_) > len(long) * 0.8
    assert [start for _, _, start, _ in spans_] == sorted(start for _, _, start, _ in spans_)
    assert all(0 <= start < end <= len(long) for _, _, start, end in spans_)


# ---- spans, by hand -------------------------------------------------------------------------------
LABELS = ["O", "B-PER", "I-PER", "B-LOC", "S-LOC", "E-PER"]


def named(text: str, said: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """(label, text) of what is found when each word has the label that is said."""
    at, places, rows = 0, [(0, 0)], [np.eye(len(LABELS))[0]]
    for word, label in said:
        at = text.index(word, at)
        places.append((at, at + len(word)))
        rows.append(np.eye(len(LABELS))[LABELS.index(label)])
        at += len(word)
    window = Window(np.zeros(len(places)), np.array(places), np.array([-1, *range(len(said))]), 0)
    found = spans.named(text, [window], [np.array(rows)], LABELS)
    return [(label, text[start:end]) for label, _, start, end in found]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([("Ada", "B-PER"), ("King", "I-PER"), ("sees", "O"), ("Rome", "B-LOC")],
         [("PER", "Ada King"), ("LOC", "Rome")]),
        ([("Ada", "B-PER"), ("King", "B-PER")], [("PER", "Ada"), ("PER", "King")]),
        ([("Ada", "I-PER"), ("King", "I-PER")], [("PER", "Ada King")]),
        ([("Ada", "B-PER"), ("King", "E-PER"), ("sees", "I-PER")],
         [("PER", "Ada King"), ("PER", "sees")]),
        ([("Ada", "B-PER"), ("King", "S-LOC")], [("PER", "Ada"), ("LOC", "King")]),
        ([("Ada", "O")], []),
    ],
)  # fmt: skip
def test_words_of_one_kind_are_one_name(
    said: list[tuple[str, str]], expected: list[tuple[str, str]]
) -> None:
    assert named("Ada King sees Rome", said) == expected
