"""Every problem that this version can answer with, produced by a request.

The catalogue is whole from the start; what no operation can cause yet is listed by name, so that a
new operation has to take its problems off that list.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tabagent.app import GUIDE
from tabagent.catalog.models import BUILTIN
from tabagent.errors import CATALOGUE
from tests.catalog.gguf_files import basics, gguf, small_tensors
from tests.live import FAKE, LiveServer, chat_body, eventually, fake_model
from tests.transports.test_http import start_chat

NOT_YET = {
    "pull-in-progress",
    "document-unreadable",
    "url-not-allowed",
    "model-source-invalid",
    "index-rebuilding",
}
# Produced where the means are: by the dispatcher alone, by a worker that cannot allocate, or over
# another transport.
ELSEWHERE = {
    "access-denied": "tests/hub/test_repository.py",
    "pairing-required": "tests/services/test_clients.py",
    "not-available-here": "tests/hub/test_pulls.py",
    "checksum-mismatch": "tests/hub/test_pulls.py",
    "upstream-unreachable": "tests/hub/test_download.py",
    "upstream-invalid": "tests/hub/test_download.py",
    "insufficient-storage": "tests/hub/test_pulls.py",
    "database-busy": "tests/stores/test_database.py",
    "gone": "tests/test_replays.py",
    "uri-too-long": "tests/transports/test_protocol.py",
    "headers-too-large": "tests/transports/test_protocol.py",
    "internal-error": "tests/test_dispatcher.py",
    "server-unreachable": "tests/native_host",
    "out-of-memory": "tests/worker/gguf",
    "request-timeout": "tests/transports/test_http.py",
    "model-crash-loop": "tests/engine/test_supervisor.py",
}

Make = Callable[[LiveServer], httpx.Response]


def post(path: str, body: Any, **headers: str) -> Make:
    return lambda s: s.owner.post(path, json=body, headers=headers)


def raw(content: bytes, kind: str = "application/json") -> Make:
    return lambda s: s.client.post("/v1/tokenize", content=content, headers={"Content-Type": kind})


def chat(text: str, model: str = FAKE, **more: Any) -> Make:
    return post("/v1/chat/completions", chat_body(text, model, **more))


def busy(server: LiveServer) -> httpx.Response:
    with start_chat(server, "1000 sleep", stream=True) as held:
        held.recv(1000)
        return server.owner.post("/v1/models/unload", json={"model": FAKE})


def full(server: LiveServer) -> httpx.Response:
    held = [start_chat(server, "1000 sleep", model="fake/one") for _ in range(2)]
    eventually(lambda: server.loaded("fake/one").get("queue") == 1)
    response = server.chat("1", "fake/one")
    for connection in held:
        connection.close()
    return response


def draining(server: LiveServer) -> httpx.Response:
    server.gateway.dispatcher.draining = True
    try:
        return server.chat("1")
    finally:
        server.gateway.dispatcher.draining = False


def waited_too_long(server: LiveServer) -> httpx.Response:
    """The real engine, one slot, and somebody in it."""
    server.owner.post("/v1/models/load", json={"model": BUILTIN, "slots": 1, "force_reload": True})
    with start_chat(
        server, "Hello", model=None, stream=True, ignore_eos=True, max_tokens=2000
    ) as held:
        held.recv(1000)
        return server.chat("Hello", None)


def loading_too_long(_: LiveServer) -> httpx.Response:
    with (
        tempfile.TemporaryDirectory() as place,
        LiveServer(Path(place), extra=[fake_model(path="/slow")], load_s=0.2) as server,
    ):
        return server.chat("1")


def no_embedder(_: LiveServer) -> httpx.Response:
    with (
        tempfile.TemporaryDirectory() as place,
        LiveServer(Path(place), embedding_model="no/such") as server,
    ):
        return server.client.post("/v1/embeddings", json={"input": "1"})


def one_wrong_token_too_many(_: LiveServer) -> httpx.Response:
    with (
        tempfile.TemporaryDirectory() as place,
        LiveServer(Path(place), auth="always") as server,
    ):
        for number in range(20):
            assert guess(server, number).status_code == 401
        return guess(server, 21)


def guess(server: LiveServer, number: int) -> httpx.Response:
    headers = {"Authorization": f"Bearer {number:032}"}
    return server.client.get("/v1/models", headers=headers)


PRODUCED: dict[str, Make] = {
    "embedding-model-not-available": no_embedder,
    "malformed-request": raw(b"{"),
    "invalid-request": chat("1", temperature=9),
    "unsupported-parameter": chat("1", functions=[{}]),
    "context-length-exceeded": chat("x" * 5000),
    "unauthorized": lambda s: s.client.post("/v1/models/load", json={"model": FAKE}),
    "origin-not-allowed": lambda s: s.client.get(
        "/health", headers={"Origin": "https://x.example"}
    ),
    "host-not-allowed": lambda s: s.client.get("/health", headers={"Host": "x.example"}),
    "feature-disabled": chat("1", grammar='root ::= "a"'),
    "not-found": lambda s: s.client.get("/none"),
    "model-not-found": chat("1", "no/such"),
    "request-not-found": post("/v1/halt", {"request_id": "none"}),
    "session-not-found": chat("1", session_id="sess_none"),
    "collection-not-found": post("/v1/rag/collections/none/rebuild", {}),
    "document-not-found": lambda s: s.client.get("/v1/rag/documents/doc_none"),
    "peer-not-found": lambda s: s.client.get("/v1/webrtc/session/rtc_none"),
    "response-not-found": post(
        "/v1/responses", {"model": FAKE, "input": "1", "previous_response_id": "resp_1"}
    ),
    "method-not-allowed": lambda s: s.client.get("/v1/chat/completions"),
    "not-available-here": post("/v1/models/load", {"model": FAKE, "device": "sycl"}),
    "conflict": post("/v1/models/load", {"model": FAKE, "slots": 3}),
    "model-busy": busy,
    "queue-full": full,
    "rate-limited": one_wrong_token_too_many,
    "payload-too-large": raw(b'{"text": "' + b"x" * 20_000 + b'"}'),
    "unsupported-media-type": raw(b"text=1", "text/plain"),
    "grammar-invalid": chat(
        "1",
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "martian"}},
        },
    ),
    "chat-template-rejected": chat("1", "local/picky"),
    "model-corrupt": post("/v1/models/load", {"model": "local/corrupt"}),
    "unsupported-model": post("/v1/models/load", {"model": "local/foreign"}),
    "wrong-model-task": chat("1", "fake/base"),
    "model-not-loaded": post("/v1/models/unload", {"model": "fake/base"}),
    "model-loading": loading_too_long,
    "queue-timeout": waited_too_long,
    "worker-crashed": chat("9 exit"),
    "shutting-down": draining,
    "generation-timeout": chat("1000 sleep"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place: Path = tmp_path_factory.mktemp("problems")
    (place / "models").mkdir()
    (place / "models" / "corrupt.gguf").write_bytes(b"nothing")
    (place / "models" / "foreign.gguf").write_bytes(gguf(basics("martian"), small_tensors()))
    guide = GUIDE.read_bytes()
    at = guide.index(b"{%", guide.index(b"tokenizer.chat_template"))
    refusal = b"{{ raise_exception('I only chat on Sundays') }}"
    picky = guide[:at] + refusal + guide[at + len(refusal) :]
    (place / "models" / "picky.gguf").write_bytes(picky)
    models = [
        fake_model(),
        fake_model("fake/base", task="completion"),
        fake_model("fake/one"),
    ]
    with LiveServer(
        place,
        extra=models,
        body_limit=16_384,
        slots=1,
        queue_size=1,
        queue_wait_s=0.3,
        generation_s=1.5,
    ) as live:
        for model in (FAKE, "fake/one"):
            live.owner.post("/v1/models/load", json={"model": model})
        yield live


@pytest.mark.parametrize("slug", PRODUCED)
def test_a_problem_is_what_the_catalogue_says(server: LiveServer, slug: str) -> None:
    response = PRODUCED[slug](server)
    error = CATALOGUE[slug]
    body = response.json()
    assert body["code"] == slug, body
    assert response.status_code == error.status == body["status"]
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-should-retry"] == json.dumps(error.retryable)
    assert body["instance"] == f"urn:uuid:{response.headers['x-request-id']}"
    assert body["error"]["message"] == body["detail"]
    assert body["error"]["code"] == slug
    assert server.client.get(body["type"]).headers["content-type"].startswith("text/html")
    text = json.dumps(body)
    assert str(server.settings.data_dir) not in text
    assert "Traceback" not in body["detail"]


def test_every_problem_is_produced_or_known_to_be_out_of_reach() -> None:
    assert set(PRODUCED) | set(ELSEWHERE) | NOT_YET == set(CATALOGUE)
    assert not set(PRODUCED) & NOT_YET
