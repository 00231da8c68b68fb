"""POST /v1/rerank as Jina's, Cohere's and Open WebUI's clients use it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tabagent.catalog.models import BUILTIN
from tests.live import LiveServer
from tests.services.test_embeddings import problem
from tests.worker.gguf.pooling_driver import peer_of
from tests.worker.tiny_pooling import RANK, RERANK, write_bert, write_qwen

RANKER = "local/ranker"
QUERY = "where is the cat?"
DOCUMENTS = ["the cat sat on the mat", "a dog", "", "green river, green tree", "x y z " * 30]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    place = tmp_path_factory.mktemp("rerank")
    models = place / "models"
    models.mkdir()
    write_bert(models / "ranker.gguf", pooling=RANK, head=True)
    write_qwen(models / "qwen.gguf", pooling=RANK, template=RERANK)
    write_bert(models / "embedder.gguf")
    write_bert(models / "headless.gguf", pooling=RANK)
    with LiveServer(place) as live:
        yield live


def rerank(server: LiveServer, model: str | None = RANKER, **body: Any) -> httpx.Response:
    body = {"query": QUERY, "documents": DOCUMENTS, **body}
    return server.client.post(
        "/v1/rerank", json=body if model is None else {"model": model, **body}
    )


def results(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["results"]
    return found


def test_every_document_has_a_score_and_the_best_is_first(server: LiveServer) -> None:
    response = rerank(server)
    found = results(response)
    assert sorted(row["index"] for row in found) == list(range(len(DOCUMENTS)))
    scores = [row["relevance_score"] for row in found]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    assert all(set(row) == {"index", "relevance_score"} for row in found)
    body = response.json()
    assert (body["object"], body["model"]) == ("list", RANKER)
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] > 60
    assert body["meta"]["tokens"]["input_tokens"] == body["usage"]["total_tokens"]


def test_scores_are_the_sigmoid_of_what_another_program_computes(server: LiveServer) -> None:
    found = {row["index"]: row["relevance_score"] for row in results(rerank(server))}
    with peer_of(server.settings.models_path / "ranker.gguf", "rank") as peer:
        for index, document in enumerate(DOCUMENTS):
            query, words = peer.tokens(QUERY), peer.tokens(document)
            (logit,) = peer.row([*query, *words[1:]], 1)
            assert found[index] == pytest.approx(1 / (1 + math.exp(-logit)), abs=2e-3)


def test_a_causal_reranker_answers_too(server: LiveServer) -> None:
    found = results(rerank(server, "local/qwen"))
    assert len(found) == len(DOCUMENTS)
    assert len({row["relevance_score"] for row in found}) > 3


def test_the_best_few_with_their_texts(server: LiveServer) -> None:
    whole = results(rerank(server))
    few = results(rerank(server, top_n=2, return_documents=True))
    assert [row["index"] for row in few] == [row["index"] for row in whole[:2]]
    assert [row["document"]["text"] for row in few] == [DOCUMENTS[row["index"]] for row in few]
    assert len(results(rerank(server, top_n=99))) == len(DOCUMENTS)


def test_documents_may_be_objects(server: LiveServer) -> None:
    objects = [{"text": document} for document in DOCUMENTS]
    assert results(rerank(server, documents=objects)) == results(rerank(server))
    mixed = [*DOCUMENTS[:2], *objects[2:]]
    assert results(rerank(server, documents=mixed)) == results(rerank(server))


def test_without_a_model_one_that_ranks_answers(server: LiveServer) -> None:
    assert rerank(server, None).json()["model"] in (RANKER, "local/qwen")


def test_a_long_document_is_read_whole_or_from_its_beginning(server: LiveServer) -> None:
    long = "dog " * 1500 + "cat " * 500
    whole = rerank(server, documents=[long, "a"]).json()
    first = rerank(server, documents=[long, "a"], truncate="end").json()
    assert whole["usage"]["total_tokens"] > 2000
    assert first["usage"]["total_tokens"] < 1100

    def score(body: dict[str, Any]) -> float:
        found: float = next(r["relevance_score"] for r in body["results"] if r["index"] == 0)
        return found

    assert score(whole) >= score(first)


@pytest.mark.parametrize(
    ("body", "slug", "pointer"),
    [
        ({"query": ""}, "invalid-request", "/query"),
        ({"query": {"text": "a"}}, "invalid-request", "/query"),
        ({"documents": []}, "invalid-request", "/documents"),
        ({"documents": "a"}, "invalid-request", "/documents"),
        ({"documents": ["a", 1]}, "invalid-request", "/documents/1"),
        ({"documents": ["a", {"title": "b"}]}, "invalid-request", "/documents/1/text"),
        (
            {"documents": ["a", {"text": "b", "title": "c"}]},
            "invalid-request",
            "/documents/1/title",
        ),
        ({"documents": ["a"] * 1001}, "invalid-request", "/documents"),
        ({"top_n": 0}, "invalid-request", "/top_n"),
        ({"max_chunks_per_doc": 3}, "invalid-request", "/max_chunks_per_doc"),
        ({"query": "cat " * 2000}, "context-length-exceeded", "/query"),
        ({"documents": ["dog " * 1000] * 300}, "invalid-request", "/documents"),
    ],
)
def test_bad_input_is_a_problem_that_points_at_it(
    server: LiveServer, body: dict[str, Any], slug: str, pointer: str
) -> None:
    results(rerank(server))
    worker = server.worker(RANKER).pid
    problem(rerank(server, **body), slug, pointer)
    assert len(results(rerank(server))) == len(DOCUMENTS)
    assert server.worker(RANKER).pid == worker


def test_models_without_a_head_that_ranks_are_refused_with_what_to_do(server: LiveServer) -> None:
    refused = problem(rerank(server, BUILTIN), "wrong-model-task")
    assert "task is rerank" in refused["detail"]
    assert "no head" in problem(rerank(server, "local/headless"), "unsupported-model")["detail"]


def test_without_a_reranker_that_is_the_problem(tmp_path: Path) -> None:
    with LiveServer(tmp_path) as server:
        assert "rerank" in problem(rerank(server, None), "model-not-found")["detail"]
