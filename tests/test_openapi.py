"""The OpenAPI document against its specification, the table, and a server that really answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # ships no types
from openapi_spec_validator import OpenAPIV31SpecValidator

from tabagent.app import GUIDE, api_description
from tabagent.catalog.models import BUILTIN
from tabagent.errors import CATALOGUE, Conflict
from tabagent.openapi import document
from tabagent.operation import Access, Call, Operation, Reply, Request
from tabagent.services.webrtc import EXAMPLE
from tests.hub.fake_hub import FakeHub
from tests.hub.fake_hub import Reply as Gone
from tests.live import EMBEDDER, TOKEN, LiveServer, fake_models

COMMITTED = Path(__file__).parent.parent / "openapi" / "openapi.json"
DOCUMENT: dict[str, Any] = api_description()
ENTRIES: list[tuple[str, str, dict[str, Any]]] = [
    (method.upper(), path, entry)
    for path, methods in DOCUMENT["paths"].items()
    for method, entry in methods.items()
]
each_entry = pytest.mark.parametrize(
    ("method", "path", "entry"), ENTRIES, ids=[entry["operationId"] for _, _, entry in ENTRIES]
)
# The fake engine's tokens are bytes; the example's are the built-in model's.
FOR_THE_FAKE: dict[str, dict[str, Any]] = {"detokenize": {"tokens": [72, 105]}}


LOST = "model-Q8_0.gguf"  # which the hub lists and has no longer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The fake engine under the name that the examples use, and a hub with the one they pull."""
    place = tmp_path_factory.mktemp("openapi")
    with (
        FakeHub(
            dict.fromkeys(("model-Q4_K_M.gguf", LOST), GUIDE.read_bytes()), "owner/repo"
        ) as hub,
        LiveServer(
            place,
            extra=fake_models(BUILTIN),
            body_limit=16384,
            upload_limit=1024,
            hub_endpoint=hub.url,
        ) as running,
    ):
        hub.misbehave = lambda asked, body: Gone(404) if LOST in asked.path else None
        assert running.owner.post("/v1/pull", json={"model": "owner/repo:Q8_0"}).status_code == 404
        yield running


@pytest.fixture(scope="module")
def table(server: LiveServer) -> list[Operation]:
    return list(server.gateway.dispatcher.operations.values())


def primary(entry: dict[str, Any]) -> str:
    """The operation's name, also of an alias."""
    return re.sub(r"_\d+$", "", entry["operationId"])


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` without room for what it does not name: what we send must be documented."""
    named = "properties" in schema and "additionalProperties" not in schema
    return {**schema, "additionalProperties": False} if named else schema


CLOSED = {name: closed(schema) for name, schema in DOCUMENT["components"]["schemas"].items()}


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    """For a schema of the document, whose references stay as they are."""
    return Draft202012Validator(
        {**schema, "components": {"schemas": CLOSED}},
        format_checker=Draft202012Validator.FORMAT_CHECKER,
    )


def content(entry: dict[str, Any], response: httpx.Response) -> dict[str, Any]:
    """What the document says of this response's status and type."""
    declared = entry["responses"].get(str(response.status_code))
    assert declared, (entry["operationId"], response.status_code, response.text)
    kind = response.headers["content-type"].partition(";")[0]
    schema: dict[str, Any] = declared["content"][kind]["schema"]
    return schema


def example(entry: dict[str, Any]) -> dict[str, Any]:
    """The prefilled request: body, path and query together."""
    values = {p["name"]: p["example"] for p in entry["parameters"] if "example" in p}
    if "requestBody" in entry:
        values |= entry["requestBody"]["content"]["application/json"]["example"]
    return values


def send(
    client: httpx.Client, method: str, path: str, values: dict[str, Any], **more: Any
) -> httpx.Response:
    rest = dict(values)
    if path == "/v1/pair":  # which is for extensions alone
        more["headers"] = {"Origin": "chrome-extension://" + "c" * 32}
    path = re.sub(r"{(\w+)}", lambda found: str(rest.pop(found[1], "none")), path)
    if method == "GET":
        return client.get(path, params=rest, **more)
    return client.request(method, path, json=rest, **more)


# ---- the document by itself ----------------------------------------------------------------------
def test_it_is_openapi_3_1() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_the_committed_file_is_current() -> None:
    assert json.loads(COMMITTED.read_text()) == DOCUMENT, "run: make openapi"


def test_every_operation_is_in_it_and_nothing_else(table: list[Operation]) -> None:
    rows = {
        (method, path, op.name if position == 0 else f"{op.name}_{position + 1}")
        for op in table
        for position, (method, path) in enumerate(op.routes)
    }
    assert {(method, path, entry["operationId"]) for method, path, entry in ENTRIES} == rows
    assert {entry["x-access"] for _, _, entry in ENTRIES} == {"public", "user", "admin"}


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    references: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                references.add(node["$ref"])
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(DOCUMENT)
    assert references == {
        f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]
    }


def test_every_schema_and_operation_says_what_it_is() -> None:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        assert schema.get("description"), f"{name} has no docstring"
    for _, _, entry in ENTRIES:
        assert entry["summary"].endswith("."), entry["operationId"]
    assert [tag["name"] for tag in DOCUMENT["tags"] if not tag["description"].endswith(".")] == []
    used = {tag for _, _, entry in ENTRIES for tag in entry["tags"]}
    assert used == {tag["name"] for tag in DOCUMENT["tags"]}


def test_every_problem_it_names_is_in_the_catalogue() -> None:
    named = set(re.findall(r"/problems/([a-z-]+)", json.dumps(DOCUMENT)))
    assert named <= set(CATALOGUE)
    for _, _, entry in ENTRIES:
        for status, response in entry["responses"].items():
            for slug in re.findall(r"/problems/([a-z-]+)", response["description"]):
                assert CATALOGUE[slug].status == int(status), slug


@each_entry
def test_every_example_fits_its_schema_and_its_type(
    table: list[Operation], method: str, path: str, entry: dict[str, Any]
) -> None:
    operation = next(op for op in table if op.name == primary(entry))
    operation.request.model_validate(example(entry))
    for parameter in entry["parameters"]:
        if parameter["required"] or "example" in parameter:
            validator(parameter["schema"]).validate(parameter["example"])
    if "requestBody" in entry:
        body = entry["requestBody"]["content"]["application/json"]
        validator(body["schema"]).validate(body["example"])


def test_examples_keep_the_order_they_were_written_in() -> None:
    body = DOCUMENT["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    assert next(iter(body["content"]["application/json"]["example"])) == "messages"


def test_who_may_call_is_told() -> None:
    for _, _, entry in ENTRIES:
        expected: dict[str, Any] = {
            "public": [],
            "user": [{}, {"token": []}],
            "admin": [{"token": []}],
        }
        assert entry["security"] == expected[entry["x-access"]], entry["operationId"]
        assert "401" in entry["responses"]


class Room(Request):
    """A room and what to do in it."""

    model_config = {"json_schema_extra": {"examples": [{"room": "a/b", "colour": "red"}]}}

    room: str
    colour: str
    loud: bool = False


class Done(Reply):
    """What was done."""

    ok: bool


async def paint(request: Room, call: Call) -> Done:
    """Paint a room."""
    return Done(ok=True)


def test_a_value_in_the_path_is_not_asked_for_in_the_body() -> None:
    made = document([Operation("paint", "PUT /rooms/{room}", paint, Access.ADMIN, (Conflict,))])
    entry = made["paths"]["/rooms/{room}"]["put"]
    assert [(p["name"], p["in"], p["example"]) for p in entry["parameters"]] == [
        ("room", "path", "a/b")
    ]
    body = entry["requestBody"]["content"]["application/json"]
    assert body["example"] == {"colour": "red"}
    assert body["schema"]["required"] == ["colour"]
    assert set(body["schema"]["properties"]) == {"colour", "loud"}
    assert body["schema"]["additionalProperties"] is False
    assert entry["requestBody"]["required"] is True
    assert "409" in entry["responses"]
    OpenAPIV31SpecValidator(made).validate()


def test_a_get_asks_for_its_values_in_path_and_query() -> None:
    entry = document([Operation("paint", "GET /rooms/{room}", paint)])["paths"]["/rooms/{room}"][
        "get"
    ]
    assert "requestBody" not in entry
    assert [(p["name"], p["in"], p["required"]) for p in entry["parameters"]] == [
        ("room", "path", True),
        ("colour", "query", True),
        ("loud", "query", False),
    ]


# ---- the document and a server that answers ------------------------------------------------------
def made(server: LiveServer, path: str, body: dict[str, Any]) -> Any:
    response = server.owner.post(path, json=body)
    assert response.status_code in (200, 409), response.text
    return response.json()


def a_session(server: LiveServer) -> dict[str, Any]:
    """The session and the message of the examples."""
    made(server, "/v1/sessions", {"id": "sess_1"})
    made(server, "/v1/sessions/sess_1/messages", {"id": "msg_1", "role": "user", "content": "Hi"})
    return {}


def documents(server: LiveServer, said: str = "Soup boils.", count: int = 1) -> Any:
    """A job that takes some in; with the word `sleep` in them it goes on for a while."""
    made(server, "/v1/rag/collections", {"name": "examples", "model": EMBEDDER})
    texts = [{"text": f"{said} {n}", "source": f"{said[:5]}{n}"} for n in range(count)]
    body = {"collection": "examples", "documents": texts, "wait": count == 1}
    return made(server, "/v1/rag/documents", body)


def a_document(server: LiveServer) -> str:
    documents(server)
    listed = server.client.get("/v1/rag/documents", params={"collection": "examples"}).json()
    id_: str = listed["data"][0]["id"]
    return id_


def a_place(server: LiveServer) -> str:
    place = server.settings.data_dir / "notes"
    place.mkdir(exist_ok=True)
    return str(place)


def a_folder(server: LiveServer) -> dict[str, Any]:
    documents(server)
    made(server, "/v1/rag/folders", {"collection": "examples", "path": a_place(server)})
    return {"folder_id": server.owner.get("/v1/rag/folders").json()["data"][0]["id"]}


def a_pull(server: LiveServer) -> dict[str, Any]:
    """The one that failed."""
    return {"id": server.client.get("/v1/pulls").json()["data"][0]["id"]}


def a_signal(server: LiveServer) -> dict[str, Any]:
    """An offer that waits for its answer."""
    return {"session_id": made(server, "/v1/webrtc/offer", {"sdp": EXAMPLE})["session_id"]}


def an_answer(server: LiveServer) -> dict[str, Any]:
    """One that was not asked for as a stream, and is kept."""
    body = {"messages": [{"role": "user", "content": "3"}], "detach": True, "max_tokens": 4}
    response = server.owner.post("/v1/chat/completions", json=body)
    return {"request_id": response.headers["x-request-id"], "stream": False}


# What has to be there before an operation can be asked, and what it is then asked with.
MADE: dict[str, Callable[[LiveServer], dict[str, Any]]] = {
    **dict.fromkeys(("cancel_pull", "resume_pull"), a_pull),
    **dict.fromkeys(
        ("get_history", "list_branches", "export_session", "save_message", "update_message",
         "get_session", "update_session", "delete_session"),
        a_session,
    ),
    **dict.fromkeys(
        ("get_document", "delete_document"), lambda server: {"document_id": a_document(server)}
    ),
    "related": lambda server: {"id": a_document(server)},
    "add_folder": lambda server: {"path": a_place(server)},
    **dict.fromkeys(("scan_folder", "delete_folder"), a_folder),
    "get_job": lambda server: {"job_id": documents(server)["id"]},
    "cancel_job": lambda server: {"job_id": documents(server, "sleep", 60)["id"]},
    **dict.fromkeys(("webrtc_answer", "webrtc_ice", "webrtc_session"), a_signal),
    "resume_generation": an_answer,
}  # fmt: skip


@each_entry
def test_every_reply_is_as_documented(
    server: LiveServer, method: str, path: str, entry: dict[str, Any]
) -> None:
    name = primary(entry)
    if name == "unload_model":
        server.owner.post("/v1/models/load", json={"model": BUILTIN}).raise_for_status()
    if name == "delete_model":
        server.owner.post("/v1/pull", json={"model": "owner/repo"}).raise_for_status()
    values = {**example(entry), **FOR_THE_FAKE.get(name, {})}
    if name in MADE:
        values |= MADE[name](server)
    response = send(server.owner, method, path, values)
    assert response.status_code == 200, response.text
    validator(content(entry, response)).validate(response.json())
    assert response.headers["x-request-id"]


CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
TOOL = {
    "name": "add",
    "description": "Adds.",
    "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}},
}
# What makes the fake engine show every form that an event can take.
EVERY_FORM: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": [{"role": "user", "content": "11"}]}),
    (CHAT, {"messages": [{"role": "user", "content": "11"}], "usage": True}),
    (
        CHAT,
        {
            "messages": [{"role": "user", "content": "5 think say both draft"}],
            "tools": [
                {"type": "function", "function": TOOL},
                {"type": "function", "function": {**TOOL, "name": "sub"}},
            ],
            "n": 2,
            "logprobs": True,
            "top_logprobs": 3,
            "usage": True,
        },
    ),
    (TEXT, {"prompt": "11"}),
    (TEXT, {"prompt": ["11", "3 accent"], "n": 2, "echo": True, "logprobs": 3, "usage": True}),
    (RESPONSES, {"input": "11"}),
    (
        RESPONSES,
        {
            "input": "5 think say both draft",
            "tools": [{"type": "function", **TOOL}, {"type": "function", **TOOL, "name": "sub"}],
            "include": ["message.output_text.logprobs"],
            "top_logprobs": 2,
            "metadata": {"a": "b"},
            "reasoning": {"effort": "low"},
        },
    ),
    (RESPONSES, {"input": "11", "max_output_tokens": 4}),
]


@pytest.mark.parametrize(("path", "body"), EVERY_FORM)
@pytest.mark.parametrize("stream", [True, False])
def test_every_form_of_an_answer_is_as_documented(
    server: LiveServer, path: str, body: dict[str, Any], stream: bool
) -> None:
    entry = DOCUMENT["paths"][path]["post"]
    body = dict(body)
    if body.pop("usage", False) and stream:
        body["stream_options"] = {"include_usage": True}
    response = server.client.post(path, json={**body, "stream": stream})
    check = validator(content(entry, response))
    if not stream:
        check.validate(response.json())
        return
    lines = response.text.splitlines()
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    if path == RESPONSES:
        assert names == [json.loads(event)["type"] for event in events]
    else:
        assert names == []
        assert events.pop() == "[DONE]"
    assert len(events) > 5
    for event in events:
        check.validate(json.loads(event))


def nonsense(server: LiveServer, method: str, path: str) -> Iterator[httpx.Response]:
    """What a caller may get wrong, and what others may try."""
    owner = server.owner
    plain = path.replace("{model_id}", "fake/counter")

    def body(content: bytes, kind: str = "application/json") -> httpx.Response:
        return owner.request(method, plain, content=content, headers={"Content-Type": kind})

    yield body(b"{")
    yield body(b'{"a": 1, "a": 1}')
    yield body(b"x=1", "application/x-www-form-urlencoded")
    yield body(b'{"text": "' + b"x" * 20000 + b'"}')
    yield body(b'{"nobody_knows": 1}')
    yield body(b'{"model": 7, "messages": 1, "text": {}, "stream": "yes"}')
    yield owner.request(method, plain, params={"nobody_knows": "1"})
    for unknown in ({"model": "no/such"}, {"model_id": "no/such"}):
        yield send(owner, method, path, {**unknown, "prompt": "1", "text": "1", "tokens": [1]})
    message = [{"role": "user", "content": "1"}]
    yield send(owner, method, path, {"model": "no/such", "messages": message})
    yield owner.request(method, plain, headers={"Host": "example.com"})
    yield owner.request(method, plain, headers={"Origin": "https://example.com"})
    yield owner.request(method, plain, headers={"Sec-Fetch-Site": "cross-site"})
    yield server.client.request(method, plain, headers={"Origin": server.url})
    wrong = {"Origin": server.url, "Authorization": "Bearer " + "x" * len(TOKEN)}
    yield server.client.request(method, plain, headers=wrong)


def refused(entry: dict[str, Any], response: httpx.Response) -> str:
    """The problem's slug, which the document declares for this status."""
    problem: dict[str, Any] = response.json()
    validator(content(entry, response)).validate(problem)
    assert response.headers["content-type"] == "application/problem+json"
    slug: str = problem["code"]
    declared = entry["responses"][str(response.status_code)]["description"]
    assert f"(/problems/{slug})" in declared, (entry["operationId"], slug)
    return slug


@each_entry
def test_every_refusal_is_declared(
    server: LiveServer, method: str, path: str, entry: dict[str, Any]
) -> None:
    answers = list(nonsense(server, method, path))
    slugs = {refused(entry, answer) for answer in answers if answer.status_code != 200}
    assert slugs >= {
        "malformed-request",
        "unsupported-media-type",
        "payload-too-large",
        "invalid-request",
        "host-not-allowed",
        "origin-not-allowed",
        "unauthorized",
    }


MARTIAN = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "martian"}}}


@pytest.mark.parametrize(
    ("text", "more", "slug"),
    [
        ("x" * 5000, {}, "context-length-exceeded"),
        ("crash", {}, "worker-crashed"),
        ("5", {"n": 5}, "invalid-request"),
        ("5", {"model": "no/such"}, "model-not-found"),
        ("5", {"lora": [{"id": "no/such"}]}, "model-not-found"),
        ("5", {"grammar": "x"}, "feature-disabled"),
        ("5", {"response_format": MARTIAN}, "grammar-invalid"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_every_failure_of_a_generation_is_declared(
    server: LiveServer, path: str, text: str, more: dict[str, Any], slug: str
) -> None:
    entry = DOCUMENT["paths"][path]["post"]
    message = {"messages": [{"role": "user", "content": text}]}
    body = {"prompt": text} if path == TEXT else message
    assert refused(entry, server.client.post(path, json={**body, **more})) == slug


@pytest.mark.parametrize(
    ("body", "slug"),
    [
        ({"input": "x" * 5000}, "context-length-exceeded"),
        ({"input": "crash"}, "worker-crashed"),
        ({"input": "1", "truncation": "auto"}, "unsupported-parameter"),
        ({"input": "1", "previous_response_id": "x"}, "response-not-found"),
    ],
)
def test_every_failure_of_a_response_is_declared(
    server: LiveServer, body: dict[str, Any], slug: str
) -> None:
    entry = DOCUMENT["paths"][RESPONSES]["post"]
    assert refused(entry, server.client.post(RESPONSES, json=body)) == slug
