"""A busy server, everything that it writes, and what must not be in it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx

from tests.hub.fake_hub import FakeHub
from tests.telemetry.served import Served

OWNER = "owner-token-" + "7Qx" * 9
HUB = "hf_" + "hubtoken9Zk" * 3
PROMPT = "zebrafish-lighthouse-in-the-prompt"
WRONG = "wrong-token-" + "4Vb" * 9


def busy(server: Served) -> tuple[list[str], list[httpx.Response]]:
    """Use it in every way that could leave a trace; (the secrets, its problems)."""
    say = [{"role": "user", "content": f"{PROMPT} Who are you?"}]
    long = [{"role": "user", "content": PROMPT * 5_000}]
    chat = {"messages": say, "max_tokens": 24, "seed": 1}
    answers = [server.client.post("/v1/chat/completions", json=chat)]
    with server.client.stream("POST", "/v1/chat/completions", json=chat | {"stream": True}) as r:
        r.read()
    with server.client.stream("POST", "/v1/chat/completions", json=chat | {"stream": True}) as r:
        next(r.iter_lines())  # and hang up
    server.owner.post("/v1/sessions", json={"id": "sess_one", "title": PROMPT})
    server.client.post("/v1/chat/completions", json=chat | {"session_id": "sess_one"})
    server.owner.post("/v1/hf/token", json={"token": HUB})
    server.owner.post("/v1/rag/documents", json={"documents": [{"text": PROMPT, "source": PROMPT}]})
    server.client.post("/v1/rag/query", json={"query": PROMPT, "max_tokens": 4})
    server.client.post("/v1/embeddings", json={"input": PROMPT})
    server.client.post("/v1/tokenize", json={"text": PROMPT})
    server.client.get("/v1/sessions/search", params={"query": PROMPT})
    asked = server.owner.post("/v1/pull", json={"model": "owner/repo:Q2_K"})
    origin = {"Origin": "chrome-extension://" + "c" * 32}
    first = server.client.post("/v1/pair", json={}, headers=origin).json()
    server.owner.post("/v1/clients", json={"code": first["code"], "access": "admin"})
    paired = server.client.post("/v1/pair", json={"secret": first["secret"]}, headers=origin).json()
    mine = origin | {"Authorization": f"Bearer {paired['token']}"}
    server.client.get("/v1/clients", headers=mine)
    problems = [
        asked,
        server.client.get("/v1/models", headers=origin | {"Authorization": f"Bearer {WRONG}"}),
        server.client.post("/v1/chat/completions", json=chat | {"nonsense": 1}),
        server.client.post("/v1/chat/completions", json=chat | {"max_tokens": -1}),
        server.client.post("/v1/chat/completions", json=chat | {"messages": long}),
        server.client.post("/v1/hf/token", json={"token": HUB}),
        server.owner.post("/v1/hf/token", json={"token": HUB, "nonsense": 1}),
        server.client.get(f"/nowhere/{PROMPT}", params={"token": OWNER}),
        server.client.post("/v1/clients", json={"code": "no"}, headers=mine),
    ]
    assert [problem.status_code for problem in problems if problem.status_code < 400] == []
    answer = answers[0].json()["choices"][0]["message"]["content"]
    assert len(answer) > 20
    return [OWNER, HUB, PROMPT, WRONG, answer[:40], paired["token"], first["secret"]], problems


def test_no_secret_leaves_in_logs_metrics_problems_or_the_list_of_processes(tmp_path: Path) -> None:
    audit = tmp_path / "audit.jsonl"
    settings: dict[str, Any] = {"log_format": "json", "log_level": "debug", "access_log": "true"}
    with (
        FakeHub({"model-Q8_0.gguf": b"no model"}, "owner/repo") as hub,
        Served(
            tmp_path / "d", token=OWNER, hub_endpoint=hub.url, audit_file=str(audit), **settings
        ) as server,
    ):
        secrets, problems = busy(server)
        metrics = server.client.get("/metrics").text
        processes = subprocess.run(
            ["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True
        ).stdout
        assert "tabagent.worker" in processes
    written = {
        "log": server.output(),
        "audit": audit.read_text(),
        "metrics": metrics,
        "problems": "".join(f"{problem.headers}{problem.text}" for problem in problems),
        "processes": processes,
    }
    assert len(server.lines("request")) >= 25
    assert server.lines("request_taken")
    found = [
        (place, secret[:12])
        for place, text in written.items()
        for secret in secrets
        for form in {secret, json.dumps(secret)[1:-1]}
        if form in text
    ]
    assert not found
