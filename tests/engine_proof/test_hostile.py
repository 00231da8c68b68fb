"""Hostile schemas, grammars and templates over HTTP: a typed problem, and nothing else happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
import pytest

from tabagent.catalog.models import BUILTIN
from tests.engine_proof.conftest import EXACT
from tests.engine_proof.hostile import ENDLESS, GRAMMARS, HEAVY, HEAVY_GRAMMARS, SCHEMAS
from tests.engine_proof.models import CALLER, CALLING, CONTEXT
from tests.live import LiveServer, chat_body, eventually
from tests.worker.test_template import HOSTILE
from tests.worker.tiny_gguf import CHATML, write_model

TEMPLATES = [
    "endless nested ranges",
    "doubling a string",
    "a huge repetition that no compiler folds",
    "a huge power that no compiler folds",
    "a huge padding",
    "much output in small pieces",
    "the subclasses of object",
    "a format string's attributes",
    "the globals of our own function",
    "changing a list",
    "its own words",
    "a syntax error",
    "endless recursion of a macro",
    "too deep brackets",
    "including a file",
    "half a character in an error",
]
SLOW = 40  # seconds within which everything must have been answered: only a hang takes longer


NEVER_COMPILE = ("a syntax error", "too deep brackets")


def armed(name: str) -> str:
    """Hostile when the bomb is mentioned, else as usual; what does not compile is always hostile."""
    if name in NEVER_COMPILE:
        return HOSTILE[name]
    bomb = "{% if messages[0].content == 'bomb' %}"
    return f"{bomb}{HOSTILE[name]}{{% else %}}{CHATML}{{% endif %}}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Raw grammars are allowed, since they are what is tried."""
    place = tmp_path_factory.mktemp("hostile")
    models = place / "models"
    models.mkdir()
    write_model(models / "caller.gguf", context=CONTEXT, template=CALLING)
    for number, name in enumerate(TEMPLATES):
        write_model(models / f"template-{number}.gguf", template=armed(name))
    with LiveServer(place, raw_grammar=True, **EXACT) as live:
        live.client.timeout = live.owner.timeout = httpx.Timeout(SLOW)
        for model in (BUILTIN, CALLER):
            live.owner.post("/v1/models/load", json={"model": model}).raise_for_status()
        yield live


@contextmanager
def unharmed(server: LiveServer, model: str) -> Iterator[None]:
    """The same worker goes on, the gateway is well, and normal requests are answered."""
    worker = server.worker(model).pid
    started = server.client.get("/health").json()["uptime_s"]
    yield
    health = server.client.get("/health").json()
    assert health["uptime_s"] > started
    assert health["models"][model] == "ready"
    assert server.loaded(model)["pid"] == worker
    body = {"model": model, "prompt": "Hello", "max_tokens": 2}
    assert server.client.post("/v1/completions", json=body).status_code == 200
    eventually(lambda: server.idle(model))


def is_problem(response: httpx.Response, status: int, code: str) -> None:
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert response.headers["content-type"].startswith("application/problem+json")
    assert 0 < len(response.json()["detail"]) < 2000
    assert "/work" not in response.text and "Traceback" not in response.text


def formatted(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("model", [BUILTIN, CALLER])
def test_a_hostile_schema_is_refused(server: LiveServer, model: str, name: str) -> None:
    with unharmed(server, model):
        for stream in (False, True):
            asked = server.chat(
                "Hello", model, response_format=formatted(SCHEMAS[name]), stream=stream
            )
            is_problem(asked, 400, "invalid-request")
            where = asked.json()["errors"][0]["pointer"]
            assert where.startswith("/response_format/json_schema/schema")


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_hostile_schema_of_a_tool_is_refused_or_left_out(server: LiveServer, name: str) -> None:
    """A forced call is held to every word of it; the model is told of it first, so it must fit."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": SCHEMAS[name]}}]
    fits = len(str(SCHEMAS[name])) < CONTEXT
    code = "invalid-request" if fits else "context-length-exceeded"
    with unharmed(server, CALLER):
        forced = server.chat("Hello", CALLER, tools=tools, tool_choice="required")
        is_problem(forced, 400, code)
        free = server.chat("Hello", CALLER, tools=tools, max_tokens=3)
        if free.status_code != 200:
            is_problem(free, 400, code)


@pytest.mark.parametrize("name", HEAVY)
def test_a_heavy_schema_is_refused_in_time_or_kept_to(server: LiveServer, name: str) -> None:
    with unharmed(server, CALLER):
        asked = server.chat("Hello", CALLER, response_format=formatted(HEAVY[name]), max_tokens=9)
        if asked.status_code != 200:
            is_problem(asked, asked.status_code, asked.json()["code"])
            assert asked.json()["code"] in ("invalid-request", "grammar-invalid")


@pytest.mark.parametrize("name", ENDLESS)
def test_what_takes_too_long_to_compile_is_given_up(server: LiveServer, name: str) -> None:
    with unharmed(server, CALLER):
        asked = server.chat("Hello", CALLER, response_format=formatted(ENDLESS[name]))
        is_problem(asked, 422, "grammar-invalid")
        # On a fast machine the compiler may come to the end of its own patience before ours.
        detail = asked.json()["detail"]
        assert "more than 2 seconds" in detail or "Unable to determine" in detail


@pytest.mark.parametrize("name", GRAMMARS)
def test_a_hostile_grammar_is_refused(server: LiveServer, name: str) -> None:
    with unharmed(server, CALLER):
        is_problem(server.chat("Hello", CALLER, grammar=GRAMMARS[name]), 422, "grammar-invalid")
        body = {"model": CALLER, "prompt": "Hello", "grammar": GRAMMARS[name]}
        is_problem(server.client.post("/v1/completions", json=body), 422, "grammar-invalid")


@pytest.mark.parametrize("name", HEAVY_GRAMMARS)
def test_a_heavy_grammar_is_refused_in_time_or_kept_to(server: LiveServer, name: str) -> None:
    with unharmed(server, CALLER):
        asked = server.chat("Hello", CALLER, grammar=HEAVY_GRAMMARS[name], max_tokens=9)
        if asked.status_code != 200:
            is_problem(asked, 422, "grammar-invalid")


def test_good_answers_go_on_beside_hostile_schemas(server: LiveServer) -> None:
    with unharmed(server, CALLER):
        with server.client.stream(
            "POST",
            "/v1/chat/completions",
            json=chat_body("Hello", CALLER, stream=True, max_tokens=1500, ignore_eos=True),
        ) as stream:
            lines = stream.iter_lines()
            next(lines)
            for schema in (*HEAVY.values(), *SCHEMAS.values()):
                server.chat("Hello", CALLER, response_format=formatted(schema), max_tokens=1)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert '"finish_reason":"length"' in rest[-2]


@pytest.mark.parametrize("number", range(len(TEMPLATES)), ids=TEMPLATES)
def test_a_hostile_template_is_refused(server: LiveServer, number: int) -> None:
    model = f"local/template-{number}"
    server.owner.post("/v1/models/load", json={"model": model}).raise_for_status()
    guide = server.loaded(BUILTIN)["pid"]
    try:
        with unharmed(server, model):
            is_problem(server.chat("bomb", model, stream=True), 422, "chat-template-rejected")
            body = {"model": model, "messages": [{"role": "user", "content": "bomb"}]}
            rendered = server.client.post("/v1/apply-template", json=body)
            is_problem(rendered, 422, "chat-template-rejected")
            after = server.chat("Hello", model, max_tokens=3)
            assert after.status_code == (422 if TEMPLATES[number] in NEVER_COMPILE else 200)
        assert server.loaded(BUILTIN)["pid"] == guide
        assert server.answer("Hello", BUILTIN)
    finally:
        pid = server.worker(model).pid
        server.owner.post("/v1/models/unload", json={"model": model}).raise_for_status()
        eventually(lambda: not psutil.pid_exists(pid))
