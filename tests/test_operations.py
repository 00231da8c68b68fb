"""The table, held row by row."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from tabagent.errors import CATALOGUE
from tabagent.operation import Access, Call, Event, NoParameters, Operation, Reply
from tabagent.services.webrtc import EXAMPLE
from tests.live import CLASSIFIER, EMBEDDER, FAKE, RERANKER, TAGGER, TOKEN, LiveServer, fake_models

# Existing extensions call these: they stay exactly as they are.
KEPT = {
    "chat": "POST /v1/chat/completions",
    "generate": "POST /v1/completions",
    "responses": "POST /v1/responses",
    "embeddings": "POST /v1/embeddings",
    "rerank": "POST /v1/rerank",
    "classify": "POST /v1/classify",
    "entities": "POST /v1/entities",
    "similarity": "POST /v1/similarity",
    "semantic_search": "POST /v1/semantic-search",
    "recommend": "POST /v1/recommend",
    "evaluate_embeddings": "POST /v1/evaluate-embeddings",
    "cluster": "POST /v1/cluster",
    "get_embedding_models": "GET /v1/embedding-models",
    "stop_generation": "POST /v1/generation/stop",
    "get_halt_status": "GET /v1/halt",
    "models": "GET /v1/models",
    "model_info": "GET /v1/models/{model_id}",
    "load_model": "POST /v1/models/load",
    "unload_model": "POST /v1/models/unload",
    "get_loaded_models": "GET /v1/models/loaded",
    "get_model_quants": "GET /v1/models/{repo_id}/quants",
    "pull_model": "POST /v1/pull",
    "delete_model": "POST /v1/delete",
    "set_hf_token": "POST /v1/hf/token",
    "get_hf_token_status": "GET /v1/hf/token/status",
    "clear_hf_token": "DELETE /v1/hf/token",
    "get_registered_models": "GET /v1/models/registered",
    "select_model": "POST /v1/models/select",
    "get_params": "GET /v1/params",
    "set_params": "PUT /v1/params",
    "get_inference_settings": "GET /v1/models/{repo_id}/{variant}/settings",
    "save_inference_settings": "PUT /v1/models/{repo_id}/{variant}/settings",
    "get_resources": "GET /v1/resources",
    "estimate_memory": "POST /v1/resources/estimate",
    "compatibility": "POST /v1/resources/compatibility",
    "check_model_feasibility": "POST /v1/hardware/feasibility",
    "get_hardware_info": "GET /v1/hardware/info",
    "get_recommended_models": "GET /v1/hardware/recommendations",
    "get_recipes": "GET /v1/recipes",
    "get_history": "GET /v1/sessions/{session_id}/history",
    "save_message": "POST /v1/sessions/{session_id}/messages",
    "webrtc_offer": "POST /v1/webrtc/offer",
    "webrtc_answer": "POST /v1/webrtc/answer",
    "webrtc_ice": "POST /v1/webrtc/ice",
    "webrtc_session": "GET /v1/webrtc/session/{session_id}",
    "health": "GET /health",
    "system": "GET /v1/system/info",
    "events": "GET /v1/events",
    "stats": "GET /v1/stats",
    "routes": "GET /v1/routes",
}
GOOD: dict[str, dict[str, Any]] = {
    "chat": {"model": FAKE, "messages": [{"role": "user", "content": "3"}]},
    "generate": {"model": FAKE, "prompt": "3"},
    "responses": {"model": FAKE, "input": "3"},
    "embeddings": {"model": EMBEDDER, "input": "abc"},
    "rerank": {"model": RERANKER, "query": "abc", "documents": ["abc", "d"]},
    "classify": {"model": CLASSIFIER, "input": "abc"},
    "entities": {"model": TAGGER, "input": "abc"},
    "similarity": {"model": EMBEDDER, "texts": ["abc", "d"]},
    "semantic_search": {"model": EMBEDDER, "query": "abc", "texts": ["abc", "d"]},
    "recommend": {"model": EMBEDDER, "liked": ["abc"], "texts": ["abc", "d"]},
    "evaluate_embeddings": {"model": EMBEDDER, "documents": ["abc", "d"]},
    "cluster": {"model": EMBEDDER, "texts": ["abc", "d"]},
    "tokenize": {"model": FAKE, "text": "abc"},
    "detokenize": {"model": FAKE, "tokens": [97, 98]},
    "count_tokens": {"model": FAKE, "text": "abc"},
    "apply_template": {"model": FAKE, "messages": [{"role": "user", "content": "abc"}]},
    "load_model": {"model": FAKE},
    "unload_model": {"model": FAKE},
    "model_info": {"model_id": FAKE},
    "set_hf_token": {"token": "hf_" + "t" * 20},
    "estimate_memory": {"model": FAKE},
    "compatibility": {"models": [FAKE]},
    "check_model_feasibility": {"model": FAKE},
    "events": {"stream": "false"},
    "select_model": {"model": FAKE},
    "set_params": {"params": {}},
    "get_inference_settings": {"repo_id": FAKE, "variant": "default"},
    "save_inference_settings": {"repo_id": FAKE, "variant": "default"},
    "webrtc_offer": {"sdp": EXAMPLE},
    "search_messages": {"query": "abc"},
    "import_session": {
        "data": {"tabagent_session": 1, "messages": [{"role": "user", "content": "abc"}]}
    },
    "get_history": {"session_id": "sess_kept"},
    "list_branches": {"session_id": "sess_kept"},
    "export_session": {"session_id": "sess_kept"},
    "save_message": {"session_id": "sess_kept", "role": "user", "content": "abc"},
    "update_message": {"session_id": "sess_kept", "message_id": "msg_kept", "pinned": True},
    "get_session": {"session_id": "sess_kept"},
    "update_session": {"session_id": "sess_kept", "title": "abc"},
    "delete_session": {"session_id": "sess_gone"},
    "rag": {"query": "abc", "collections": ["kept"], "model": FAKE},
    "add_documents": {"collection": "kept", "documents": [{"text": "abc", "source": "abc"}]},
    "create_collection": {"name": "made", "model": EMBEDDER},
    "rebuild_index": {"name": "kept"},
    "update_collection": {"name": "kept", "description": "abc"},
    "delete_collection": {"name": "gone"},
    "approve_client": {"extension_id": "a" * 32},
    "revoke_client": {"client_id": "b" * 32},
}


HUB = {"get_model_quants", "pull_model", "cancel_pull", "resume_pull", "delete_model"}
"""What needs a hub, or what came from one: tests/hub asks for these."""
UNDER_WAY = {"cancel_job", "resume_generation"}
"""What needs a job or an answer of the caller's: tests/services and test_replays ask for them."""


def table(server: LiveServer) -> list[Operation]:
    return list(server.gateway.dispatcher.operations.values())


def send(server: LiveServer, op: Operation, payload: dict[str, Any], *, owner: bool = True) -> Any:
    client = server.owner if owner else server.client
    method, path = op.routes[0]
    rest = dict(payload)
    if op.name == "pair":  # which is for extensions alone
        origin = "chrome-extension://" + "c" * 32
        return client.post(path, json=rest, headers={"Origin": origin})
    path = re.sub(r"{(\w+)}", lambda found: str(rest.pop(found[1], "none")), path)
    if method == "GET":
        return client.get(path, params=rest)
    return client.request(method, path, json=rest)


def good(server: LiveServer) -> dict[str, dict[str, Any]]:
    """GOOD, and what has to be there before it can be asked for; it may be there already."""

    def made(path: str, body: dict[str, Any]) -> Any:
        response = server.owner.post(path, json=body)
        assert response.status_code in (200, 409), response.text
        return response.json()

    made("/v1/clients", {"extension_id": "b" * 32})
    for session in ("sess_kept", "sess_gone"):
        made("/v1/sessions", {"id": session})
    made("/v1/sessions/sess_kept/messages", {"role": "user", "content": "abc", "id": "msg_kept"})
    for collection in ("kept", "gone", "other"):
        made("/v1/rag/collections", {"name": collection, "model": EMBEDDER})
    place = server.settings.data_dir / "folder"
    place.mkdir(exist_ok=True)
    for collection in ("kept", "other"):
        made("/v1/rag/folders", {"collection": collection, "path": str(place)})
    listed = server.owner.get("/v1/rag/folders").json()["data"]
    folders = {row["collection"]: row["id"] for row in listed}
    jobs = [
        made("/v1/rag/documents", {"collection": "kept", "documents": [{"text": "abc", "source": name}]})
        for name in ("kept", "gone")
    ]  # fmt: skip
    rows = server.owner.get("/v1/rag/documents", params={"collection": "kept"}).json()["data"]
    ids = {row["source"]: row["id"] for row in rows}
    signal = made("/v1/webrtc/offer", {"sdp": EXAMPLE})["session_id"]
    answer = EXAMPLE.replace("actpass", "active")
    return GOOD | {
        "webrtc_answer": {"session_id": signal, "sdp": answer},
        "webrtc_ice": {"session_id": signal, "candidate": None},
        "webrtc_session": {"session_id": signal},
        "add_folder": {"collection": "kept", "path": str(place)},
        "scan_folder": {"folder_id": folders["kept"]},
        "delete_folder": {"folder_id": folders["other"]},
        "get_job": {"job_id": jobs[0]["id"], "stream": "false"},
        "get_document": {"document_id": ids["kept"]},
        "delete_document": {"document_id": ids["gone"]},
        "related": {"kind": "document", "id": ids["kept"]},
    }


def test_the_names_and_paths_that_extensions_call_are_kept(counter: LiveServer) -> None:
    rows = {op.name: " ".join(op.routes[0]) for op in table(counter)}
    assert {name: rows.get(name) for name in KEPT} == KEPT


def test_every_operation_is_documented_and_has_its_own_path(counter: LiveServer) -> None:
    seen: set[tuple[str, str]] = set()
    for op in table(counter):
        assert inspect.getdoc(op.handler), op.name
        assert op.summary.endswith("."), op.name
        assert inspect.getdoc(op.request) and inspect.getdoc(op.reply), op.name
        assert not seen & set(op.routes), op.name
        seen |= set(op.routes)
        assert all(error.slug in CATALOGUE for error in op.errors)


def test_every_operation_answers_over_http(tmp_path: Any) -> None:
    with LiveServer(tmp_path, extra=fake_models()) as server:
        payloads = good(server)
        for op in table(server):
            if op.name in HUB | UNDER_WAY:
                continue
            payload = payloads.get(op.name, {})
            response = send(server, op, payload)
            assert response.status_code == 200, (op.name, response.text)
            op.reply.model_validate(response.json())
            for method, path in op.routes[1:]:
                if "{" not in path and op.name != "unload_model":
                    again = server.owner.request(
                        method, path, json=payload if method == "POST" else None
                    )
                    assert again.status_code == 200, (op.name, path, again.text)


def test_admin_operations_want_the_owners_token(counter: LiveServer) -> None:
    payloads = good(counter)
    for op in table(counter):
        if op.name in HUB | UNDER_WAY and op.access is not Access.ADMIN:
            continue
        response = send(counter, op, payloads.get(op.name, {}), owner=False)
        expected = 401 if op.access is Access.ADMIN else 200
        assert response.status_code == expected, (op.name, response.text)


def test_without_a_token_only_public_operations_answer_when_all_need_one(tmp_path: Any) -> None:
    with LiveServer(tmp_path, extra=fake_models(), auth="always") as server:
        for op in table(server):
            response = send(server, op, GOOD.get(op.name, {}), owner=False)
            if op.access is Access.PUBLIC:
                assert response.status_code == 200
            else:
                assert response.status_code == 401, op.name
                assert response.headers["www-authenticate"] == "Bearer"
                assert response.json()["code"] == "unauthorized"
        wrong = server.client.get("/v1/models", headers={"Authorization": "Bearer " + "x" * 32})
        assert wrong.status_code == 401
        right = server.client.get("/v1/models", headers={"Authorization": f"bearer {TOKEN}"})
        assert right.status_code == 200


@pytest.mark.parametrize("nonsense", [{"nobody_knows": 1}, {"model": 7, "messages": 1, "text": 1}])
def test_every_operation_refuses_nonsense(counter: LiveServer, nonsense: dict[str, Any]) -> None:
    for op in table(counter):
        response = send(counter, op, nonsense)
        assert 400 <= response.status_code < 500, (op.name, response.text)
        body = response.json()
        assert body["code"] in ("invalid-request", "model-not-found"), op.name
        assert body["error"]["message"] == body["detail"]
        if body["code"] == "invalid-request":
            assert all(entry["pointer"].startswith("/") for entry in body["errors"]), op.name


def test_routes_lists_the_whole_table(counter: LiveServer) -> None:
    rows = counter.client.get("/v1/routes").json()["routes"]
    assert {(r["route"], r["method"], r["path"]) for r in rows} == {
        (op.name, method, path) for op in table(counter) for method, path in op.routes
    }
    streaming = {
        "chat", "generate", "responses", "pull_model", "events", "rag", "add_documents",
        "add_folder", "scan_folder", "get_job", "resume_generation",
    }  # fmt: skip
    assert {r["route"] for r in rows if r["streams"]} == streaming


class Thing(Reply):
    """A reply."""

    n: int


async def plain(request: NoParameters, call: Call) -> Thing:
    """Say nothing."""
    return Thing(n=1)


async def streamed(request: NoParameters, call: Call) -> AsyncGenerator[Thing, None]:
    """Say nothing, often."""
    yield Thing(n=1)


async def fold(things: AsyncIterator[Thing]) -> Thing:
    return [thing async for thing in things][-1]


def test_types_are_read_from_the_signature() -> None:
    row = Operation("x", "GET /x", streamed, collect=fold)
    assert (row.request, row.event, row.reply) == (NoParameters, Thing, Thing)
    assert row.streams


class Said(Event):
    """An event that writes itself."""

    documented_as = Thing

    def encode(self) -> bytes:
        return b'{"n": 1}'


async def written(request: NoParameters, call: Call) -> AsyncGenerator[Said, None]:
    """Say nothing, cheaply."""
    yield Said()


def test_an_event_that_writes_itself_is_documented_as_what_it_says() -> None:
    assert Operation("x", "GET /x", written, collect=fold).event is Thing


def test_a_stream_without_a_fold_is_refused_when_the_table_is_built() -> None:
    with pytest.raises(TypeError, match="collect"):
        Operation("x", "GET /x", streamed)
    with pytest.raises(TypeError, match="collect"):
        Operation("x", "GET /x", plain, collect=fold)
