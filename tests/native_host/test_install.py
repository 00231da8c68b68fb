"""Manifests and hosts for every browser and system, in homes of their own, and really run."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from native_host import host_files
from native_host.install import (
    ADDON_ID,
    EXTENSION_ID,
    NoPlace,
    Wanted,
    found,
    install,
    is_id,
    uninstall,
)
from native_host.places import BROWSERS, HOST_NAME, Browser, Desktop, Hive
from tests.native_host.hosts import ID, ORIGIN, PLAIN, HostProcess

OTHER = "ponmlkjihgfedcbaponmlkjihgfedcba"
ALL = list(BROWSERS.values())


class FakeRegistry:
    """Default values of keys, as the real one keeps them."""

    def __init__(self) -> None:
        self.keys: dict[tuple[str, str], str] = {}

    def has(self, hive: Hive, key: str) -> bool:
        return any(kept == (hive, key) or kept[1].startswith(key + "\\") for kept in self.keys)

    def get(self, hive: Hive, key: str) -> str | None:
        return self.keys.get((hive, key))

    def set(self, hive: Hive, key: str, value: str) -> None:
        self.keys[hive, key] = value

    def delete(self, hive: Hive, key: str) -> None:
        self.keys.pop((hive, key), None)


def desktop(tmp: Path, system: str = "linux") -> Desktop:
    return Desktop(
        system,
        tmp / "home",
        tmp / "home" / ".config",
        tmp / "root",
        FakeRegistry() if system == "win32" else None,
        lambda program: None,
    )


def wanted(tmp: Path, *ids: str, **more: Any) -> Wanted:
    values: dict[str, Any] = {"data_dir": tmp / "data", "command": PLAIN, "ids": ids or (ID,)}
    return Wanted(**(values | more))


def tree(*places: Path) -> dict[Path, bytes]:
    return {
        file: file.read_bytes() for place in places for file in place.rglob("*") if file.is_file()
    }


LINUX = {
    "chrome": ".config/google-chrome/NativeMessagingHosts",
    "chromium": ".config/chromium/NativeMessagingHosts",
    "edge": ".config/microsoft-edge/NativeMessagingHosts",
    "brave": ".config/BraveSoftware/Brave-Browser/NativeMessagingHosts",
    "vivaldi": ".config/vivaldi/NativeMessagingHosts",
    "firefox": ".mozilla/native-messaging-hosts",
}
MAC = {
    "chrome": "Google/Chrome/NativeMessagingHosts",
    "chromium": "Chromium/NativeMessagingHosts",
    "edge": "Microsoft Edge/NativeMessagingHosts",
    "brave": "BraveSoftware/Brave-Browser/NativeMessagingHosts",
    "vivaldi": "Vivaldi/NativeMessagingHosts",
    "firefox": "Mozilla/NativeMessagingHosts",
}
LINUX_SYSTEM = {
    "chrome": "etc/opt/chrome/native-messaging-hosts",
    "chromium": "etc/chromium/native-messaging-hosts",
    "edge": "etc/opt/edge/native-messaging-hosts",
    "firefox": "usr/lib/mozilla/native-messaging-hosts",
}
MAC_SYSTEM = {
    "chrome": "Library/Google/Chrome/NativeMessagingHosts",
    "chromium": "Library/Application Support/Chromium/NativeMessagingHosts",
    "edge": "Library/Microsoft/Edge/NativeMessagingHosts",
    "firefox": "Library/Application Support/Mozilla/NativeMessagingHosts",
}
KEYS = {
    "chrome": r"Software\Google\Chrome\NativeMessagingHosts\tabagent.host",
    "chromium": r"Software\Chromium\NativeMessagingHosts\tabagent.host",
    "edge": r"Software\Microsoft\Edge\NativeMessagingHosts\tabagent.host",
    "brave": r"Software\Google\Chrome\NativeMessagingHosts\tabagent.host",
    "vivaldi": r"Software\Google\Chrome\NativeMessagingHosts\tabagent.host",
    "firefox": r"Software\Mozilla\NativeMessagingHosts\tabagent.host",
}


def expected_place(tmp: Path, system: str, browser: Browser) -> Path:
    if system == "linux":
        return tmp / "home" / LINUX[browser.name]
    if system == "darwin":
        return tmp / "home/Library/Application Support" / MAC[browser.name]
    return tmp / "data/native_host"


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
@pytest.mark.parametrize("browser", ALL, ids=lambda browser: browser.name)
def test_a_browser_finds_its_manifest_where_it_looks(
    tmp_path: Path, system: str, browser: Browser
) -> None:
    mine = desktop(tmp_path, system)
    id_ = ADDON_ID if browser.firefox else ID
    (done,) = install(mine, [browser], wanted(tmp_path, id_))
    assert done.file.parent == expected_place(tmp_path, system, browser)
    content = json.loads(done.file.read_text())
    assert content["name"] == HOST_NAME
    assert content["type"] == "stdio"
    if browser.firefox:
        assert content["allowed_extensions"] == [ADDON_ID]
        assert "allowed_origins" not in content
    else:
        assert content["allowed_origins"] == [ORIGIN]
    host = Path(content["path"])
    assert host.is_absolute()
    assert os.access(host, os.X_OK)
    assert done.file.stat().st_mode & 0o777 == 0o644
    assert host.stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    if system == "win32":
        assert host.suffix == ".bat"
        assert mine.registry is not None
        assert mine.registry.get("user", KEYS[browser.name]) == str(done.file)
    else:
        assert done.file.name == "tabagent.host.json"
    (seen, *_) = found(mine, tmp_path / "data")
    assert (seen.file, seen.ids, seen.host) == (done.file, [id_], host)
    # And all of it can be taken back.
    removed, left = uninstall(mine, tmp_path / "data", [browser], profiles=False)
    assert left == []
    assert done.file in removed
    assert tree(tmp_path) == {}
    assert list(found(mine, tmp_path / "data")) == []


@pytest.mark.parametrize(
    ("system", "places"), [("linux", LINUX_SYSTEM), ("darwin", MAC_SYSTEM), ("win32", KEYS)]
)
def test_for_every_user_it_goes_where_that_is_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, places: dict[str, str]
) -> None:
    monkeypatch.setenv("PROGRAMDATA", str(tmp_path / "ProgramData"))
    for browser in ALL:
        mine = desktop(tmp_path / browser.name, system)
        wish = wanted(tmp_path, ADDON_ID if browser.firefox else ID, data_dir=None, system=True)
        if browser.name not in places:
            with pytest.raises(NoPlace):
                install(mine, [browser], wish)
            assert tree(tmp_path / browser.name) == {}
            continue
        (done,) = install(mine, [browser], wish)
        if system == "win32":
            assert mine.registry is not None
            assert mine.registry.get("machine", places[browser.name]) == str(done.file)
        else:
            assert done.file.parent == mine.root / places[browser.name]
        config = host_files.read_config(mine.shared_place())
        assert config is not None
        assert config["data_dir"] is None  # each user's own
        assert not (tmp_path / "data").exists()
        assert done.host is not None
        assert done.host.parent == mine.shared_place()
        removed, _ = uninstall(mine, None, [browser], profiles=False)
        assert done.file in removed
        assert not mine.shared_place().exists()


def test_a_profile_of_its_own_has_its_manifest_inside(tmp_path: Path) -> None:
    mine, profile = desktop(tmp_path), tmp_path / "a profile"
    (done,) = install(mine, [BROWSERS["chromium"]], wanted(tmp_path, user_data_dir=profile))
    assert done.file == profile / "NativeMessagingHosts/tabagent.host.json"
    assert [one.profile for one in found(mine, tmp_path / "data")] == [True]
    removed, _ = uninstall(mine, tmp_path / "data", ALL, profiles=False)
    assert removed == []  # it was not named
    removed, _ = uninstall(mine, tmp_path / "data", ALL, profiles=True)
    assert done.file in removed
    assert not (tmp_path / "data/native_host").exists()


@pytest.mark.parametrize(("name", "system"), [("firefox", "linux"), ("chrome", "win32")])
def test_where_profiles_have_no_hosts_that_is_said(tmp_path: Path, name: str, system: str) -> None:
    with pytest.raises(NoPlace):
        install(
            desktop(tmp_path, system), [BROWSERS[name]], wanted(tmp_path, user_data_dir=tmp_path)
        )


def test_again_changes_nothing_and_more_ids_are_added(tmp_path: Path) -> None:
    mine = desktop(tmp_path)
    chromium, firefox = BROWSERS["chromium"], BROWSERS["firefox"]
    install(mine, [chromium], wanted(tmp_path))
    before = tree(tmp_path)
    install(mine, [chromium], wanted(tmp_path))
    assert tree(tmp_path) == before
    (done,) = install(mine, [chromium], wanted(tmp_path, OTHER))
    assert done.ids == [ID, OTHER]
    (done,) = install(mine, [firefox], wanted(tmp_path, ADDON_ID))
    assert done.ids == [ADDON_ID]
    config = host_files.read_config(tmp_path / "data/native_host")
    assert config is not None
    assert config["allowed_origins"] == [ORIGIN, f"chrome-extension://{OTHER}/"]
    assert config["allowed_extensions"] == [ADDON_ID]


def test_the_host_stays_until_its_last_browser_is_gone(tmp_path: Path) -> None:
    mine = desktop(tmp_path)
    one, other = BROWSERS["chromium"], BROWSERS["edge"]
    install(mine, [one, other], wanted(tmp_path))
    removed, _ = uninstall(mine, tmp_path / "data", [one], profiles=False)
    assert removed == [mine.manifest(one)]
    assert (tmp_path / "data/native_host/relay.py").exists()
    uninstall(mine, tmp_path / "data", [other], profiles=False)
    assert not (tmp_path / "data/native_host").exists()


def test_browsers_that_share_a_manifest_on_windows_keep_it_while_one_needs_it(
    tmp_path: Path,
) -> None:
    mine = desktop(tmp_path, "win32")
    data = tmp_path / "data"
    chrome, edge, brave = (BROWSERS[name] for name in ("chrome", "edge", "brave"))
    (done, _) = install(mine, [chrome, edge], wanted(tmp_path))
    uninstall(mine, data, [edge], profiles=False)
    assert done.file.exists()
    assert [one.browser for one in found(mine, data)] == [chrome]
    uninstall(mine, data, [brave], profiles=False)  # reads Chrome's key
    assert list(found(mine, data)) == []
    assert tree(data) == {}


def test_what_is_not_ours_is_left(tmp_path: Path) -> None:
    mine = desktop(tmp_path)
    chromium = BROWSERS["chromium"]
    install(mine, [chromium], wanted(tmp_path, data_dir=tmp_path / "another"))
    strange = tmp_path / "another/native_host/notes.txt"
    strange.write_text("mine")
    removed, left = uninstall(mine, tmp_path / "data", ALL, profiles=True)
    assert (removed, left) == ([], [mine.manifest(chromium)])
    removed, left = uninstall(mine, tmp_path / "another", ALL, profiles=True)
    assert left == []
    assert strange.exists()
    assert strange not in removed


def test_a_broken_manifest_that_we_wrote_is_ours_still(tmp_path: Path) -> None:
    mine = desktop(tmp_path)
    (done,) = install(mine, [BROWSERS["chromium"]], wanted(tmp_path))
    done.file.write_text("{")
    removed, left = uninstall(mine, tmp_path / "data", ALL, profiles=True)
    assert done.file in removed
    assert left == []


def test_a_browser_is_found_by_its_profile_its_program_or_its_key(tmp_path: Path) -> None:
    mine = desktop(tmp_path)
    assert not any(mine.has(browser) for browser in ALL)
    (tmp_path / "home/.config/vivaldi").mkdir(parents=True)
    (tmp_path / "home/.mozilla").mkdir()
    assert [b.name for b in ALL if mine.has(b)] == ["vivaldi", "firefox"]
    by_program = Desktop("linux", tmp_path, tmp_path, tmp_path, None, {"brave": "/x"}.get)
    assert [b.name for b in ALL if by_program.has(b)] == ["brave"]
    mac = desktop(tmp_path, "darwin")
    (tmp_path / "root/Applications/Microsoft Edge.app").mkdir(parents=True)
    assert [b.name for b in ALL if mac.has(b)] == ["edge"]
    windows = desktop(tmp_path, "win32")
    assert windows.registry is not None
    windows.registry.set("machine", "Software\\Google\\Chrome", "")
    assert [b.name for b in ALL if windows.has(b)] == ["chrome"]


# ---- the host that was written ------------------------------------------------------------------
def installed(tmp: Path, **more: Any) -> Path:
    (done,) = install(desktop(tmp), [BROWSERS["chromium"]], wanted(tmp, **more))
    assert done.host is not None
    return done.host


def served_by(host: Path, arguments: Sequence[str] = (ORIGIN,), **more: Any) -> dict[str, Any]:
    """The plain server's answer to a message through this host, as the manifest names it."""
    with HostProcess([str(host), *arguments], **more) as process:
        return process.ask({"request_id": "r1", "route": "echo"})


def stop_server(data: Path) -> None:
    os.kill(json.loads((data / "runtime.json").read_text())["pid"], 9)


def test_the_installed_host_runs_by_itself(tmp_path: Path) -> None:
    host = installed(tmp_path)
    assert host.name == "relay.py"
    assert host.read_bytes().startswith(b"#!" + os.fsencode(host_files.base_python()))
    try:
        # As a browser runs it: from anywhere, in an environment that would lead Python astray.
        (tmp_path / "json.py").write_text("raise SystemExit")
        astray = {"PYTHONPATH": str(tmp_path), "PYTHONHOME": "/nowhere", "LC_ALL": "C", "PATH": ""}
        assert served_by(host, cwd=tmp_path, env=astray)["success"]
    finally:
        stop_server(tmp_path / "data")


@pytest.mark.parametrize("name", ["a place with spaces", "Büro „Süd“ 'quoted' $HOME", "x" * 120])
def test_it_runs_from_places_with_any_name(tmp_path: Path, name: str) -> None:
    """With the interpreter in such a place too, which a `#!` line cannot name."""
    place = tmp_path / name
    (place / "bin").mkdir(parents=True)
    python = place / "bin" / "python3"
    python.symlink_to(sys.executable)
    data = place / "dätä"
    tcp = [*PLAIN, "--tcp"]  # the path of a socket may not be so long
    host = installed(tmp_path, data_dir=data, python=str(python), command=tcp)
    assert host.name == "tabagent-host"
    assert host_files.interpreter_of(host) == str(python)
    try:
        for environment in ({"LC_ALL": "C"}, {"LC_ALL": "C.UTF-8"}):
            assert served_by(host, env={**os.environ, **environment})["success"]
    finally:
        stop_server(data)


def test_it_outlives_the_checkout_that_it_came_from(tmp_path: Path) -> None:
    host = installed(tmp_path)
    assert str(Path(host_files.__file__).parent) not in host.read_text()
    assert not host.is_symlink()
    assert host_files.is_current(host.parent)
    host.write_bytes(host.read_bytes() + b"#")
    assert not host_files.is_current(host.parent)


def test_the_batch_file_names_its_python_whatever_is_in_the_path(tmp_path: Path) -> None:
    python = "C:\\Users\\Jürgen 100%\\python.exe"
    mine = desktop(tmp_path, "win32")
    (done,) = install(mine, [BROWSERS["chrome"]], wanted(tmp_path, python=python))
    assert done.host is not None
    assert done.host.read_bytes().decode().splitlines() == [
        "@echo off",
        "chcp 65001 >nul",
        '"C:\\Users\\Jürgen 100%%\\python.exe" -ISXutf8 "%~dp0relay.py" %*',
    ]
    assert host_files.interpreter_of(done.host) == python


def test_a_host_for_everybody_serves_each_users_own_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform != "linux":
        pytest.skip("the place is another one there")
    host = installed(tmp_path, data_dir=None, system=True)
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path / "shared")}
    try:
        assert served_by(host, env=environment)["success"]
    finally:
        stop_server(tmp_path / "shared/tabagent")
    import platformdirs

    from native_host import relay

    for value in (str(tmp_path / "shared"), ""):
        monkeypatch.setenv("XDG_DATA_HOME", value)
        assert relay.own_data_dir() == str(platformdirs.user_data_path("tabagent"))


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "f.json"
    host_files.write(file, b"old", 0o644)
    blocked = tmp_path / "dir.json"
    blocked.mkdir()
    with pytest.raises(OSError, match="directory"):
        host_files.write(blocked, b"new", 0o644)
    host_files.write(file, b"new", 0o600)
    assert file.read_bytes() == b"new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dir.json", "f.json"]


def test_a_running_host_is_replaced_without_harm(tmp_path: Path) -> None:
    host = installed(tmp_path)
    try:
        with HostProcess([str(host), ORIGIN]) as process:
            assert process.ask({"request_id": "r1", "route": "echo"})["success"]
            installed(tmp_path)
            assert process.ask({"request_id": "r2", "route": "echo"})["success"]
    finally:
        stop_server(tmp_path / "data")


# ---- ids ----------------------------------------------------------------------------------------
def test_our_id_is_the_one_that_the_extensions_key_makes() -> None:
    manifest = Path(__file__).parents[2] / "extension-manifest/manifest.json"
    digest = hashlib.sha256(base64.b64decode(json.loads(manifest.read_text())["key"])).hexdigest()
    assert "".join("abcdefghijklmnop"[int(digit, 16)] for digit in digest[:32]) == EXTENSION_ID


@pytest.mark.parametrize(
    ("name", "good"),
    [
        (EXTENSION_ID, True),
        (ADDON_ID, True),
        ("{0b9e6b3c-0f3e-4d3f-9a55-3a4f0e0b7d11}", True),
        ("x" * 32, False),
        ("a" * 31, False),
        (f"chrome-extension://{ID}/", False),
        ("a b@c", False),
        ("", False),
    ],
)
def test_ids_are_told_from_nonsense(name: str, good: bool) -> None:
    assert is_id(name) == good


def test_every_browser_has_all_its_places() -> None:
    assert set(LINUX) == set(MAC) == set(KEYS) == set(BROWSERS)
