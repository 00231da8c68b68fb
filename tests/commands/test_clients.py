"""`tabagent clients`, against a server, one that serves browsers alone, and no server at all."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from tabagent import frames
from tabagent.commands.failure import CommandFailed
from tabagent.commands.owner_socket import native_socket
from tabagent.runtime import DataDirectory, Running
from tests.commands.test_serve import run, serving

FOX_ID = "abcdefghijklmnopabcdefghijklmnop"
FOX = f"chrome-extension://{FOX_ID}"
OWL_ID = "owl@birds.example"


@pytest.fixture
def place(tmp_path: Path) -> list[str]:
    return ["--data-dir", str(tmp_path)]


def said(*arguments: str) -> str:
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*arguments: str) -> str:
    done = run(*arguments)
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr


def asking(url: str, **asked: Any) -> dict[str, Any]:
    answer = httpx.post(f"{url}/v1/pair", json=asked, headers={"Origin": FOX}, trust_env=False)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_one_that_asks_is_listed_approved_and_revoked(tmp_path: Path, place: list[str]) -> None:
    with serving(tmp_path) as (_, url):
        assert said("clients", *place) == "No extension is approved.\n"
        asked = asking(url, name="Fox")
        listed = said("clients", *place)
        assert asked["code"] in listed and FOX_ID in listed and "it alone" in listed
        assert f"tabagent clients approve {asked['code']}" in listed
        approved = said("clients", "approve", asked["code"].lower(), *place)
        assert approved == f"Fox ({FOX_ID}) is approved with user access\n"
        token = asking(url, secret=asked["secret"])["token"]
        headers = {"Authorization": f"Bearer {token}", "Origin": FOX}
        assert httpx.get(f"{url}/v1/models", headers=headers, trust_env=False).status_code == 200
        lines = said("clients", "list", *place).splitlines()
        assert lines[0].split() == ["id", "name", "extension", "access", "last", "used", "now"]
        id_, *rest = lines[1].split()
        assert rest[:3] == ["Fox", FOX_ID, "user"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", " ".join(rest[3:5]))
        said("clients", "approve", FOX_ID, "--admin", "--name", "Vixen", *place)
        assert said("clients", *place).splitlines()[1].split()[1:4] == ["Vixen", FOX_ID, "admin"]
        assert "there is no client" in refused("clients", "revoke", "none", *place)
        assert said("clients", "revoke", id_, *place) == f"Vixen ({FOX_ID}) is revoked\n"
        assert httpx.get(f"{url}/v1/models", headers=headers, trust_env=False).status_code == 403
        assert "has this code" in refused("clients", "approve", asked["code"], *place)


def test_the_server_says_on_its_console_who_asks(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, url):
        code = asking(url, name="Fox")["code"]
        process.terminate()
        out, err = process.communicate(timeout=20)
    assert f"extension {FOX_ID} asks to be approved: tabagent clients approve {code}" in out
    assert "client_asks" in err and code in err


def test_without_a_server_its_database_is_asked(tmp_path: Path, place: list[str]) -> None:
    assert "No extension is approved." in said("clients", *place)
    approved = said("clients", "approve", FOX_ID, "--name", "Fox", *place)
    assert approved == f"Fox ({FOX_ID}) is approved with user access\n"
    said("clients", "approve", OWL_ID, "--admin", *place)
    listed = said("clients", *place)
    assert OWL_ID in listed and "never" in listed and "No server runs" in listed
    assert "only a running one knows codes" in refused("clients", "approve", "ABCD-2345", *place)
    assert said("clients", "revoke", OWL_ID, *place) == f"{OWL_ID} is revoked\n"
    assert "there is no client" in refused("clients", "revoke", OWL_ID, *place)
    with serving(tmp_path) as (_, _):
        assert said("clients", *place).splitlines()[1].split()[1:4] == ["Fox", FOX_ID, "user"]


@pytest.mark.parametrize("which", ["", "abc", "https://x.example", "chrome-extension://abc"])
def test_what_names_no_extension_is_refused(place: list[str], which: str) -> None:
    assert "neither a code nor" in refused("clients", "approve", which, *place)


def test_a_name_cannot_command_the_terminal(place: list[str]) -> None:
    assert "name" in refused("clients", "approve", FOX_ID, "--name", "\x1b[31mred", *place)
    said("clients", "approve", FOX_ID, "--name", "[red]fox[/red]", *place)
    assert "[red]fox[/red]" in said("clients", *place)


def test_a_directory_whose_server_does_not_answer_is_left_alone(
    tmp_path: Path, place: list[str]
) -> None:
    directory = DataDirectory(tmp_path)
    directory.take()
    try:
        assert "does not answer" in refused("clients", "approve", FOX_ID, *place)
    finally:
        directory.release()


def test_a_server_for_browsers_alone_is_asked_over_its_socket(
    tmp_path: Path, place: list[str]
) -> None:
    with serving(tmp_path, "--mode", "native") as (_, url):
        running = DataDirectory(tmp_path).running()
        assert url == "" and running and running.native
        with native_socket(running.native, FOX + "/") as fox:
            code = fox.ask("hello", {})["code"]
            listed = said("clients", *place)
            assert code in listed and "the browser" in listed
            assert "approved with user" in said("clients", "approve", code, *place)
            assert fox.ask("hello", {})["state"] == "paired"
            assert "is revoked" in said("clients", "revoke", FOX_ID, *place)
        with (
            native_socket(running.native, FOX + "/") as fox,
            pytest.raises(CommandFailed, match="pairing-required"),
        ):
            fox.ask("models", {})
        for wrong in ("owner:", "owner:" + "x" * 64):  # only the owner's token makes the owner
            for route in ("list_clients", "models"):
                with (
                    native_socket(running.native, wrong + "/") as stranger,
                    pytest.raises(CommandFailed, match=r"unauthorized|pairing-required"),
                ):
                    stranger.ask(route, {})


def test_after_a_server_for_browsers_alone_was_killed_its_database_is_asked(
    tmp_path: Path, place: list[str]
) -> None:
    with serving(tmp_path, "--mode", "native") as (process, _):
        process.kill()
        process.wait()
    assert (tmp_path / "runtime.json").exists()
    assert "approved with user" in said("clients", "approve", FOX_ID, *place)


@pytest.fixture
def impostor() -> Iterator[tuple[str, list[str]]]:
    """Somebody else's server at a port that once was ours; its URL, and the tokens that it got."""
    got: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            got.append(self.headers.get("Authorization", ""))
            body = b'{"status":"ok","data":[],"pending":[]}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", got
        server.shutdown()


def test_who_took_over_the_port_of_a_server_that_died_is_not_told_the_token(
    tmp_path: Path, place: list[str], impostor: tuple[str, list[str]]
) -> None:
    url, got = impostor
    said("clients", *place)  # makes the directory
    DataDirectory(tmp_path).announce(Running(1, url, "0"))
    assert "No server runs" in said("clients", *place)
    DataDirectory(tmp_path).announce(Running(1, url, "0"))
    assert "no server is running" in refused("load", "x/y", *place)
    assert got == []


def test_parts_that_come_together_are_all_read(tmp_path: Path) -> None:
    text = json.dumps({"request_id": "1", "success": True, "data": "x" * 100})
    parts = [
        {"request_id": "1", "success": True, "event": "part", "seq": seq, "more": more, "text": t}
        for seq, more, t in ((0, True, text[:50]), (1, False, text[50:]))
    ]
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server, ThreadPoolExecutor(1) as pool:
        server.bind(path)
        server.listen()

        def ask() -> Any:
            with native_socket({"path": path}, FOX) as line:
                return line.ask("hello", {})

        asked = pool.submit(ask)
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"".join(frames.encode(json.dumps(p).encode()) for p in parts))
            assert asked.result(5) == "x" * 100
