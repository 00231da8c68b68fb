"""How a command reaches the server: find it, or start one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tabagent.commands.failure import NO_SERVER, CommandFailed
from tabagent.config import Settings
from tabagent.runtime import DataDirectory, Running, UnsafeFile

START_S = 20.0


def owner_token(settings: Settings) -> str:
    """The owner's token, made when there is none yet."""
    if settings.token:
        return settings.token
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        return DataDirectory(settings.data_dir).token()
    except UnsafeFile as error:
        raise CommandFailed(str(error)) from error


def running_server(settings: Settings) -> Running | None:
    """The server of this data directory, if it answers."""
    running = DataDirectory(settings.data_dir).serving()
    if running is None:
        return None
    if not running.url:
        raise CommandFailed(
            f"the server here (pid {running.pid}) serves the browser's native host alone",
            "start it with `tabagent serve --mode both` for commands and HTTP",
            NO_SERVER,
        )
    try:
        httpx.get(f"{running.url}/health", timeout=5, trust_env=False).raise_for_status()
    except httpx.HTTPError:
        return None
    return running


def connect(settings: Settings) -> httpx.Client:
    """A client of the running server, with the owner's token. Raises CommandFailed without one."""
    running = running_server(settings)
    if running is None:
        raise CommandFailed("no server is running", "start one: tabagent serve", NO_SERVER)
    return client_of(running, settings)


def client_of(running: Running, settings: Settings) -> httpx.Client:
    return httpx.Client(
        base_url=running.url,
        headers={"Authorization": f"Bearer {owner_token(settings)}"},
        timeout=httpx.Timeout(10, read=None),
        trust_env=False,
    )


def call(client: httpx.Client, method: str, path: str, body: Any = None) -> Any:
    """One operation's reply. Raises CommandFailed with the problem's detail and advice."""
    try:
        response = client.request(method, path, json=body)
    except httpx.HTTPError as error:
        raise CommandFailed(
            "the server went away", "start one: tabagent serve", NO_SERVER
        ) from error
    raise_for_problem(response)
    return response.json()


def raise_for_problem(response: httpx.Response) -> None:
    if response.is_success:
        return
    response.read()
    try:
        document = response.json()
        message = f"{document['detail']} ({document['code']})"
        hint = f"more: {response.url.copy_with(raw_path=document['type'].encode())}"
    except (ValueError, KeyError):
        message, hint = f"the server answered HTTP {response.status_code}", ""
    raise CommandFailed(message, hint)


@contextlib.contextmanager
def server(settings: Settings) -> Iterator[httpx.Client]:
    """A client of the running server, or of one started for as long as this lasts."""
    running = running_server(settings)
    if running is not None:
        with client_of(running, settings) as client:
            yield client
        return
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = settings.data_dir / "server.log"
    process = _start(settings, log)
    try:
        running = _await_start(settings, process, log)
        with client_of(running, settings) as client:
            yield client
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(settings.drain_s + 5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _start(settings: Settings, log: Path) -> subprocess.Popen[bytes]:
    place = ["--data-dir", str(settings.data_dir)]
    with log.open("wb") as output:
        return subprocess.Popen(
            # A free port: 8080 may be anybody's, and only this command talks to this server.
            [sys.executable, "-m", "tabagent", "serve", "--owned", "--port", "0", *place],
            stdin=subprocess.PIPE,  # held open for as long as we live, and closed by our death
            stdout=output,
            stderr=output,
            start_new_session=os.name == "posix",  # Ctrl-C in the terminal is not for it
        )


def _await_start(settings: Settings, process: subprocess.Popen[bytes], log: Path) -> Running:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        running = running_server(settings)
        if running is not None and running.pid == process.pid:
            return running
        time.sleep(0.05)
    words = log.read_text(errors="replace").strip().splitlines()
    first = next((line for line in words if line.startswith("Error: ")), "it did not start in time")
    hint = words[-1].strip() if words else ""
    raise CommandFailed(first.removeprefix("Error: "), hint, process.poll() or NO_SERVER)
