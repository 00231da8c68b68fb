"""What is worked out from vectors is what the vectors say, by another way of working it out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tabagent.services.likeness import measures
from tests.live import EMBEDDER, LiveServer, fake_models
from tests.worker.tiny_pooling import write_bert

BERT = "local/bert"
TEXTS = ["the cat sat", "a dog ran", "the cats sat", "1234 5678", "the cat", "many dogs ran"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    place = tmp_path_factory.mktemp("likeness")
    (place / "models").mkdir()
    write_bert(place / "models" / "bert.gguf")
    with LiveServer(place, extra=fake_models()) as live:
        yield live


def ask(server: LiveServer, what: str, **body: Any) -> dict[str, Any]:
    answer = server.client.post(f"/v1/{what}", json={"model": BERT, **body})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def embed(server: LiveServer, texts: list[str]) -> list[list[float]]:
    rows = server.client.post("/v1/embeddings", json={"model": BERT, "input": texts}).json()["data"]
    return [row["embedding"] for row in rows]


def cosine(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


# ---- over HTTP ----------------------------------------------------------------------------------


def test_similarities_are_the_cosines_of_the_embeddings(server: LiveServer) -> None:
    found = ask(server, "similarity", texts=TEXTS[:3], others=TEXTS[3:])
    vectors = embed(server, TEXTS)
    expected = [[cosine(a, b) for b in vectors[3:]] for a in vectors[:3]]
    assert np.allclose(found["similarities"], expected, atol=1e-5)
    each = ask(server, "similarity", texts=TEXTS)["similarities"]
    assert np.allclose(np.diag(each), 1, atol=1e-5)
    assert np.allclose(each, np.transpose(each), atol=1e-5)
    assert found["usage"]["prompt_tokens"] > 0
    assert found["model"] == BERT


def test_a_search_gives_the_most_alike_first(server: LiveServer) -> None:
    found = ask(server, "semantic-search", query="the cat sat", texts=TEXTS, top_k=3)
    question, *vectors = embed(server, ["the cat sat", *TEXTS])
    scores = [cosine(question, vector) for vector in vectors]
    assert [r["index"] for r in found["results"]] == sorted(range(6), key=lambda i: -scores[i])[:3]
    assert found["results"][0]["text"] == "the cat sat"
    assert found["results"][0]["score"] == pytest.approx(1, abs=1e-5)
    least = ask(server, "semantic-search", query="the cat sat", texts=TEXTS, min_score=0.9999)
    assert [result["index"] for result in least["results"]] == [0]


def test_recommendations_are_alike_and_with_diversity_not_all_the_same(server: LiveServer) -> None:
    texts = ["the cat sat", "the cat sat", "the cat sat", "1234 5678"]
    alike = ask(server, "recommend", liked=["the cat sat"], texts=texts, top_k=2, diversity=0)
    assert [result["index"] for result in alike["results"]] == [0, 1]
    mixed = ask(server, "recommend", liked=["the cat sat"], texts=texts, top_k=2, diversity=0.9)
    assert [result["index"] for result in mixed["results"]] == [0, 3]


def test_a_model_is_measured_by_what_its_vectors_find(server: LiveServer) -> None:
    documents = ["the cat sat", "a dog ran", "1234 5678"]
    found = ask(
        server,
        "evaluate-embeddings",
        documents=documents,
        queries=documents,
        relevant=[[0], [1], [0, 2]],
        cutoffs=[1, 3],
    )
    assert found["recall"] == {"1": pytest.approx((1 + 1 + 0.5) / 3), "3": 1.0}
    assert found["mrr"] == 1.0
    assert found["ndcg"]["1"] == 1.0
    vectors = embed(server, documents)
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = sum(cosine(vectors[a], vectors[b]) for a, b in pairs) / 3
    assert found["anisotropy"] == pytest.approx(expected, abs=1e-4)
    alone = ask(server, "evaluate-embeddings", documents=documents)
    assert (alone["recall"], alone["mrr"]) == (None, None)
    assert alone["anisotropy"] == found["anisotropy"]


def test_texts_that_are_the_same_end_in_one_cluster(server: LiveServer) -> None:
    texts = ["the cat sat", "1234 5678", "the cat sat", "1234 5678", "the cat sat"]
    counted = ask(server, "cluster", texts=texts, count=2)
    assert [cluster["members"] for cluster in counted["clusters"]] == [[0, 2, 4], [1, 3]]
    assert counted["alone"] == []
    first = counted["clusters"][0]
    assert (first["size"], first["text"]) == (3, "the cat sat")
    found = ask(server, "cluster", texts=[*texts, "a dog ran with many"])
    assert [0, 2, 4] in [cluster["members"] for cluster in found["clusters"]]
    assert sum(c["size"] for c in found["clusters"]) + len(found["alone"]) == 6
    assert ask(server, "cluster", texts=texts, min_size=9) == {
        "model": BERT, "clusters": [], "alone": [0, 1, 2, 3, 4], "usage": counted["usage"],
    }  # fmt: skip


def test_more_texts_than_one_request_of_embeddings_takes(server: LiveServer) -> None:
    texts = [f"text {number}" for number in range(600)]
    body = {"model": EMBEDDER, "query": "text 599", "texts": texts, "top_k": 1}
    answer = server.client.post("/v1/semantic-search", json=body).json()
    assert answer["results"][0]["score"] == pytest.approx(1, abs=1e-6)
    assert answer["usage"]["prompt_tokens"] == sum(map(len, texts)) + len("text 599")


def test_texts_of_more_tokens_than_a_worker_takes_at_once(server: LiveServer) -> None:
    texts = ["a cat " * 40 + str(number) for number in range(900)]  # 80,000 tokens and more
    found = ask(server, "semantic-search", query=texts[-1], texts=texts, top_k=1)
    assert found["results"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert found["usage"]["prompt_tokens"] > 65_536


def test_a_text_that_is_too_long_is_named_where_it_stands(server: LiveServer) -> None:
    long = "cat " * 5000
    body = {"model": BERT, "texts": ["a", "b"], "others": ["c", long, "d"]}
    refused = server.client.post("/v1/similarity", json=body).json()
    assert refused["code"] == "context-length-exceeded"
    assert refused["detail"].startswith("/others/1 has ")
    assert [fault["pointer"] for fault in refused["errors"]] == ["/others/1"]
    assert refused["error"]["param"] == "others"
    assert server.client.post("/v1/similarity", json=body | {"truncate": "end"}).status_code == 200
    alone = {"model": BERT, "query": long, "texts": ["a"]}
    assert server.client.post("/v1/semantic-search", json=alone).json()["error"]["param"] == "query"


@pytest.mark.parametrize(
    ("what", "body", "pointer"),
    [
        ("similarity", {"texts": []}, "/texts"),
        ("similarity", {"texts": ["a"] * 257}, "/texts"),
        ("semantic-search", {"query": "", "texts": ["a"]}, "/query"),
        ("semantic-search", {"query": "a", "texts": ["a"], "min_score": 2}, "/min_score"),
        ("recommend", {"liked": ["a"], "texts": ["a"], "diversity": 1.5}, "/diversity"),
        ("evaluate-embeddings", {"documents": ["a"]}, "/documents"),
        ("evaluate-embeddings", {"documents": ["a", "b"], "queries": ["a"]}, ""),
        (
            "evaluate-embeddings",
            {"documents": ["a", "b"], "queries": ["a"], "relevant": [[2]]},
            "",
        ),
        ("cluster", {"texts": ["a", "b"], "count": 3}, ""),
        ("cluster", {"texts": ["a", "b"], "min_size": 1}, "/min_size"),
    ],
)
def test_nonsense_is_refused(
    server: LiveServer, what: str, body: dict[str, Any], pointer: str
) -> None:
    refused = server.client.post(f"/v1/{what}", json={"model": BERT, **body})
    assert refused.status_code == 400
    assert pointer in [fault["pointer"] for fault in refused.json()["errors"]]


def test_a_model_that_makes_no_vectors_is_refused(server: LiveServer) -> None:
    body = {"model": "tabagent/guide", "texts": ["a", "b"]}
    assert server.client.post("/v1/cluster", json=body).json()["code"] == "wrong-model-task"


# ---- the measures -------------------------------------------------------------------------------


def test_the_measures_of_a_ranking_are_those_of_the_textbook() -> None:
    likeness = np.array([[0.9, 0.8, 0.7, 0.1], [0.1, 0.2, 0.3, 0.4]], np.float32)
    found = measures.ranking(likeness, [[1, 3], [3]], [1, 2, 4])
    assert found.mrr == pytest.approx((1 / 2 + 1) / 2)
    assert found.recall == {1: 0.5, 2: 0.75, 4: 1.0}
    first = (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3))
    assert found.ndcg[4] == pytest.approx((first + 1) / 2)
    assert found.ndcg[1] == pytest.approx(0.5)


def test_of_equal_scores_the_first_comes_first() -> None:
    assert measures.best([0.5, 0.7, 0.5, 0.7], 4) == [1, 3, 0, 2]
    likeness = np.ones((3, 3), np.float32)
    assert measures.diverse([0.5, 0.5, 0.5], likeness, 5, 0.5) == [0, 1, 2]


def test_vectors_in_all_directions_have_no_anisotropy() -> None:
    axes = np.concatenate([np.eye(4), -np.eye(4)]).astype(np.float32)
    assert measures.anisotropy(axes) == pytest.approx(-1 / 7)
    assert measures.anisotropy(np.ones((5, 1), np.float32)) == pytest.approx(1)
