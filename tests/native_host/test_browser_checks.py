"""`doctor --browser`: each thing that a browser calls "not found", broken once."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from native_host import host_files
from native_host.install import ADDON_ID, install
from native_host.places import BROWSERS, Desktop
from tabagent import __version__
from tabagent.commands.browser_checks import browser_checks
from tabagent.commands.checks import Check
from tabagent.commands.native import SERVE
from tabagent.config import Settings
from tabagent.runtime import DataDirectory, Running
from tests.native_host.hosts import ID, Place
from tests.native_host.test_install import FakeRegistry, desktop, wanted


class Installed:
    """Chromium, told of a host; `breaks` takes one thing away."""

    def __init__(self, tmp: Path) -> None:
        self.tmp, self.desktop = tmp, desktop(tmp)
        self.browser = BROWSERS["chromium"]
        (tmp / "home/.config/chromium").mkdir(parents=True)
        self.settings = Settings(data_dir=tmp / "data")
        self.install()

    def install(self, **more: Any) -> None:
        wish = wanted(self.tmp, ID, command=SERVE, **more)
        (done,) = install(self.desktop, [self.browser], wish)
        assert done.host is not None
        self.manifest, self.host = done.file, done.host

    def change(self, **values: Any) -> None:
        content = json.loads(self.manifest.read_text()) | values
        self.manifest.write_text(json.dumps(content))

    def configure(self, **values: Any) -> None:
        file = self.host.parent / "host.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    def rewrite(self, old: bytes, new: bytes) -> None:
        content = self.host.read_bytes()
        assert old in content
        self.host.write_bytes(content.replace(old, new, 1))

    def checks(self) -> list[Check]:
        return list(browser_checks(self.settings, self.desktop))

    def bad(self) -> list[Check]:
        return [check for check in self.checks() if check.verdict != "ok"]


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    return Installed(tmp_path)


def test_what_is_well_is_said_to_be(installed: Installed) -> None:
    assert [(check.verdict, check.subject) for check in installed.checks()] == [
        ("ok", "Chromium"),
        ("ok", "host"),
        ("ok", "server"),
    ]
    assert not (installed.tmp / "data/runtime.json").exists()  # looking starts nothing


def announce(installed: Installed, **values: Any) -> None:
    running = Running(os.getpid(), "", __version__, {"path": "/nowhere"})
    directory = DataDirectory(installed.settings.data_dir)
    directory.announce(dataclasses.replace(running, **values))


def policy(installed: Installed, **values: Any) -> None:
    place = installed.desktop.root / "etc/chromium/policies/managed"
    place.mkdir(parents=True)
    (place / "p.json").write_text(json.dumps(values))


def executable(installed: Installed, text: str) -> None:
    installed.host.write_text(text)
    installed.host.chmod(0o755)


Break = Callable[[Installed], object]
BREAKS: dict[str, tuple[Break, str, str, str]] = {
    "no manifest": (
        lambda i: i.manifest.unlink(),
        "Chromium",
        "was not told of the host",
        "tabagent native install --browser chromium",
    ),
    "no JSON": (
        lambda i: i.manifest.write_text("{"),
        "Chromium",
        "is not a JSON object",
        "tabagent native install --browser chromium",
    ),
    "another name": (lambda i: i.change(name="x.y"), "Chromium", "its name is 'x.y'", "install"),
    "another type": (lambda i: i.change(type="pipe"), "Chromium", "its type is 'pipe'", "install"),
    "no description": (lambda i: i.change(description=""), "Chromium", "description", "install"),
    "nobody allowed": (
        lambda i: i.change(allowed_origins=[]),
        "Chromium",
        "allowed_origins names nobody",
        "tabagent native install --browser chromium",
    ),
    "no slash": (
        lambda i: i.change(allowed_origins=[f"chrome-extension://{ID}"]),
        "Chromium",
        "the slash at its end is missing",
        "remove",
    ),
    "no id": (
        lambda i: i.change(allowed_origins=["chrome-extension://*/"]),
        "Chromium",
        "which is not chrome-extension://ID/",
        "remove",
    ),
    "no path": (lambda i: i.change(path=7), "Chromium", "names no path", "install"),
    "a relative path": (
        lambda i: i.change(path="relay.py"),
        "Chromium",
        "is not absolute",
        "install",
    ),
    "no host": (lambda i: i.host.unlink(), "Chromium", "relay.py is not there", "install"),
    "not executable": (
        lambda i: i.host.chmod(0o644),
        "Chromium",
        "may not be run",
        "chmod 755",
    ),
    "somebody else's host": (
        lambda i: i.change(path="/bin/true"),
        "host",
        "is none of ours",
        "remove the manifest",
    ),
    "its Python is gone": (
        lambda i: i.rewrite(os.fsencode(host_files.base_python()), b"/nowhere/python3"),
        "host",
        "its Python /nowhere/python3 is gone",
        "tabagent native install",
    ),
    "its Python does not run": (
        lambda i: i.rewrite(os.fsencode(host_files.base_python()), b"/etc/passwd"),
        "host",
        "cannot be run",
        "tabagent native install",
    ),
    "it fails": (
        lambda i: i.rewrite(b"import json\n", b"import nothing_like_this\n"),
        "host",
        "No module named 'nothing_like_this'",
        "tabagent native install",
    ),
    "it says nothing": (
        lambda i: executable(i, f"#!{host_files.base_python()}\n"),
        "host",
        "fails",
        "tabagent native install",
    ),
    "an older version": (
        lambda i: i.rewrite(b'VERSION = "', b'VERSION = "0.0.0-'),
        "host",
        f"(it is 0.0.0-{__version__}, this is {__version__})",
        "tabagent native install",
    ),
    "no configuration": (
        lambda i: (i.host.parent / "host.json").write_text("["),
        "host",
        "host.json cannot be read",
        "tabagent native install",
    ),
    "another data directory": (
        lambda i: i.configure(data_dir="/somewhere/else"),
        "host",
        "it serves /somewhere/else",
        "--data-dir /somewhere/else",
    ),
    "the server's Python is gone": (
        lambda i: i.configure(command=["/nowhere/python", "-m", "tabagent"]),
        "host",
        "the server's Python /nowhere/python is gone",
        "tabagent native install",
    ),
    "no server, and none is started": (
        lambda i: i.install(auto_start=False),
        "server",
        "none runs, and browsers may not start one",
        "tabagent serve",
    ),
    "a policy against all hosts": (
        lambda i: policy(i, NativeMessagingBlocklist=["*"]),
        "Chromium",
        "NativeMessagingBlocklist",
        "name tabagent.host under NativeMessagingAllowlist",
    ),
    "a policy against hosts of one user": (
        lambda i: policy(i, NativeMessagingUserLevelHosts=False),
        "Chromium",
        "NativeMessagingUserLevelHosts",
        "tabagent native install --browser chromium --system",
    ),
    "a server without the socket": (
        lambda i: announce(i, native=None),
        "server",
        "without a native socket",
        "tabagent serve --mode both",
    ),
    "a socket that does not answer": (
        announce,
        "server",
        "its native socket does not answer",
        "tabagent stop",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_named_with_its_fix(installed: Installed, name: str) -> None:
    breaks, subject, says, fix = BREAKS[name]
    breaks(installed)
    (check,) = installed.bad()
    assert check.subject == subject
    assert says in check.says
    assert fix in check.fix
    assert check.verdict == ("warn" if name == "an older version" else "fail")


def test_installing_again_mends_whatever_it_is(installed: Installed) -> None:
    for breaks, _, _, fix in BREAKS.values():
        if ("native install" not in fix and fix != "install") or "--system" in fix:
            continue
        breaks(installed)
        assert installed.bad()
        installed.install()
        installed.configure(data_dir=str(installed.settings.data_dir))
        assert installed.bad() == []


def test_a_server_of_another_version_is_to_be_started_again(
    installed: Installed, tmp_path: Path
) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        native = {"port": listener.getsockname()[1], "token": "x"}
        announce(installed, native=native)
        assert installed.bad() == []
        announce(installed, native=native, version="0.0.1")
        (check,) = installed.bad()
    assert (check.verdict, check.subject) == ("warn", "server")
    assert "0.0.1" in check.says
    assert "tabagent stop" in check.fix


def test_the_address_of_a_dead_server_counts_for_nothing(installed: Installed) -> None:
    announce(installed, pid=2**22 + 1)
    assert installed.bad() == []


def test_a_real_socket_answers(installed: Installed) -> None:
    place = Place(installed.tmp / "other")
    with place.server() as process:
        native = {"path": str(place.data_dir / "native.sock")}
        announce(installed, pid=process.pid, native=native)
        assert [check.says for check in installed.checks() if check.subject == "server"] == [
            f"answers on its native socket (pid {process.pid})"
        ]


def test_one_browser_that_was_not_told_is_a_warning_beside_one_that_was(
    installed: Installed,
) -> None:
    (installed.tmp / "home/.mozilla").mkdir()
    (check,) = installed.bad()
    assert (check.verdict, check.subject) == ("warn", "Firefox")
    assert check.fix == "tabagent native install --browser firefox"
    install(installed.desktop, [BROWSERS["firefox"]], wanted(installed.tmp, ADDON_ID))
    assert installed.bad() == []


def test_a_profile_is_mended_where_it_is(installed: Installed, tmp_path: Path) -> None:
    profile = tmp_path / "my profile"
    install(installed.desktop, [installed.browser], wanted(tmp_path, user_data_dir=profile))
    assert installed.bad() == []
    (profile / "NativeMessagingHosts/tabagent.host.json").write_text("")
    (check,) = installed.bad()
    assert check.fix == f"tabagent native install --user-data-dir '{profile}'"


def test_a_policy_that_lets_the_host_through_is_none_against_it(installed: Installed) -> None:
    policy(installed, NativeMessagingBlocklist=["*"], NativeMessagingAllowlist=["tabagent.host"])
    assert installed.bad() == []


def test_a_browser_that_is_confined_is_named(installed: Installed) -> None:
    (installed.tmp / "home/snap/chromium").mkdir(parents=True)
    (check,) = installed.bad()
    assert (check.verdict, check.subject) == ("warn", "Chromium")
    assert "snap" in check.says


def test_without_any_browser_it_says_so(tmp_path: Path) -> None:
    checks = list(browser_checks(Settings(data_dir=tmp_path), desktop(tmp_path)))
    assert [(check.verdict, check.subject) for check in checks[:1]] == [("fail", "browsers")]


def test_a_key_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    registry = FakeRegistry()
    registry.set("user", BROWSERS["edge"].registry, str(tmp_path / "gone.json"))
    windows = Desktop("win32", tmp_path, tmp_path, tmp_path, registry)
    checks = list(browser_checks(Settings(data_dir=tmp_path), windows))
    (edge,) = [check for check in checks if check.subject == "Microsoft Edge"]
    assert "the registry leads to" in edge.says
    assert edge.fix == "tabagent native install --browser edge"
