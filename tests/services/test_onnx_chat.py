"""The guide in ONNX says what it says in GGUF, streamed, several at once, and through a crash."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tabagent.catalog.models import BUILTIN
from tests.live import LiveServer, eventually
from tests.services.test_embeddings import problem

GUIDE = "maker/guide-onnx:Q8"
QUESTIONS = [
    "What is TabAgent?", "How do I pull a model?", "hello", "Which port does it listen on?",
    "How do I use it from Python?", "What is a GGUF file?", "How do I stop an answer?",
    "Where are my models kept?", "How do I connect the extension?", "What can you do?",
    "Does it work offline?", "How do I see which models are loaded?", "What is a token?",
    "How do I unload a model?", "Can it use my graphics card?", "Who are you?", "thanks",
    "What does model-not-found mean?", "How do I update it?", "What is an embedding?",
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    place = tmp_path_factory.mktemp("onnx-chat")
    source = Path(__file__).parent.parent / "models" / "guide-onnx"
    shutil.copytree(source, place / "models" / "maker" / "guide-onnx")
    with LiveServer(place) as live:
        yield live


def asked(question: str, model: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {"model": model, "messages": messages, "temperature": 0, **more}


def streamed(server: LiveServer, question: str, model: str) -> str:
    text = ""
    body = asked(question, model, stream=True)
    with server.client.stream("POST", "/v1/chat/completions", json=body, timeout=60) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line.startswith("data: {"):
                choices = json.loads(line[6:])["choices"]
                text += (choices[0]["delta"].get("content") or "") if choices else ""
    return text


def test_twenty_questions_have_the_answers_of_the_gguf_form(server: LiveServer) -> None:
    assert len(QUESTIONS) == 20
    with ThreadPoolExecutor(4) as four:
        onnx = list(four.map(lambda q: streamed(server, q, GUIDE), QUESTIONS))
        gguf = list(four.map(lambda q: streamed(server, q, BUILTIN), QUESTIONS))
    assert all(onnx)
    assert onnx == gguf


def test_what_a_chat_may_ask_for_is_given(server: LiveServer) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 99}},
              "required": ["n"], "additionalProperties": False}  # fmt: skip
    body = asked(
        "a number",
        GUIDE,
        n=2,
        logprobs=True,
        top_logprobs=3,
        max_tokens=200,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "number", "schema": schema, "strict": True},
        },
    )
    answer = server.client.post("/v1/chat/completions", json=body, timeout=60).json()
    assert len(answer["choices"]) == 2
    for choice in answer["choices"]:
        assert json.loads(choice["message"]["content"])["n"] <= 99
        assert len(choice["logprobs"]["content"][0]["top_logprobs"]) == 3
    stopped = asked("What is TabAgent?", GUIDE, stop=["gateway"])
    said = server.client.post("/v1/chat/completions", json=stopped, timeout=60).json()
    assert "gateway" not in said["choices"][0]["message"]["content"]


def test_a_conversation_is_not_computed_twice(server: LiveServer) -> None:
    first = "tell me more " * 20
    server.client.post("/v1/chat/completions", json=asked(first, GUIDE, max_tokens=5), timeout=60)
    again = server.client.post(
        "/v1/chat/completions", json=asked(first, GUIDE, max_tokens=5), timeout=60
    ).json()
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 20


def test_what_it_cannot_do_is_refused_by_name(server: LiveServer) -> None:
    refused = server.client.post(
        "/v1/completions", json={"model": GUIDE, "prompt": "a", "dry_multiplier": 0.8}
    )
    assert problem(refused, "unsupported-parameter")["param"] == "dry_multiplier"
    vectors = server.client.post("/v1/embeddings", json={"model": GUIDE, "input": "a"})
    problem(vectors, "wrong-model-task")
    loaded = server.owner.post(
        "/v1/models/load",
        json={"model": GUIDE, "speculation": "ngram", "force_reload": True},
        timeout=60,
    )
    assert problem(loaded, "invalid-request")["param"] == "speculation"


def test_a_killed_worker_is_an_error_and_another_one_answers(server: LiveServer) -> None:
    body = asked("What is TabAgent?", GUIDE, stream=True, ignore_eos=True, max_tokens=400)
    server.client.post("/v1/chat/completions", json=asked("hello", GUIDE), timeout=60)
    pid = server.worker(GUIDE).pid
    events = []
    with server.client.stream("POST", "/v1/chat/completions", json=body, timeout=60) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                events.append(json.loads(line[6:]))
                if len(events) == 3:
                    os.kill(pid, signal.SIGKILL)
    assert "worker-crashed" in json.dumps(events[-1])
    assert streamed(server, "hello", GUIDE)
    assert server.worker(GUIDE).pid != pid


def test_hanging_up_frees_the_slot(server: LiveServer) -> None:
    body = asked("What is TabAgent?", GUIDE, stream=True, ignore_eos=True, max_tokens=1500)
    with server.client.stream("POST", "/v1/chat/completions", json=body, timeout=60) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                break
        eventually(lambda: server.loaded(GUIDE)["slots_used"] == 1)
    eventually(lambda: server.loaded(GUIDE)["slots_used"] == 0, 3)
