"""POST /v1/embeddings as clients use it, on small models in real workers."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import openai
import pytest

from tabagent.catalog.models import BUILTIN
from tabagent.catalog.models import EMBEDDER as EMBEDDER_BUILT_IN
from tests.live import EMBEDDER, RERANKER, TOKEN, LiveServer, eventually, fake_models
from tests.worker.gguf.pooling_driver import cosines, peer_of
from tests.worker.tiny_pooling import RANK, write_bert, write_qwen

BERT, QWEN = "local/bert", "local/qwen"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    place = tmp_path_factory.mktemp("embeddings")
    models = place / "models"
    models.mkdir()
    write_bert(models / "bert.gguf")
    write_qwen(models / "qwen.gguf")
    write_bert(models / "ranker.gguf", pooling=RANK, head=True)
    write_bert(models / "sick.gguf", sick="cat")
    write_bert(models / "broken.gguf", broken=True)
    with LiveServer(place) as live:
        yield live


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="local", max_retries=0) as made:
        yield made


def embed(server: LiveServer, text: Any, model: str | None = BERT, **more: Any) -> httpx.Response:
    body = {"input": text, **more}
    return server.client.post(
        "/v1/embeddings", json=body if model is None else {"model": model, **body}
    )


def vectors(response: httpx.Response) -> npt.NDArray[np.float64]:
    assert response.status_code == 200, response.text
    data = response.json()["data"]
    assert [entry["index"] for entry in data] == list(range(len(data)))
    return np.array([entry["embedding"] for entry in data])


def problem(response: httpx.Response, slug: str, pointer: str | None = None) -> dict[str, Any]:
    document: dict[str, Any] = response.json()
    assert document.get("code") == slug, document
    if pointer is not None:
        assert pointer in [entry["pointer"] for entry in document["errors"]], document
    return document


# ---- what clients do ----------------------------------------------------------------------------
def test_the_openai_client_gets_what_another_program_computes(
    server: LiveServer, client: openai.OpenAI
) -> None:
    texts = ["the cat sat", "green river", "dog " * 300]
    path = server.settings.models_path / "bert.gguf"
    with peer_of(path, "mean") as peer:
        expected = peer.vectors(texts)
    answer = client.embeddings.create(model=BERT, input=texts)  # base64 by default
    assert answer.model == BERT
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 5 + 4 + 302
    assert cosines(np.array([e.embedding for e in answer.data]), expected).min() > 0.9999
    assert np.linalg.norm(answer.data[0].embedding) == pytest.approx(1, abs=1e-6)
    one = client.embeddings.create(model=BERT, input="the cat sat", encoding_format="float")
    assert cosines(np.array(one.data[0].embedding), expected[0]) > 0.9999


def test_base64_and_floats_are_the_same_numbers(server: LiveServer) -> None:
    texts = [f"the cat {'sat ' * n}" for n in range(20)]
    floats = vectors(embed(server, texts))
    data = embed(server, texts, encoding_format="base64").json()["data"]
    for row, entry in zip(floats, data, strict=True):
        raw = base64.b64decode(entry["embedding"], validate=True)
        assert np.array_equal(np.frombuffer(raw, "<f4"), row.astype(np.float32))


def test_256_texts_come_back_in_order(server: LiveServer, client: openai.OpenAI) -> None:
    texts = [f"the dog {'tree ' * (n * 7 % 50)}" for n in range(256)]
    answer = client.embeddings.create(model=BERT, input=texts)
    assert [entry.index for entry in answer.data] == list(range(256))
    for index in (0, 3, 100, 255):
        alone = vectors(embed(server, texts[index]))[0]
        assert cosines(np.array(answer.data[index].embedding), alone) > 0.99999
    refused = problem(embed(server, [*texts, "one more"]), "invalid-request", "/input")
    assert "256" in refused["detail"]


def test_fewer_dimensions_on_request(server: LiveServer, client: openai.OpenAI) -> None:
    whole = vectors(embed(server, "the cat"))[0]
    cut = client.embeddings.create(model=BERT, input="the cat", dimensions=16).data[0].embedding
    assert len(cut) == 16
    assert cosines(np.array(cut), whole[:16]) > 0.999999
    assert np.linalg.norm(cut) == pytest.approx(1, abs=1e-6)
    problem(embed(server, "the cat", dimensions=65), "invalid-request", "/dimensions")
    problem(embed(server, "the cat", dimensions=0), "invalid-request", "/dimensions")


def test_a_causal_model_embeds_too(server: LiveServer) -> None:
    texts = ["the cat", "the dog is on. " * 60]
    found = vectors(embed(server, texts, QWEN))
    with peer_of(server.settings.models_path / "qwen.gguf", "last") as peer:
        expected = peer.vectors(texts)
    assert cosines(found, expected).min() > 0.999


def test_without_a_model_one_that_makes_embeddings_answers(server: LiveServer) -> None:
    response = embed(server, "the cat", None)
    assert response.json()["model"] == BERT
    assert vectors(response).shape == (1, 64)


def test_many_callers_of_one_text_each_get_their_own(server: LiveServer) -> None:
    texts = [f"{'cat ' * n}on the mat" for n in range(24)]
    alone = vectors(embed(server, texts))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: vectors(embed(server, text))[0], texts))
    assert cosines(np.array(found), alone).min() > 0.99999


def test_models_that_embed_are_listed_with_their_width(server: LiveServer) -> None:
    embed(server, "a")
    rows = {row["id"]: row for row in server.client.get("/v1/embedding-models").json()["data"]}
    assert set(rows) == {EMBEDDER_BUILT_IN, BERT, QWEN, "local/sick", "local/broken"}
    assert (rows[BERT]["dimensions"], rows[BERT]["pooling"], rows[BERT]["loaded"]) == (
        64,
        "mean",
        True,
    )
    info = server.client.get(f"/v1/models/{BERT}").json()
    assert (info["task"], info["dimensions"]) == ("embedding", 64)
    assert [able for able, has in info["capabilities"].items() if has] == ["embeddings"]


# ---- what is refused, and harms nobody ----------------------------------------------------------
def test_token_arrays_are_refused_with_the_way_out(
    server: LiveServer, client: openai.OpenAI
) -> None:
    arrays: list[Any] = [[[1, 2, 3]], [1, 2, 3], [[]]]
    for tokens in arrays:
        refused = problem(embed(server, tokens), "invalid-request", "/input")
        assert "check_embedding_ctx_length=False" in refused["detail"]
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        client.embeddings.create(model=BERT, input=[[9906, 1917]])


@pytest.mark.parametrize(
    ("body", "slug", "pointer"),
    [
        ({"input": ""}, "invalid-request", "/input"),
        ({"input": []}, "invalid-request", "/input"),
        ({"input": ["a", "", "b"]}, "invalid-request", "/input/1"),
        ({"input": ["a", None]}, "invalid-request", "/input/1"),
        ({"input": 7}, "invalid-request", "/input"),
        ({"input": None}, "invalid-request", "/input"),
        ({}, "invalid-request", "/input"),
        ({"input": "a", "encoding_format": "int8"}, "invalid-request", "/encoding_format"),
        ({"input": "a", "truncate": "start"}, "invalid-request", "/truncate"),
        ({"input": "a", "dimensions": "8"}, "invalid-request", "/dimensions"),
        ({"input": "a", "input_type": "query"}, "invalid-request", "/input_type"),
        ({"input": "the " * 2000}, "context-length-exceeded", "/input"),
        ({"input": ["a", "the " * 2000]}, "context-length-exceeded", "/input/1"),
        ({"input": ["the " * 1000] * 70}, "invalid-request", "/input"),
    ],
)
def test_bad_input_is_a_problem_that_points_at_it(
    server: LiveServer, body: dict[str, Any], slug: str, pointer: str | None
) -> None:
    embed(server, "a")
    worker = server.worker(BERT).pid
    found = problem(
        server.client.post("/v1/embeddings", json={"model": BERT, **body}), slug, pointer
    )
    assert found["status"] == 400
    if slug == "context-length-exceeded":
        assert (found["prompt_tokens"], found["context_length"]) == (2002, 1024)
    assert vectors(embed(server, "the cat")).shape == (1, 64)
    assert server.worker(BERT).pid == worker


def test_a_text_may_be_cut_when_the_request_says_so(server: LiveServer) -> None:
    response = embed(server, ["a", "the " * 2000], truncate="end")
    assert response.json()["usage"]["prompt_tokens"] == 3 + 1024
    whole = vectors(embed(server, "the " * 1022))[0]
    assert cosines(vectors(response)[1], whole) > 0.99999


def test_one_sick_text_fails_its_request_alone(server: LiveServer) -> None:
    found = problem(
        embed(server, ["the dog", "the cat"], "local/sick"), "model-corrupt", "/input/1"
    )
    assert str(server.settings.data_dir) not in json.dumps(found)
    assert np.isfinite(vectors(embed(server, "the dog", "local/sick"))).all()


def test_a_file_of_which_the_engine_dies_is_a_corrupt_model(server: LiveServer) -> None:
    found = problem(embed(server, "a", "local/broken"), "model-corrupt")
    assert found["check"] == "engine"
    assert server.loaded("local/broken") == {}


def test_models_for_something_else_are_refused_by_name(server: LiveServer) -> None:
    chat = problem(embed(server, "a", BUILTIN), "wrong-model-task")
    assert "/v1/embedding-models" in chat["detail"]
    problem(embed(server, "a", "local/ranker"), "wrong-model-task")
    message = [{"role": "user", "content": "a"}]
    for model in (BERT, "local/ranker"):
        body = {"model": model, "messages": message}
        problem(server.client.post("/v1/chat/completions", json=body), "wrong-model-task")
    problem(embed(server, "a", "no/such"), "model-not-found")


def test_tokens_of_an_embedding_model_can_be_counted(server: LiveServer) -> None:
    body = {"model": BERT, "text": "the cat sat"}
    count = server.client.post("/v1/count-tokens", json=body).json()
    assert (count["count"], count["context_length"]) == (3, 1024)


def test_loading_says_what_it_will_read(server: LiveServer) -> None:
    body = {"model": BERT, "n_ctx": 300, "force_reload": True}
    assert server.owner.post("/v1/models/load", json=body).json()["n_ctx"] == 300
    found = problem(embed(server, "the " * 400), "context-length-exceeded", "/input")
    assert found["context_length"] == 300
    body = {"model": BERT, "n_ctx": 9000, "force_reload": True}
    assert server.owner.post("/v1/models/load", json=body).json()["n_ctx"] == 1024


# ---- the queue and hang-ups, on the fake engine -------------------------------------------------
def test_without_another_the_built_in_embedder_answers(tmp_path: Path) -> None:
    with LiveServer(tmp_path) as server:
        assert embed(server, "a", None).json()["model"] == EMBEDDER_BUILT_IN


def test_a_setting_that_names_no_model_is_the_problem(tmp_path: Path) -> None:
    with LiveServer(tmp_path, embedding_model="maker/gone") as server:
        found = problem(embed(server, "a", None), "embedding-model-not-available")
        assert found["status"] == 503
        assert "maker/gone" in found["detail"]
        assert embed(server, "a", EMBEDDER_BUILT_IN).status_code == 200


def start(server: LiveServer, path: str, body: dict[str, Any]) -> socket.socket:
    """A request on a connection of its own, not waited for."""
    connection = socket.create_connection(("127.0.0.1", server.gateway.port))
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.gateway.port}\r\n"
        f"Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    connection.sendall(head.encode() + data)
    return connection


SLOW = {
    "/v1/embeddings": {"model": EMBEDDER, "input": ["sleep"] * 200},
    "/v1/rerank": {"model": RERANKER, "query": "a", "documents": ["sleep"] * 200},
}


@pytest.mark.parametrize("path", SLOW)
def test_hanging_up_ends_the_work_at_once(tmp_path: Path, path: str) -> None:
    with LiveServer(tmp_path, extra=fake_models()) as server:
        model = SLOW[path]["model"]
        assert isinstance(model, str)
        connection = start(server, path, SLOW[path])
        eventually(lambda: server.loaded(model).get("slots_used") == 1)
        worker = server.worker(model).pid
        connection.close()
        eventually(lambda: server.idle(model), 1)
        assert server.worker(model).pid == worker


@pytest.mark.parametrize("path", SLOW)
def test_too_many_at_once_are_turned_away(tmp_path: Path, path: str) -> None:
    with LiveServer(tmp_path, extra=fake_models(), slots=1, queue_size=1) as server:
        held = [start(server, path, SLOW[path]) for _ in range(2)]
        model = SLOW[path]["model"]
        assert isinstance(model, str)
        eventually(lambda: server.loaded(model).get("slots_used") == 2)
        response = server.client.post(path, json=SLOW[path])
        refused = problem(response, "queue-full")
        assert refused["queue_length"] == 1
        assert int(response.headers["retry-after"]) >= 1
        for connection in held:
            connection.close()
        eventually(lambda: server.idle(model))
        quick = {**SLOW[path], "input": "a"} if "input" in SLOW[path] else None
        if quick:
            assert server.client.post(path, json=quick).status_code == 200


def test_what_takes_too_long_is_given_up(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=fake_models(), generation_s=0.3) as server:
        response = server.client.post("/v1/embeddings", json=SLOW["/v1/embeddings"])
        assert problem(response, "generation-timeout")["status"] == 504
        eventually(lambda: server.idle(EMBEDDER), 1)


def test_a_worker_that_dies_is_an_error_and_another_takes_over(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=fake_models()) as server:
        body = SLOW["/v1/embeddings"]
        answers: list[httpx.Response] = []
        thread = threading.Thread(
            target=lambda: answers.append(server.owner.post("/v1/embeddings", json=body))
        )
        thread.start()
        eventually(lambda: server.loaded(EMBEDDER).get("slots_used") == 1)
        began = time.monotonic()
        server.worker(EMBEDDER).kill()
        thread.join()
        assert time.monotonic() - began < 5
        assert problem(answers[0], "worker-crashed")["signal"] == "SIGKILL"
        assert embed(server, "a", EMBEDDER).status_code == 200
