"""Pulls through the server: followed, left, stopped, resumed, killed, and let go of."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.hub.fake_hub import Asked, FakeHub, Reply
from tests.live import TOKEN, LiveServer, eventually
from tests.worker.tiny_gguf import write_model

MODEL = "maker/model:Q4_K_M"
FILE = "model-Q4_K_M.gguf"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_model(tmp_path_factory.mktemp("weights") / "tiny.gguf").read_bytes()


@pytest.fixture
def hub(weights: bytes) -> Iterator[FakeHub]:
    with FakeHub({FILE: weights, "model-Q8_0.gguf": weights + bytes(64)}) as hub:
        yield hub


@pytest.fixture
def server(tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveServer]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with LiveServer(tmp_path, hub_endpoint=hub.url) as live:
        yield live


def slowly(asked: Asked, body: bytes) -> Reply:
    right = FakeHub.right(asked, body)
    right.pace = (2000, 0.05)
    return right


def pull(server: LiveServer, model: str = MODEL) -> dict[str, Any]:
    reply = server.owner.post("/v1/pull", json={"model": model})
    found: dict[str, Any] = reply.json()
    return found


def events(server: LiveServer) -> Iterator[dict[str, Any]]:
    body = {"model": MODEL, "stream": True}
    with server.owner.stream("POST", "/v1/pull", json=body) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line[6:])


def files(tmp_path: Path) -> list[str]:
    folder = tmp_path / "models" / "maker" / "model"
    return sorted(file.name for file in folder.glob("*.gguf"))


def test_a_model_is_pulled_by_name_and_answers(server: LiveServer, tmp_path: Path) -> None:
    done = pull(server, "maker/model:q4")
    assert (done["state"], done["model"]) == ("done", MODEL)
    assert done["completed_bytes"] == done["total_bytes"] > 0
    assert files(tmp_path) == [FILE]
    assert server.answer("hello", MODEL, max_tokens=3)
    assert server.answer("hello", "maker/model", max_tokens=3)


def test_progress_is_told_while_it_comes(server: LiveServer, hub: FakeHub) -> None:
    hub.misbehave = slowly
    told = list(events(server))
    assert told[-1]["state"] == "done"
    amounts = [event["completed_bytes"] for event in told]
    assert amounts == sorted(amounts)
    assert len(set(amounts)) > 2
    assert any(event["bytes_per_second"] and event["eta_s"] for event in told)


def test_the_servers_events_tell_of_a_pull_from_its_beginning_to_its_deletion(
    server: LiveServer, hub: FakeHub
) -> None:
    hub.misbehave = slowly
    pull(server)
    server.owner.post("/v1/delete", json={"model": MODEL})
    rows = server.client.get("/v1/events", params={"from": 1, "stream": "false"}).json()["data"]
    told = [(row["type"], row["data"]["state"]) for row in rows]
    assert told == [
        ("pull", "queued"),
        ("pull", "done"),  # what was told of its progress is not kept
        ("model", "added"),
        ("model", "deleted"),
    ]
    assert {row["data"]["model"] for row in rows} == {MODEL}


def test_a_pull_goes_on_when_its_caller_leaves_and_can_be_followed_again(
    server: LiveServer, hub: FakeHub, tmp_path: Path
) -> None:
    hub.misbehave = slowly
    for event in events(server):
        first = event["id"]
        break
    assert server.client.get("/v1/pulls").json()["data"][0]["state"] == "downloading"
    assert pull(server)["id"] == first
    assert len(hub.asked_for(FILE)) == 1
    assert files(tmp_path) == [FILE]


def test_a_stopped_pull_goes_on_where_it_was(
    server: LiveServer, hub: FakeHub, tmp_path: Path
) -> None:
    hub.misbehave = slowly
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(pull, server)
        row = eventually(
            lambda: [
                p for p in server.client.get("/v1/pulls").json()["data"] if p["completed_bytes"]
            ]
        )[0]
        stopped = server.owner.post(f"/v1/pulls/{row['id']}/cancel").json()
        assert stopped["state"] == waiting.result()["state"] == "cancelled"
    assert files(tmp_path) == []
    hub.misbehave = lambda asked, body: None
    assert server.owner.post(f"/v1/pulls/{row['id']}/resume").status_code == 200
    eventually(lambda: files(tmp_path) == [FILE])
    assert hub.asked_for(FILE)[-1].start > 0


def test_a_file_with_wrong_bytes_never_appears(
    server: LiveServer, hub: FakeHub, tmp_path: Path
) -> None:
    hub.misbehave = lambda asked, body: Reply(body=bytes(len(body)))
    assert pull(server)["code"] == "checksum-mismatch"
    assert files(tmp_path) == []
    row = server.client.get("/v1/pulls").json()["data"][0]
    assert (row["state"], row["problem"]["code"]) == ("failed", "checksum-mismatch")
    hub.misbehave = lambda asked, body: None
    assert pull(server)["state"] == "done"


def test_no_more_than_two_come_at_once(server: LiveServer, hub: FakeHub, weights: bytes) -> None:
    for name in ("Q5_K_M", "Q6_K", "Q2_K"):
        hub.files[f"model-{name}.gguf"] = weights + name.encode() * 8
    hub.misbehave = slowly
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(pull, server, f"maker/model:{n}") for n in ("Q5_K_M", "Q6_K", "Q2_K")]
        eventually(lambda: len(server.client.get("/v1/pulls").json()["data"]) == 3)
        most = 0
        while not all(one.done() for one in asked):
            rows = server.client.get("/v1/pulls").json()["data"]
            most = max(most, sum(row["state"] == "downloading" for row in rows))
            time.sleep(0.02)
        assert most == 2
        assert {one.result()["state"] for one in asked} == {"done"}


def test_a_disk_without_room_is_said_before_anything_comes(
    server: LiveServer, hub: FakeHub
) -> None:
    server.gateway.services.pulls._jobs._free = lambda path: 2**31
    problem = pull(server)
    assert (problem["status"], problem["code"]) == (507, "insufficient-storage")
    assert problem["required_bytes"] > problem["available_bytes"] == 2**31
    assert hub.asked_for(FILE) == []


def test_variants_are_listed_before_anything_is_pulled(server: LiveServer) -> None:
    def rows() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = server.client.get("/v1/models/maker%2Fmodel/quants").json()[
            "data"
        ]
        return found

    assert [(row["name"], row["fits"], row["here"]) for row in rows()] == [
        ("Q8_0", True, False),
        ("Q4_K_M", True, False),
    ]
    pull(server)
    assert [row["here"] for row in rows()] == [False, True]


def test_offline_nothing_is_asked_and_all_else_works(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with LiveServer(tmp_path, hub_endpoint=hub.url) as server:
        assert pull(server)["code"] == "not-available-here"
        assert hub.asked == []
        assert server.client.get("/v1/models").status_code == 200


def test_pulling_needs_the_owner(server: LiveServer) -> None:
    assert server.client.post("/v1/pull", json={"model": MODEL}).status_code == 401


# ---- kill -9 ------------------------------------------------------------------------------------
@contextmanager
def served(data: Path, hub: FakeHub) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TABAGENT_", "HF_"))}
    environment |= {"TABAGENT_HUB_ENDPOINT": hub.url, "TABAGENT_TOKEN": TOKEN}
    command = [sys.executable, "-m", "tabagent", "serve", "--port", "0", "--data-dir", str(data)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    runtime = data / "runtime.json"
    try:
        eventually(
            lambda: runtime.exists() and json.loads(runtime.read_text())["pid"] == process.pid, 20
        )
        url = json.loads(runtime.read_text())["url"]
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False) as client:
            yield process, client
    finally:
        process.kill()
        process.wait(10)


def test_a_server_killed_in_mid_download_goes_on_where_it_was(tmp_path: Path, hub: FakeHub) -> None:
    hub.misbehave = slowly
    with served(tmp_path, hub) as (process, client):
        with client.stream("POST", "/v1/pull", json={"model": MODEL, "stream": True}) as response:
            for line in response.iter_lines():
                if line.startswith("data: ") and json.loads(line[6:])["completed_bytes"] > 4000:
                    break
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert files(tmp_path) == []
    hub.misbehave = lambda asked, body: None
    with served(tmp_path, hub) as (_, client):
        (row,) = client.get("/v1/pulls").json()["data"]
        assert (row["state"], row["model"]) == ("cancelled", MODEL)
        assert row["completed_bytes"] > 4000
        assert client.post(f"/v1/pulls/{row['id']}/resume").status_code == 200
        eventually(lambda: files(tmp_path) == [FILE])
        assert hub.asked_for(FILE)[-1].start > 4000
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
        assert client.post("/v1/chat/completions", json=body).status_code == 200


# ---- letting go ---------------------------------------------------------------------------------
def test_what_was_pulled_can_be_deleted_once_it_is_unloaded(
    server: LiveServer, tmp_path: Path
) -> None:
    pull(server)
    pull(server, "maker/model:Q8_0")
    server.answer("hello", MODEL, max_tokens=2)
    refused = server.owner.post("/v1/delete", json={"model": MODEL}).json()
    assert refused["code"] == "model-busy"
    server.owner.post("/v1/models/unload", json={"model": MODEL})
    size = (tmp_path / "models" / "maker" / "model" / FILE).stat().st_size
    gone = server.owner.post("/v1/delete", json={"model": MODEL}).json()
    assert gone == {
        "model": MODEL,
        "files": [FILE],
        "freed_bytes": size,
        "was_selected": False,
    }
    assert files(tmp_path) == ["model-Q8_0.gguf"]
    server.owner.post("/v1/delete", json={"model": "maker/model:Q8_0"})
    assert not (tmp_path / "models" / "maker").exists()
    assert (
        server.owner.post("/v1/delete", json={"model": MODEL}).json()["code"] == "model-not-found"
    )


def test_the_selected_model_is_let_go_of_and_the_builtin_one_answers_again(
    server: LiveServer,
) -> None:
    pull(server)
    assert server.owner.post("/v1/models/select", json={"model": MODEL}).json() == {"model": MODEL}
    gone = server.owner.post("/v1/delete", json={"model": MODEL}).json()
    assert gone["was_selected"] is True
    assert server.client.get("/v1/models/tabagent%2Fguide").json()["selected"] is True
    assert server.answer("hello", None, max_tokens=3)


@pytest.mark.parametrize("where", ["loose.gguf", "maker/model/other-Q4_K_M.gguf"])
def test_what_nobody_pulled_is_not_deleted(
    server: LiveServer, tmp_path: Path, weights: bytes, where: str
) -> None:
    file = tmp_path / "models" / where
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(weights)
    name = "local/loose" if where == "loose.gguf" else MODEL
    assert server.owner.post("/v1/delete", json={"model": name}).json()["code"] == "conflict"
    assert file.exists()


def test_the_builtin_model_is_not_deleted(server: LiveServer) -> None:
    refused = server.owner.post("/v1/delete", json={"model": "tabagent/guide"}).json()
    assert (refused["code"], refused["detail"]) == (
        "conflict",
        "tabagent/guide is a part of TabAgent and stays",
    )


# ---- the token ----------------------------------------------------------------------------------
def test_a_token_is_kept_and_used_and_never_told(
    server: LiveServer, hub: FakeHub, tmp_path: Path
) -> None:
    secret = "hf_" + "q" * 24
    assert server.owner.get("/v1/hf/token/status").json() == {"set": False, "source": None}
    kept = server.owner.post("/v1/hf/token", json={"token": secret})
    assert kept.json() == {"set": True, "source": "file"}
    assert (tmp_path / "hf_token").stat().st_mode & 0o777 == 0o600
    pull(server)
    assert hub.asked_for(FILE)[0].headers["authorization"] == f"Bearer {secret}"
    assert secret not in server.owner.get("/v1/hf/token/status").text
    assert server.client.get("/v1/hf/token/status").status_code == 401
    assert server.owner.delete("/v1/hf/token").json() == {"set": False, "source": None}
    assert not (tmp_path / "hf_token").exists()


def test_the_environments_token_is_named_and_not_overridden(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "e" * 20)
    assert server.owner.get("/v1/hf/token/status").json() == {"set": True, "source": "environment"}
    refused = server.owner.post("/v1/hf/token", json={"token": "hf_" + "f" * 20})
    assert refused.json()["code"] == "conflict"
