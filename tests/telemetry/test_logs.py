"""Log lines: whose they are, that they are one line each, and that a broken target hurts nobody."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from tabagent import logs
from tabagent.config import Settings
from tabagent.exchange import EXCHANGE, Exchange
from tabagent.logs import Target
from tabagent.runtime import DataDirectory
from tests.live import eventually
from tests.telemetry.served import Served

CHAT = {"messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 8}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("logs")
    with Served(place, log_format="json", log_level="debug") as served:
        yield served


@pytest.fixture
def own_lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Logging set up for JSON into a string, and put back."""
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    logs.configure("info", "json")
    yield stream
    monkeypatch.undo()
    logs.configure("warning", "console")


def test_every_request_is_a_line_with_its_id(server: Served) -> None:
    response = server.client.post("/v1/chat/completions", json=CHAT)
    usage = response.json()["usage"]
    line = server.line("request", request_id=response.headers["x-request-id"])
    assert line.pop("ms") > 0
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "request",
        "level": "info",
        "request_id": response.headers["x-request-id"],
        "operation": "chat",
        "route": "POST /v1/chat/completions",
        "transport": "http",
        "caller": "local",
        "outcome": "ok",
        "status": 200,
        "bytes": len(response.content),
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
    }


def test_a_refusal_is_a_line_with_its_problem(server: Served) -> None:
    response = server.client.post("/v1/chat/completions", json={})
    line = server.line("request", request_id=response.headers["x-request-id"])
    assert (line["status"], line["outcome"]) == (400, "invalid-request")
    lost = server.client.get("/secret/path?token=abc")
    line = server.line("request", request_id=lost.headers["x-request-id"])
    assert (line["operation"], line["outcome"]) == ("none", "not-found")
    assert "route" not in line  # what was asked for may be anything


def test_probes_are_for_who_debugs(server: Served) -> None:
    for path in ("/health", "/health/live", "/health/ready", "/metrics"):
        response = server.client.get(path)
        assert response.status_code == 200
    lines = [line for line in server.lines("request") if line["operation"] == "metrics"]
    assert [line["level"] for line in lines] == ["debug"]


def test_a_line_of_the_worker_says_whose_request_it_concerns(server: Served) -> None:
    response = server.client.post("/v1/chat/completions", json=CHAT)
    id_ = response.headers["x-request-id"]
    taken = server.line("request_taken", request_id=id_)
    assert taken["kind"] == "generate"
    assert taken["pid"] != server.process.pid
    long = [{"role": "user", "content": "too long " * 20_000}]
    refused = server.client.post("/v1/chat/completions", json={"messages": long})
    assert refused.json()["code"] == "context-length-exceeded"
    id_ = refused.headers["x-request-id"]
    assert server.line("request_refused", request_id=id_)["code"] == refused.json()["code"]


def test_a_line_that_nobody_asked_for_has_no_request(server: Served) -> None:
    server.client.post("/v1/chat/completions", json=CHAT)
    [row] = server.client.get("/v1/models/loaded").json()["data"]
    os.kill(row["pid"], signal.SIGKILL)
    assert "request_id" not in server.line("worker_crashed", pid=row["pid"])


def test_lines_within_a_request_have_its_id_and_none_after_it(own_lines: io.StringIO) -> None:
    one = Exchange("http", request_id="r1")
    token = EXCHANGE.set(one)
    structlog.get_logger().info("during")
    one.ended = True
    structlog.get_logger().info("after")
    EXCHANGE.reset(token)
    during, after = map(json.loads, own_lines.getvalue().splitlines())
    assert during["request_id"] == "r1"
    assert "request_id" not in after


def test_what_libraries_log_is_a_line_like_ours(own_lines: io.StringIO) -> None:
    logging.getLogger("some.library").warning("two\nlines of %s", "it")
    try:
        raise ValueError("odd")
    except ValueError:
        logging.getLogger("some.library").exception("broken")
    first, second = map(json.loads, own_lines.getvalue().splitlines())
    assert (first["event"], first["logger"]) == ("two\nlines of it", "some.library")
    assert "ValueError: odd" in second["exception"]


@pytest.mark.parametrize("odd", ["half \ud83d", 2**80, {1: object()}, b"\xff"])
def test_a_value_that_is_no_json_is_a_line_all_the_same(own_lines: io.StringIO, odd: Any) -> None:
    structlog.get_logger().info("odd", value=odd)
    assert json.loads(own_lines.getvalue())["event"] == "odd"


def test_a_terminal_is_shown_what_it_would_obey(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    logs.configure("info", "console")
    structlog.get_logger().info("a\nb", value="\x1b[31mred", kept="grün")
    monkeypatch.undo()
    logs.configure("warning", "console")
    [line] = stream.getvalue().splitlines()
    assert "\x1b[31mred" not in line
    assert "\\x1b[31mred" in line and "grün" in line


def test_the_access_log_is_on_for_json_alone_unless_it_is_said(tmp_path: Path) -> None:
    assert Settings(log_format="json").logs_access
    assert not Settings(log_format="console").logs_access
    assert not Settings(log_format="json", access_log=False).logs_access
    assert Settings(access_log=True).logs_access


# ---- targets that fail --------------------------------------------------------------------------
def pipe() -> tuple[int, Any, Target]:
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w")
    return reader, stream, Target(stream)


def test_a_pipe_that_nobody_reads_loses_lines_and_holds_nobody_up() -> None:
    reader, stream, target = pipe()
    for _ in range(20_000):
        target.write("x" * 200)
    assert target.lost > 0
    room = os.read(reader, 1 << 20)
    assert room.startswith(b"x" * 200 + b"\n")
    before = target.lost
    target.write("again")
    assert target.lost == before
    assert os.read(reader, 1 << 20).endswith(b"again\n")
    os.close(reader)
    stream.close()


def test_a_long_line_goes_through_a_pipe_whole() -> None:
    reader, stream, target = pipe()
    target.write("x" * 30_000)
    assert len(os.read(reader, 1 << 20)) == 30_001
    os.close(reader)
    stream.close()


def test_a_closed_target_loses_lines_and_hurts_nobody() -> None:
    reader, stream, target = pipe()
    os.close(reader)
    target.write("nobody reads this")
    stream.close()
    target.write("nor this")
    none = Target(None)
    none.write("nor this")
    assert (target.lost, none.lost) == (2, 1)


def test_a_full_disk_loses_lines_and_hurts_nobody() -> None:
    with Path("/dev/full").open("w") as full:
        target = Target(full)
        target.write("x")
        assert target.lost == 1


def test_a_server_whose_log_breaks_away_serves_on(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(reader, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    with (
        os.fdopen(writer, "wb") as stderr,
        Served(tmp_path, stderr=stderr, log_format="json") as server,
    ):
        stderr.close()
        for _ in range(600):  # more than the pipe holds, and nobody reads it
            assert server.client.get("/v1/models").status_code == 200
        os.close(reader)
        assert server.client.post("/v1/chat/completions", json=CHAT).status_code == 200
        assert server.owner.get("/v1/clients").status_code == 200
        text = server.client.get("/metrics").text
        lost = next(
            line for line in text.splitlines() if line.startswith("tabagent_log_lines_lost")
        )
        assert float(lost.split()[1]) > 0
        server.process.terminate()
        assert server.process.wait(20) == 0


@pytest.mark.parametrize("left", ["closed", "broken"])
def test_a_server_without_any_output_serves(tmp_path: Path, left: str) -> None:
    serve = [sys.executable, "-m", "tabagent", "serve", "--port", "0", "--data-dir", str(tmp_path)]
    reader, writer = os.pipe()
    os.close(reader)
    if left == "closed":
        process = subprocess.Popen(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *serve])
    else:
        process = subprocess.Popen(serve, stdout=writer, stderr=writer)
    os.close(writer)
    try:
        running = eventually(lambda: DataDirectory(tmp_path).running(), 20)
        assert httpx.get(f"{running.url}/health").status_code == 200
        assert httpx.post(f"{running.url}/v1/chat/completions", json=CHAT).status_code == 200
    finally:
        process.terminate()
        process.wait(20)


# ---- the audit ----------------------------------------------------------------------------------
def test_what_admins_do_is_always_noted(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    with Served(tmp_path / "d", log_level="error", audit_file=str(file)) as server:
        assert server.client.get("/v1/clients").status_code == 401
        approved = server.owner.post("/v1/clients", json={"extension_id": "b" * 32}).json()
        server.owner.delete(f"/v1/clients/{approved['id']}")
        moved = file.rename(tmp_path / "audit.1.jsonl")
        server.owner.post("/v1/models/load", json={"model": "no/such"})
        origin = {"Origin": "chrome-extension://" + "b" * 32, "Authorization": "Bearer " + "x" * 40}
        server.client.post("/v1/pair", json={}, headers=origin)
        eventually(file.exists)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = [json.loads(line) for each in (moved, file) for line in each.read_text().splitlines()]
    assert all(line["logger"] == "tabagent.audit" and line["timestamp"] for line in found)
    assert all(line["request_id"] for line in found)
    told = [
        (line["event"], line.get("operation"), line.get("caller"), line.get("outcome"))
        for line in found
    ]
    assert told == [
        ("admin_call", "list_clients", "local", "unauthorized"),
        ("client_approved", None, "owner", None),
        ("admin_call", "approve_client", "owner", "ok"),
        ("client_revoked", None, "owner", None),
        ("admin_call", "revoke_client", "owner", "ok"),
        ("admin_call", "load_model", "owner", "model-not-found"),
        ("token_refused", None, None, None),
    ]
    assert found[1]["origin"] == "chrome-extension://" + "b" * 32
    assert found[4]["client_id"] == approved["id"]
    assert found[5]["model"] == "no/such"
    assert "tabagent.audit" not in server.output()


def test_an_audit_that_cannot_be_written_to_its_file_is_written_to_the_log(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("kept")
    link = tmp_path / "audit.jsonl"
    link.symlink_to(elsewhere)
    with Served(tmp_path / "d", log_format="json", audit_file=str(link)) as server:
        assert server.owner.get("/v1/clients").status_code == 200
        assert server.line("admin_call", operation="list_clients")["outcome"] == "ok"
    assert elsewhere.read_text() == "kept"


def test_what_was_refused_is_noted_without_what_it_said(tmp_path: Path) -> None:
    with Served(tmp_path, log_format="json") as server:
        server.client.post("/v1/models/load", json={"model": "said-by-nobody"})
        server.owner.post("/v1/models/load", json={"model": 7})
        assert server.line("admin_call", caller="local")["outcome"] == "unauthorized"
        assert server.line("admin_call", caller="owner")["outcome"] == "invalid-request"
        assert "said-by-nobody" not in server.output()
