"""The host: what goes in comes out, and whatever happens it speaks in frames and ends in time."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from native_host import relay
from tabagent import __version__, frames
from tabagent.errors import CATALOGUE
from tests.live import eventually
from tests.native_host import plain_server
from tests.native_host.hosts import ID, ORIGIN, PLAIN, HostProcess, Place, framed

MB = 2**20


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "d")
    yield made
    made.stop_all()


def echo(name: str, **payload: Any) -> dict[str, Any]:
    return {"request_id": name, "route": "echo", "payload": payload}


def code(message: dict[str, Any]) -> str:
    return str(message["error"]["code"])


def pour(host: HostProcess, data: bytes) -> None:
    """Below the buffer, whose lock nothing can wake."""
    rest = memoryview(data)
    with contextlib.suppress(OSError):
        while rest:
            rest = rest[os.write(host.stdin.fileno(), rest) :]


# ---- carrying -----------------------------------------------------------------------------------
def test_it_says_that_it_is_connected_and_to_which_version(place: Place) -> None:
    with place.server(), place.host() as host:
        first = host.messages.get(timeout=10)
        assert first["event"] == "status"
        assert first["data"] == {"state": "connected", "version": plain_server.VERSION}
        assert host.ask(echo("r1"))["request_id"] == "r1"


def test_the_server_is_told_who_the_browser_says_is_calling(place: Place) -> None:
    with place.server(), place.host(ORIGIN, "--parent-window=0") as host:
        said = host.ask({"request_id": "r1", "route": "preface"})["data"]
    assert said == {"origin": ORIGIN, "host_version": relay.VERSION}


def test_an_add_on_of_firefox_is_told_by_its_id(place: Place) -> None:
    place.configure(allowed_extensions=["extension@tabagent.local"])
    arguments = ("/home/x/tabagent.host.json", "extension@tabagent.local")
    with place.server(), place.host(*arguments) as host:
        said = host.ask({"request_id": "r1", "route": "preface"})["data"]
    assert said["origin"] == "moz-extension-id:extension@tabagent.local"


def test_over_tcp_it_shows_the_servers_token(place: Place) -> None:
    with place.server("--tcp"), place.host() as host:
        said = host.ask({"request_id": "r1", "route": "preface"})["data"]
    assert said["token"] == plain_server.TOKEN


def test_sixty_four_requests_at_once_are_all_answered(place: Place) -> None:
    with place.server(), place.host() as host:
        host.stdin.write(b"".join(framed(echo(f"r{n}")) for n in range(64)))
        host.stdin.flush()
        found = {host.receive()["request_id"] for _ in range(64)}
    assert found == {f"r{n}" for n in range(64)}


def test_the_largest_frame_goes_in_and_twenty_megabytes_come_out(place: Place) -> None:
    body = json.dumps(echo("r1")).encode().ljust(relay.MOST)
    with place.server(), place.host() as host:
        assert host.ask(body, 30)["data"]["bytes"] == relay.MOST
        many = {"count": 80, "size": 256 * 1024}
        host.send({"request_id": "r2", "route": "many", "payload": many})
        chunks = [host.receive() for _ in range(80)]
    assert [chunk["seq"] for chunk in chunks] == list(range(80))
    assert sum(len(chunk["data"]) for chunk in chunks) == 20 * MB


def test_a_frame_over_the_limit_is_passed_over_and_said_to_be(place: Place) -> None:
    with place.server(), place.host() as host:
        writer = threading.Thread(target=pour, args=(host, framed(bytes(relay.MOST + 1))))
        writer.start()
        refused = host.receive(30)
        assert (refused["request_id"], code(refused)) == (None, "payload-too-large")
        assert refused["error"]["limit_bytes"] == relay.MOST
        writer.join(10)
        assert not writer.is_alive()
        assert host.ask(echo("r1"))["request_id"] == "r1"


def test_what_a_browser_would_close_the_port_for_is_not_passed_to_it(place: Place) -> None:
    def exactly(name: str, count: int) -> dict[str, Any]:
        return {"request_id": name, "route": "exactly", "payload": {"bytes": count}}

    with place.server(), place.host() as host:
        assert len(json.dumps(host.ask(exactly("r1", MB)))) == MB
        refused = host.ask(exactly("r2", MB + 1))
        assert (refused["request_id"], code(refused)) == ("r2", "payload-too-large")
        assert host.ask(echo("r3"))["request_id"] == "r3"
    assert not host.broken


def test_two_hosts_do_not_get_in_each_others_way(place: Place) -> None:
    with place.server(), place.host() as one, place.host() as other:
        for n in range(20):
            one.send(echo(f"a{n}"))
            other.send(echo(f"b{n}"))
        assert [one.receive()["request_id"] for _ in range(20)] == [f"a{n}" for n in range(20)]
        assert [other.receive()["request_id"] for _ in range(20)] == [f"b{n}" for n in range(20)]


def test_a_browser_that_does_not_read_is_waited_for_in_little_memory(place: Place) -> None:
    with place.server(), place.host(reading=False) as host:
        many = {"count": 400, "size": 256 * 1024}
        host.send({"request_id": "r1", "route": "many", "payload": many})
        process = psutil.Process(host.process.pid)
        eventually(lambda: process.status() == psutil.STATUS_SLEEPING)
        before = process.memory_info().rss
        time.sleep(0.5)  # what it would take in by now is the test
        assert process.memory_info().rss - before < 4 * MB
        assert process.memory_info().rss < 64 * MB
        host.read_on()
        assert [host.receive()["seq"] for _ in range(400)] == list(range(400))


# ---- ends ---------------------------------------------------------------------------------------
def test_it_ends_with_the_browser(place: Place) -> None:
    with place.server(), place.host() as host:
        host.ask(echo("r1"))
        began = time.monotonic()
        host.finish()
        assert time.monotonic() - began < 1
        assert host.process.returncode == 0
        assert host.said_to_stderr() == ""


def test_what_was_said_last_is_passed_on_before_it_ends(place: Place) -> None:
    with place.server(), place.host() as host:
        host.ask(echo("r1"))
        host.send({"request_id": "r2", "route": "die"})
        host.finish()
        eventually(lambda: not place.running())


def written(host: HostProcess, body: bytes) -> int:
    """Bytes of a frame's beginning that the pipe takes now."""
    try:
        return os.write(host.stdin.fileno(), framed(body))
    except BlockingIOError:
        return 0


def fill(host: HostProcess) -> None:
    """Write until nothing is taken any more, not for a while and then for good."""
    refused, deadline = 0, time.monotonic() + 10
    while refused < 30:
        refused = 0 if written(host, bytes(MB)) else refused + 1
        assert time.monotonic() < deadline
        time.sleep(0.01 if refused else 0)


@pytest.mark.parametrize("kind", ["unread answers", "a server that takes nothing"])
def test_it_ends_with_the_browser_whatever_it_is_blocked_in(place: Place, kind: str) -> None:
    with place.server(), place.host(reading=False) as host:
        if kind == "unread answers":
            many = {"count": 400, "size": 256 * 1024}
            host.send({"request_id": "r1", "route": "many", "payload": many})
        else:
            host.send({"request_id": "r1", "route": "stall"})
            os.set_blocking(host.stdin.fileno(), False)
            fill(host)
        time.sleep(0.3)  # until it is blocked
        assert host.process.poll() is None
        began = time.monotonic()
        host.stdin.close()
        host.process.wait(5)
        assert time.monotonic() - began < 2


# ---- servers that are not there -----------------------------------------------------------------
def test_without_a_server_each_message_is_answered_in_time(place: Place) -> None:
    with place.host() as host:
        for body, name in (
            (echo("r1"), "r1"),
            (b"no json", None),
            (b"[" * 100_000, None),
            (b"[1]", None),
            ({"request_id": "x" * 65}, None),
            ({"request_id": 7}, None),
            (echo("r2"), "r2"),
        ):
            began = time.monotonic()
            answer = host.ask(body)
            assert time.monotonic() - began < 0.5
            assert (answer["request_id"], code(answer)) == (name, "server-unreachable")
            assert "tabagent serve" in answer["error"]["detail"]
        with place.server():
            assert host.ask(echo("r3"))["success"]


def test_a_server_that_was_killed_is_said_to_be_gone_and_found_again(place: Place) -> None:
    with place.host() as host:
        for _ in range(3):
            with place.server() as process:
                assert host.ask(echo("r1"))["success"]
                process.kill()
                gone = host.receive()
                assert (gone["request_id"], code(gone)) == (None, "server-unreachable")
            missed = host.ask(echo("r2"))
            assert (missed["request_id"], code(missed)) == ("r2", "server-unreachable")
        with place.server():
            assert host.ask(echo("r3"))["request_id"] == "r3"


def test_a_server_that_hangs_up_is_called_again(place: Place) -> None:
    with place.server(), place.host() as host:
        assert code(host.ask({"request_id": "r1", "route": "hang up"})) == "server-unreachable"
        assert host.ask(echo("r2"))["request_id"] == "r2"


def test_a_stale_address_is_no_server(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    for native in ({"port": port, "token": "x"}, {"path": "/nowhere"}, {"path": 7}, {}, None):
        text = json.dumps({"pid": 1, "url": "", "version": "1", "native": native})
        (place.data_dir / "runtime.json").write_text(text)
        with place.host() as host:
            assert code(host.ask(echo("r1"))) == "server-unreachable"
    for text in ("", "[]", "[" * 100_000, "\udcff"):
        (place.data_dir / "runtime.json").write_text(text, errors="surrogateescape")
        with place.host() as host:
            assert code(host.ask(echo("r1"))) == "server-unreachable"


# ---- starting one -------------------------------------------------------------------------------
def test_a_server_is_started_and_the_messages_wait_for_it(place: Place) -> None:
    place.configure(auto_start=True, command=[*PLAIN, "--delay", "1.2"])
    with place.host() as host:
        host.send(echo("r1"))
        told = []
        while (message := host.messages.get(timeout=10)).get("event") == "status":
            told.append(message["data"])
        assert message["request_id"] == "r1"
        starting = [one["elapsed_ms"] for one in told if one["state"] == "starting"]
        assert len(starting) >= 2
        assert starting == sorted(starting)
        assert told[-1] == {"state": "connected", "version": plain_server.VERSION}
    (server,) = place.running()  # it outlives the browser
    assert server.ppid() != host.process.pid
    assert os.getsid(server.pid) == server.pid  # and what is sent to all of the browser's
    assert (place.data_dir / "server.log").read_text().startswith("starting")
    assert (place.data_dir / "server.log").stat().st_mode & 0o777 == 0o600


def test_a_server_has_none_of_the_browsers_pipes(place: Place) -> None:
    place.configure(auto_start=True)
    with place.host() as host:
        host.ask(echo("r1"))
        assert host.finish() is not None  # its stdout ended: nobody else holds that pipe
    assert place.running()


def test_many_hosts_make_one_server(place: Place) -> None:
    place.configure(auto_start=True, command=[*PLAIN, "--delay", "0.7"])
    with contextlib.ExitStack() as all_of_them:
        hosts = [all_of_them.enter_context(place.host()) for _ in range(6)]
        for host in hosts:
            host.send(echo("r1"))
        assert all(host.receive(20)["success"] for host in hosts)
        eventually(lambda: len(place.running()) == 1)


def test_a_server_that_died_is_started_again_at_the_next_message(place: Place) -> None:
    place.configure(auto_start=True)
    with place.host() as host:
        host.ask(echo("r1"))
        assert code(host.ask({"request_id": "r2", "route": "die"})) == "server-unreachable"
        (dead,) = place.started()
        eventually(lambda: not psutil.pid_exists(dead))  # nor are its remains there
        assert host.ask(echo("r3"))["request_id"] == "r3"
    assert len(place.started()) == 2
    assert len(place.running()) == 1


def test_a_start_that_fails_says_the_servers_last_words(place: Place) -> None:
    words = "Error: the data directory cannot be used: No space left on device"
    place.configure(auto_start=True, command=[*PLAIN, "--words", words, "--code", "1"])
    with place.host() as host:
        at_once = host.receive()
        assert (at_once["request_id"], code(at_once)) == (None, "server-unreachable")
        answer = host.ask(echo("r1"))
        detail = answer["error"]["detail"]
        assert answer["request_id"] == "r1"
        assert detail == f"The server did not start: {words.removeprefix('Error: ')}"
        for n in range(5):  # those that waited are not held up by five more tries
            assert host.ask(echo(f"r{n}"))["request_id"] == f"r{n}"
    assert len(place.started()) == 1


def test_a_start_without_words_tells_no_paths(place: Place) -> None:
    place.configure(auto_start=True, command=[sys.executable, "-m", "no_such_module_here"])
    with place.host() as host:
        detail = host.ask(echo("r1"))["error"]["detail"]
    assert detail == "The server did not start (exit code 1). `tabagent serve` shows why."


def test_an_interpreter_that_is_gone_is_said_to_be(place: Place) -> None:
    place.configure(auto_start=True, command=["/nowhere/bin/python", "-m", "tabagent", "serve"])
    with place.host() as host:
        detail = host.ask(echo("r1"))["error"]["detail"]
    assert detail.startswith("The server cannot be run: No such file or directory.")
    assert "tabagent doctor --browser" in detail


def test_where_the_port_is_taken_another_is_used(place: Place) -> None:
    place.configure(auto_start=True, command=[*PLAIN, "--only-with-port"])
    with place.host() as host:
        assert host.ask(echo("r1"))["success"]


def test_a_server_with_http_alone_is_not_waited_for(place: Place) -> None:
    place.configure(auto_start=True)
    with place.server("--http-alone"), place.host() as host:
        assert "--mode both" in host.ask(echo("r1"))["error"]["detail"]


def test_a_browser_that_leaves_while_a_server_starts_is_not_waited_for(place: Place) -> None:
    place.configure(auto_start=True, command=[*PLAIN, "--delay", "20"])
    with place.host() as host:
        host.receive_that(lambda message: message["data"]["state"] == "starting")
        began = time.monotonic()
        host.finish()
        assert time.monotonic() - began < 1.5


# ---- who may ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "arguments",
    [
        ("chrome-extension://ponmlkjihgfedcbaponmlkjihgfedcba/",),
        (ORIGIN.rstrip("/"),),
        (ORIGIN + "x",),
        ("/x/tabagent.host.json", "other@example.org"),
        ("--parent-window=0",),
        (ID,),
    ],
)
def test_who_was_not_allowed_is_refused(place: Place, arguments: tuple[str, ...]) -> None:
    with place.server(), place.host(*arguments) as host:
        refused = host.receive()
        assert (refused["request_id"], code(refused)) == (None, "origin-not-allowed")
        assert host.process.wait(5) == 77


@pytest.mark.parametrize("text", [None, "", "[]", "[" * 100_000, "{"])
def test_a_host_without_its_configuration_says_how_to_mend_it(
    place: Place, text: str | None
) -> None:
    config = place.files / "host.json"
    config.unlink() if text is None else config.write_text(text)
    with place.host() as host:
        assert "tabagent native install" in host.receive()["error"]["detail"]
        assert host.process.wait(5) == 78


# ---- the file -----------------------------------------------------------------------------------
def test_its_problems_are_those_of_the_catalogue() -> None:
    for slug, (status, title, retryable, kind) in relay.PROBLEMS.items():
        error = CATALOGUE[slug]
        found = (error.status, error.title, error.retryable, error.kind)
        assert found == (status, title, retryable, kind)


def test_its_version_and_limits_are_the_servers() -> None:
    assert __version__ == relay.VERSION
    assert relay.MOST == frames.MAX_FRAME


def test_a_problem_has_the_id_of_its_request() -> None:
    mine = "0b9e6b3c-0f3e-4d3f-9a55-3a4f0e0b7d11"
    assert relay.as_uuid(mine) == mine
    for other in (None, "r1", "x" * 32, "é" * 32):
        fresh = relay.as_uuid(other)
        assert [len(part) for part in fresh.split("-")] == [8, 4, 4, 4, 12]
        assert fresh != relay.as_uuid(other)


def test_it_is_plain_python_of_older_versions() -> None:
    text = Path(relay.__file__).read_text()
    ast.parse(text, feature_version=(3, 9))
    imported = {
        name.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import)
        for name in node.names
    }
    assert imported <= {
        *("json", "msvcrt", "os", "select", "socket", "subprocess", "sys", "threading", "time"),
    }


def _other_pythons() -> list[str]:
    names = [f"python3.{minor}" for minor in range(9, 16)]
    places = [shutil.which(name) for name in names]
    places += [str(path) for path in Path.home().glob(".pyenv/versions/3.*/bin/python3")]
    found: dict[str, str] = {}
    for path in filter(None, places):
        asked = "import sys; print(sys.version_info[:2]) if sys.version_info > (3, 9) else None"
        done = subprocess.run([path, "-ISc", asked], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip():
            found.setdefault(done.stdout.strip(), path)
    return list(found.values())


def test_it_runs_with_every_python_that_is_here(tmp_path: Path) -> None:
    for n, python in enumerate(_other_pythons()):
        place = Place(tmp_path / str(n), python=python, auto_start=True)
        try:
            with place.host() as host:
                assert host.ask(echo("r1"))["request_id"] == "r1", python
                host.finish()
                assert host.said_to_stderr() == ""
        finally:
            place.stop_all()


def test_nothing_that_prints_reaches_the_browser(place: Place) -> None:
    file = place.files / "relay.py"
    noisy = '__import__("os").system("echo noise")\n    print("noise", flush=True)\n    origin ='
    file.write_text(file.read_text().replace("origin =", noisy, 1))
    assert "noise" in file.read_text()
    with place.server(), place.host() as host:
        assert host.ask(echo("r1"))["request_id"] == "r1"
        host.finish()
        assert host.said_to_stderr() == "noise\nnoise\n"


def test_it_says_nothing_that_nobody_asked_for(place: Place) -> None:
    with place.server(), place.host() as host:
        assert host.ask(echo("r1"))["success"]
        with pytest.raises(queue.Empty):
            host.messages.get(timeout=0.3)
