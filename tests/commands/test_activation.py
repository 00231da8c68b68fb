"""`tabagent serve` under a service manager: sockets that it opened, and what it is told."""

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

from tabagent.commands.activation import NOTIFY_S, notifier
from tabagent.runtime import DataDirectory, Running
from tests.commands.test_serve import TABAGENT
from tests.live import eventually

# As a service manager does it: the sockets from 3 on, its own pid said, and then it becomes the
# server. With a pid that is not its own, the words are for somebody else.
PARENT = """
import fcntl, os, sys
pid, given, command = sys.argv[1], sys.argv[2].split(","), sys.argv[3:]
spare = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 20) for number in given]  # out of the way
for place, number in enumerate(spare, 3):
    os.dup2(number, place)
os.environ["LISTEN_PID"] = pid or str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(given))
os.environ["LISTEN_FDNAMES"] = "http"
os.execv(command[0], command)
"""


@contextmanager
def activated(
    data: Path, *sockets: socket.socket, pid: str = "", more: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    descriptors = [each.fileno() for each in sockets]
    serve = [*TABAGENT, "serve", "--data-dir", str(data), *more]
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, pid, ",".join(map(str, descriptors)), *serve],
        pass_fds=descriptors,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=20)


def refusal(data: Path, *sockets: socket.socket, more: tuple[str, ...] = ()) -> str:
    with activated(data, *sockets, more=more) as process:
        _, err = process.communicate(timeout=20)
    assert process.returncode == 78, err
    return err


def announced(process: subprocess.Popen[str], data: Path) -> Running:
    def look() -> Running | None:
        assert process.poll() is None, process.communicate()
        return DataDirectory(data).running()

    found: Running = eventually(look, 20)
    return found


def test_who_connects_before_the_server_runs_is_answered_by_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as port:
        number = port.getsockname()[1]
        with socket.create_connection(("127.0.0.1", number)) as early:
            early.settimeout(20)
            early.sendall(
                b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n" % number
            )
            with activated(tmp_path / "d", port) as process:
                assert early.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
                running = announced(process, tmp_path / "d")
                assert running.url == f"http://127.0.0.1:{number}"  # and not port 8080
                httpx.get(f"{running.url}/health", trust_env=False).raise_for_status()


def test_one_port_on_two_addresses_is_served_on_both(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as first:
        number = first.getsockname()[1]
        with (
            socket.create_server(("127.0.0.2", number)) as second,
            activated(tmp_path, first, second) as process,
        ):
            announced(process, tmp_path)
            for host in ("127.0.0.1", "127.0.0.2"):
                answer = httpx.get(
                    f"http://{host}:{number}/health",
                    headers={"Host": f"127.0.0.1:{number}"},
                    trust_env=False,
                )
                assert answer.status_code == 200


def test_a_client_is_told_of_the_socket_that_is_really_listened_on(tmp_path: Path) -> None:
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as port,
        activated(tmp_path, port) as process,
    ):
        url = announced(process, tmp_path).url
        assert url == f"http://[::1]:{port.getsockname()[1]}"
        assert httpx.get(f"{url}/v1/hello", trust_env=False).json()["url"] == url


def test_the_workers_hear_nothing_of_the_sockets(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as port,
        activated(tmp_path, port) as process,
    ):
        url = announced(process, tmp_path).url
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
        httpx.post(
            f"{url}/v1/chat/completions", json=body, timeout=30, trust_env=False
        ).raise_for_status()
        family = psutil.Process(process.pid).children(recursive=True)
        assert family
        for worker in family:
            assert not any(name.startswith("LISTEN_") for name in worker.environ())
            assert not worker.net_connections("tcp")


def test_words_for_another_process_are_not_for_this_one(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as port,
        activated(tmp_path, port, pid="1", more=("--port", "0")) as process,
    ):
        running = announced(process, tmp_path)
        assert not running.url.endswith(f":{port.getsockname()[1]}")


def test_a_port_that_is_open_to_others_needs_settings_that_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else everybody could use it without a token, for `host` says that nobody else can."""
    with socket.create_server(("0.0.0.0", 0)) as port:
        said = refusal(tmp_path, port)
        assert "open on 0.0.0.0, but `host` is 127.0.0.1" in said
        assert "without a token" in refusal(tmp_path, port, more=("--host", "0.0.0.0"))
        monkeypatch.setenv("TABAGENT_TOKEN", "w" * 20)
        with activated(tmp_path, port, more=("--host", "0.0.0.0")) as process:
            url = announced(process, tmp_path).url
            assert httpx.get(f"{url}/v1/models", trust_env=False).status_code == 401


def test_what_is_no_listening_tcp_socket_is_refused(tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_UNIX) as local,
        socket.socket() as idle,
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
    ):
        local.bind(str(tmp_path / "s"))
        local.listen()
        for wrong in (local, idle, datagrams):
            assert "is no listening TCP socket" in refusal(tmp_path / "d", wrong)
    with socket.create_server(("127.0.0.1", 0)) as port:
        said = refusal(tmp_path / "d", port, more=("--mode", "native"))
        assert "a port was handed over" in said
        with socket.create_server(("127.0.0.1", 0)) as other:
            assert "ports that differ" in refusal(tmp_path / "d", port, other)


def test_a_descriptor_that_is_no_socket_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        environment = os.environ | {"LISTEN_FDS": "1"}
        program = PARENT.replace("str(len(given))", '"1"')
        done = subprocess.run(
            [sys.executable, "-c", program, "", str(file.fileno()), *TABAGENT, "serve"],
            pass_fds=[file.fileno()],
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 78
    assert "LISTEN_FDS says 1, but 3 is no socket" in done.stderr


def test_what_was_read_goes_to_no_program_that_is_started_later(tmp_path: Path) -> None:
    look = (
        "import os; from tabagent.commands.activation import inherited; (port,) = inherited();"
        "print(port.fileno(), port.get_inheritable(), 'LISTEN_FDS' in os.environ, inherited())"
    )
    with socket.create_server(("127.0.0.1", 0)) as port:
        done = subprocess.run(
            [sys.executable, "-c", PARENT, "", str(port.fileno()), sys.executable, "-c", look],
            pass_fds=[port.fileno()],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    assert done.stdout == "3 False False []\n"


@pytest.mark.parametrize("abstract", [False, True])
def test_the_manager_hears_when_it_is_ready_and_when_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    name = f"@tabagent-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        manager.settimeout(20)
        process = subprocess.Popen(
            [*TABAGENT, "serve", "--port", "0", "--data-dir", str(tmp_path / "d")],
            env=os.environ | {"NOTIFY_SOCKET": name},
            stdout=subprocess.DEVNULL,
        )
        try:
            assert manager.recv(256) == b"READY=1"
            running = DataDirectory(tmp_path / "d").running()
            assert running is not None
            httpx.get(f"{running.url}/health", trust_env=False).raise_for_status()
            process.send_signal(signal.SIGTERM)
            assert manager.recv(256) == b"STOPPING=1"
        finally:
            process.terminate()
            assert process.wait(20) == 0


def test_a_manager_that_is_gone_or_does_not_read_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notifier()("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "deaf"))
        notify = notifier()
        assert "NOTIFY_SOCKET" not in os.environ
        began = time.monotonic()
        for _ in range(3):
            notify("X=" + "x" * 1000)
        while time.monotonic() - began < NOTIFY_S / 2:
            notify("READY=1")  # until its queue is full, and one has waited
        assert time.monotonic() - began < 4 * NOTIFY_S
