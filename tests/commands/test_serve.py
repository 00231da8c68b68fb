"""`tabagent serve` as a person starts it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tabagent.runtime import DataDirectory, Running
from tests.live import chat_body, eventually

TABAGENT = [sys.executable, "-m", "tabagent"]


def run(*arguments: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TABAGENT, *arguments], capture_output=True, text=True, timeout=timeout, check=False
    )


@contextmanager
def serving(data: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [*TABAGENT, "serve", "--port", "0", "--data-dir", str(data), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:

        def announced() -> Running | None:
            assert process.poll() is None, process.communicate()
            running = DataDirectory(data).running()
            return running if running and running.pid == process.pid else None

        yield process, eventually(announced, 20).url
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=20)


def test_it_says_where_it_listens_and_what_is_next(tmp_path: Path) -> None:
    with serving(tmp_path / "d") as (process, url):
        httpx.get(f"{url}/health").raise_for_status()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert err == ""
    for words in (url, "tabagent/guide", f"{url}/swagger-ui/", f"{url}/v1", "tabagent chat"):
        assert words in out
    assert not (tmp_path / "d" / "runtime.json").exists()


def test_a_taken_port_is_one_line_and_exit_code_3(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = run("serve", "--port", str(port), "--data-dir", str(tmp_path))
    assert result.returncode == 3
    first, hint = result.stderr.strip().splitlines()
    assert first.startswith(f"Error: port {port} is taken")
    assert str(os.getpid()) in first
    assert f"--port {port + 1}" in hint


def test_a_second_server_in_one_directory_exits_75_naming_the_first(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, url):
        result = run("serve", "--port", "0", "--data-dir", str(tmp_path))
        assert result.returncode == 75
        assert f"pid {process.pid}" in result.stderr
        assert url in result.stderr


def test_the_lock_of_a_killed_server_is_gone_with_it(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, _):
        process.kill()
        process.wait()
    with serving(tmp_path) as (_, url):
        httpx.get(f"{url}/health").raise_for_status()


def test_a_native_socket_that_cannot_be_made_is_one_line_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "native.sock").mkdir()
    result = run("serve", "--port", "0", "--data-dir", str(tmp_path))
    assert result.returncode == 1
    first, hint = result.stderr.strip().splitlines()[-2:]
    assert first.startswith("Error: the browser's native socket cannot be made")
    assert "--mode http" in hint
    assert "Traceback" not in result.stderr


def test_listening_wide_without_a_token_is_refused_with_the_fix(tmp_path: Path) -> None:
    result = run("serve", "--host", "0.0.0.0", "--port", "0", "--data-dir", str(tmp_path))
    assert result.returncode == 78
    assert "TABAGENT_TOKEN" in result.stderr


def test_listening_wide_with_a_token_asks_everyone_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TABAGENT_TOKEN", "w" * 20)
    with serving(tmp_path, "--host", "0.0.0.0") as (_, url):
        assert httpx.get(f"{url}/v1/models").status_code == 401
        bearer = {"Authorization": "Bearer " + "w" * 20}
        assert httpx.get(f"{url}/v1/models", headers=bearer).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "99999"], "port (from flag --port)"),
        (["--log-level", "loud"], "log_level (from flag --log-level)"),
        (["--model", "/nowhere/x.gguf"], "cannot be served"),
        (["--model", "a/b", "--model", "c/d"], "--model takes files"),
        (["--data-dir", "/proc/nothing"], "data directory cannot be used"),
        (["--host", "192.0.2.1"], "without a token"),
    ],
)
def test_a_bad_start_is_one_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    place = [] if "--data-dir" in arguments else ["--data-dir", str(tmp_path)]
    result = run("serve", "--port", "0", *place, *arguments)
    assert result.returncode not in (0, 3)
    assert says in result.stderr
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2


def test_a_model_given_by_path_becomes_the_default(tmp_path: Path) -> None:
    from tabagent.app import GUIDE

    file = tmp_path / "my model.gguf"
    file.write_bytes(GUIDE.read_bytes())
    with serving(tmp_path / "d", "--model", str(file)) as (_, url):
        answer = httpx.post(
            f"{url}/v1/chat/completions", json=chat_body("Hello", None, max_tokens=4), timeout=30
        ).json()
        assert answer["model"] == "local/my-model"


def test_killing_the_server_leaves_no_worker_of_the_real_engine(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, url):
        body = chat_body("Hello", None, stream=True, ignore_eos=True)
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=30) as stream:
            lines = stream.iter_lines()  # held: its end would hang up
            next(lines)
            family = psutil.Process(process.pid).children(recursive=True)
            assert len(family) == 2  # the worker, and its template renderer
            process.kill()
            process.wait()
        began = time.monotonic()
        eventually(lambda: not any(p.is_running() and p.status() != "zombie" for p in family), 2)
        assert time.monotonic() - began < 2


def test_a_second_signal_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TABAGENT_N_CTX", "30000")  # an answer long enough to be cut
    monkeypatch.setenv("TABAGENT_SLOTS", "1")
    with serving(tmp_path) as (process, url):
        body = chat_body("Hello", None, stream=True, ignore_eos=True)
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=30) as stream:
            lines = stream.iter_lines()  # held: its end would hang up
            next(lines)
            process.terminate()
            time.sleep(0.3)
            assert process.poll() is None
            began = time.monotonic()
            process.terminate()
            process.communicate(timeout=20)
            assert time.monotonic() - began < 4
