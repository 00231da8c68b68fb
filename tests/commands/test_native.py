"""`tabagent native`, `tabagent stop` and `doctor --browser`, as a person types them."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from native_host.install import ADDON_ID, EXTENSION_ID
from tabagent.commands import stop
from tabagent.commands.failure import CommandFailed
from tabagent.config import Settings
from tabagent.runtime import DataDirectory
from tests.commands.test_serve import TABAGENT, run, serving
from tests.live import eventually
from tests.native_host.hosts import ID, HostProcess

MANIFEST = "chromium/NativeMessagingHosts/tabagent.host.json"


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))  # no browser of this machine
    monkeypatch.setenv("COLUMNS", "200")


def done(*arguments: str) -> str:
    result = run(*arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    return result.stdout


def test_install_tells_the_browsers_that_are_found_and_approves_the_extension(
    tmp_path: Path,
) -> None:
    (tmp_path / "config/chromium").mkdir(parents=True)
    (tmp_path / "home/.mozilla").mkdir(parents=True)
    data = tmp_path / "d"
    said = done("native", "install", "--data-dir", str(data))
    assert "Found: Chromium, Firefox" in said
    for id_ in (EXTENSION_ID, ADDON_ID):
        assert f"Approved: {id_}, with user access" in said
        assert f"tabagent clients revoke {id_}" in said
    manifest = json.loads((tmp_path / "config" / MANIFEST).read_text())
    assert manifest["allowed_origins"] == [f"chrome-extension://{EXTENSION_ID}/"]
    assert Path(manifest["path"]).parent == data / "native_host"
    assert EXTENSION_ID in done("clients", "--data-dir", str(data))
    # Again: nobody's access changes.
    done("clients", "approve", EXTENSION_ID, "--admin", "--data-dir", str(data))
    said = done("native", "install", "--data-dir", str(data))
    assert f"Approved already: {EXTENSION_ID}, with admin access" in said
    said = done("native", "status", "--data-dir", str(data))
    assert f"Chromium: {EXTENSION_ID} may call" in said
    assert "All is well" in done("doctor", "--browser", "--data-dir", str(data))
    said = done("native", "uninstall", "--data-dir", str(data))
    assert f"removed {tmp_path / 'config' / MANIFEST}" in said
    assert not (data / "native_host").exists()
    assert "Nothing of ours" in done("native", "uninstall", "--data-dir", str(data))
    assert "not told" in done("native", "status", "--data-dir", str(data))


def test_beside_a_server_the_extension_is_approved_by_it(tmp_path: Path) -> None:
    with serving(tmp_path / "d"):
        place = ("--data-dir", str(tmp_path / "d"))
        said = done("native", "install", "--browser", "edge", "--extension-id", ID, *place)
        assert "Microsoft Edge is not found here" in said
        assert f"Approved: {ID}" in said
        assert ID in done("clients", *place)


def test_nobody_is_approved_who_should_not_be(tmp_path: Path) -> None:
    place = ("--data-dir", str(tmp_path / "d"))
    said = done("native", "install", "--browser", "chrome", "--no-approve", *place)
    assert "Approved" not in said
    assert not (tmp_path / "d/tabagent.db").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--browser", "lynx"], 2, "there is no browser lynx"),
        (["--browser", "chrome", "--extension-id", "x"], 2, "x is not the id of an extension"),
        ([], 1, "no browser is found"),
        (["--browser", "brave", "--system"], 1, "Brave has no place for hosts of all users"),
        (["--browser", "firefox", "--user-data-dir", "p"], 1, "no hosts of its own in Firefox"),
    ],
)
def test_what_cannot_be_installed_is_one_line(
    tmp_path: Path, arguments: list[str], code: int, says: str
) -> None:
    result = run("native", "install", *arguments, "--data-dir", str(tmp_path / "d"))
    assert result.returncode == code
    assert result.stderr.startswith(f"Error: {says}") or says in result.stderr.splitlines()[0]
    assert not (tmp_path / "d").exists()


def test_a_place_that_may_not_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("")
    result = run("native", "install", "--browser", "chrome", "--data-dir", str(tmp_path / "d"))
    assert result.returncode == 1
    assert "cannot be written" in result.stderr
    assert "Traceback" not in result.stderr


def test_doctor_fails_where_a_browser_would(tmp_path: Path) -> None:
    (tmp_path / "config/chromium").mkdir(parents=True)
    result = run("doctor", "--browser", "--data-dir", str(tmp_path / "d"))
    assert result.returncode == 1
    assert "was not told of the host" in result.stdout
    assert "tabagent native install --browser chromium" in result.stdout
    assert not (tmp_path / "d").exists()


# ---- all of it ----------------------------------------------------------------------------------
def told(tmp_path: Path, *more: str) -> list[str]:
    """What a browser runs after an installation."""
    place = ("--data-dir", str(tmp_path / "d"))
    done("native", "install", "--browser", "chromium", *more, *place)
    manifest = json.loads((tmp_path / "config" / MANIFEST).read_text())
    return [manifest["path"], manifest["allowed_origins"][0]]


def installed_host(tmp_path: Path, *more: str) -> HostProcess:
    return HostProcess(told(tmp_path, *more))


def hello(host: HostProcess) -> dict[str, Any]:
    answer = host.ask({"request_id": "h", "route": "hello"}, 30)
    assert answer["success"], answer
    data: dict[str, Any] = answer["data"]
    return data


def test_a_browser_starts_the_real_server_and_stop_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TABAGENT_PORT", "0")
    place = ("--data-dir", str(tmp_path / "d"))
    with installed_host(tmp_path) as host:
        said = hello(host)
        assert said["state"] == "paired"  # approved when it was installed
        assert said["origin"] == f"chrome-extension://{EXTENSION_ID}"
        httpx.get(f"{said['url']}/health").raise_for_status()
        running = DataDirectory(tmp_path / "d").running()
        assert running is not None
        words = done("stop", *place)
        assert f"pid {running.pid}" in words
        gone = host.receive()
        assert gone["error"]["code"] == "server-unreachable"
        assert not psutil.pid_exists(running.pid)
        # The browser asks again, and there is one again.
        assert hello(host)["state"] == "paired"
    again = DataDirectory(tmp_path / "d").running()
    assert again is not None
    assert again.pid != running.pid
    assert done("stop", *place).startswith("The server")
    assert done("stop", *place) == "No server runs.\n"


def servers(data_dir: Path) -> list[int]:
    """The processes that serve this directory, or are about to."""
    found = psutil.process_iter(["cmdline"])
    serving = {"serve", str(data_dir)}
    return [process.pid for process in found if serving <= {*(process.info["cmdline"] or ())}]


def test_three_browsers_at_once_start_one_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TABAGENT_PORT", "0")
    with (
        installed_host(tmp_path) as one,
        installed_host(tmp_path, "--no-approve") as two,
        installed_host(tmp_path, "--no-approve") as three,
    ):
        for host in (one, two, three):
            host.send({"request_id": "h", "route": "hello"})
        urls = {host.receive(40)["data"]["url"] for host in (one, two, three)}
        assert len(urls) == 1
        eventually(lambda: len(servers(tmp_path / "d")) == 1, 20)  # one that came late would stay
    done("stop", "--now", "--data-dir", str(tmp_path / "d"))
    assert not servers(tmp_path / "d")


def test_a_taken_port_keeps_no_browser_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("TABAGENT_PORT", str(port))
        with installed_host(tmp_path) as host:
            assert f":{port}" not in hello(host)["url"]
        done("stop", "--data-dir", str(tmp_path / "d"))


def test_a_server_that_cannot_start_says_why_to_the_browser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = told(tmp_path)
    monkeypatch.setenv("TABAGENT_SLOTS", "0")
    with HostProcess(command) as host:
        answer = host.ask({"request_id": "h", "route": "hello"}, 30)
    assert answer["error"]["code"] == "server-unreachable"
    detail = answer["error"]["detail"]
    assert detail.startswith("The server did not start: slots (from TABAGENT_SLOTS)")
    assert str(tmp_path) not in detail


# ---- stop ---------------------------------------------------------------------------------------
def test_the_address_of_a_dead_server_is_no_server_to_stop(tmp_path: Path) -> None:
    place = ("--data-dir", str(tmp_path))
    with serving(tmp_path) as (process, _):
        process.kill()
        process.wait()
    stale = json.loads((tmp_path / "runtime.json").read_text())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as innocent:
        stale["pid"] = innocent.pid  # somebody else has that number by now
        (tmp_path / "runtime.json").write_text(json.dumps(stale))
        assert done("stop", *place) == "No server runs.\n"
        assert innocent.poll() is None
        innocent.kill()


def test_stop_waits_for_a_server_that_is_only_starting(tmp_path: Path) -> None:
    place = ("--data-dir", str(tmp_path))
    process = subprocess.Popen(
        [*TABAGENT, "serve", "--port", "0", *place],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually((tmp_path / "lock").exists, 20)
        assert f"pid {process.pid}" in done("stop", *place)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


def test_a_server_that_does_not_end_is_said_to_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop, "NOW_S", 0.5)
    with serving(tmp_path) as (process, _):
        process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(CommandFailed, match="has not ended") as failed:
                stop.stop(Settings(data_dir=tmp_path), now=True)
            assert failed.value.hint == f"kill -9 {process.pid}"
            assert time.monotonic() - began < 5
        finally:
            process.send_signal(signal.SIGCONT)


def test_a_directory_without_a_server_is_left_alone(tmp_path: Path) -> None:
    assert done("stop", "--data-dir", str(tmp_path / "none")) == "No server runs.\n"
    assert not (tmp_path / "none").exists()
