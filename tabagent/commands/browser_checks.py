"""What `doctor --browser` looks at: whatever a browser calls "host not found", told apart."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from native_host.host_files import (
    OURS,
    installed_version,
    interpreter_of,
    is_current,
    read_config,
    read_object,
)
from native_host.install import FIREFOX_ID, Found, found, place_of
from native_host.places import BROWSERS, HOST_NAME, Desktop
from tabagent import __version__
from tabagent.commands.checks import Check
from tabagent.config import Settings
from tabagent.runtime import DataDirectory, Running

INSTALL: Final = "tabagent native install"
ORIGIN: Final = re.compile(r"chrome-extension://[a-p]{32}/")
NOBODY: Final = "chrome-extension://doctor/"  # who is surely refused
HOST_S: Final = 10.0
CONNECT_S: Final = 2.0
# Where browsers keep their things that run confined, and start no program from outside.
CONFINED: Final = {
    "snap/chromium": "Chromium",
    ".var/app/org.chromium.Chromium": "Chromium",
    ".var/app/com.google.Chrome": "Google Chrome",
    ".var/app/com.microsoft.Edge": "Microsoft Edge",
    ".var/app/com.brave.Browser": "Brave",
    ".var/app/org.mozilla.firefox": "Firefox",
}
POLICIES: Final = {
    "chrome": "etc/opt/chrome/policies/managed",
    "chromium": "etc/chromium/policies/managed",
    "edge": "etc/opt/edge/policies/managed",
    "brave": "etc/brave/policies/managed",
}


def browser_checks(settings: Settings, desktop: Desktop | None = None) -> Iterator[Check]:
    """The whole way: what browsers were told, the host, what that was told, the server."""
    desktop = desktop or Desktop()
    manifests = list(found(desktop, settings.data_dir))
    yield from _browsers(desktop, manifests)
    hosts = dict.fromkeys(one.host for one in manifests if one.host is not None)
    for host in hosts:
        yield from _host(settings, host)
    yield from _server(settings, _starts(settings, list(hosts)))


# ---- what browsers were told --------------------------------------------------------------------
def _browsers(desktop: Desktop, manifests: list[Found]) -> Iterator[Check]:
    told = {one.browser.name for one in manifests}
    if desktop.windows:  # one key for several
        keys = {one.key for one in manifests}
        told |= {browser.name for browser in BROWSERS.values() if browser.registry in keys}
    for browser in BROWSERS.values():
        if browser.name not in told and desktop.has(browser):
            fix = f"{INSTALL} --browser {browser.name}"
            verdict: Any = "warn" if manifests else "fail"
            yield Check(verdict, browser.title, "was not told of the host", fix)
    if not manifests and not any(desktop.has(browser) for browser in BROWSERS.values()):
        fix = f"{INSTALL} --browser NAME"
        yield Check("fail", "browsers", "none is found, and none was told of the host", fix)
    for place, title in CONFINED.items():
        if (desktop.home / place).is_dir():
            says = "as a snap or Flatpak it starts no programs from outside, so no host"
            fix = "install it from another source, or let the extension use HTTP"
            yield Check("warn", title, says, fix)
    yield from _policies(desktop, manifests)
    for one in manifests:
        wrong = next(_wrong_manifest(one), None)
        if wrong is None:
            yield Check("ok", one.browser.title, f"{', '.join(one.ids)} may call; {one.file}")
        else:
            yield Check("fail", one.browser.title, *wrong)


def _policies(desktop: Desktop, manifests: list[Found]) -> Iterator[Check]:
    """What an administrator has forbidden, on Linux."""
    for name, place in POLICIES.items():
        if not any(one.browser.name == name for one in manifests):
            continue
        for file in sorted((desktop.root / place).glob("*.json")):
            policy = read_object(file) or {}
            blocked, let = (
                policy.get(f"NativeMessaging{kind}") or [] for kind in ("Blocklist", "Allowlist")
            )
            if ("*" in blocked or HOST_NAME in blocked) and HOST_NAME not in let:
                says = f"a policy forbids the host: NativeMessagingBlocklist in {file}"
                fix = f"name {HOST_NAME} under NativeMessagingAllowlist there"
                yield Check("fail", BROWSERS[name].title, says, fix)
            if policy.get("NativeMessagingUserLevelHosts") is False:
                says = (
                    f"a policy forbids hosts of one user: NativeMessagingUserLevelHosts in {file}"
                )
                fix = f"sudo {INSTALL} --browser {name} --system"
                if not any(one.browser.name == name and one.system for one in manifests):
                    yield Check("fail", BROWSERS[name].title, says, fix)


def _wrong_manifest(one: Found) -> Iterator[tuple[str, str]]:
    """(what is wrong, what mends it), in the order in which a browser trips over it."""
    again = f"{INSTALL} --browser {one.browser.name}" + (" --system" if one.system else "")
    if one.profile:
        again = f"{INSTALL} --user-data-dir '{one.file.parent.parent}'"
    content = one.content
    if not one.file.exists():
        yield f"the registry leads to {one.file}, which is not there", again
    if content is None:
        yield f"{one.file} is not a JSON object, or may not be read", again
        return
    if content.get("name") != HOST_NAME:
        yield f"its name is {content.get('name')!r}, not {HOST_NAME}", again
    if content.get("type") != "stdio":
        yield f"its type is {content.get('type')!r}, not stdio", again
    if not content.get("description"):
        yield "it has no description", again
    yield from _wrong_callers(one, content, again)
    yield from _wrong_path(one, again)


def _wrong_callers(one: Found, content: dict[str, Any], again: str) -> Iterator[tuple[str, str]]:
    field = "allowed_extensions" if one.browser.firefox else "allowed_origins"
    named = content.get(field)
    if not isinstance(named, list) or not named:
        yield f"{field} names nobody", again
        return
    for name in named:
        good = FIREFOX_ID if one.browser.firefox else ORIGIN
        if not isinstance(name, str) or not good.fullmatch(name):
            form = "an add-on's id" if one.browser.firefox else "chrome-extension://ID/"
            says = f"{field} has {name!r}, which is not {form}"
            if isinstance(name, str) and ORIGIN.fullmatch(f"{name}/"):
                says += ": the slash at its end is missing"
            yield says, f"remove {one.file}; {again}"


def _wrong_path(one: Found, again: str) -> Iterator[tuple[str, str]]:
    host = one.host
    if host is None:
        yield "it names no path of a host", again
        return
    if not host.is_absolute() and sys.platform != "win32":
        yield f"the host's path {host} is not absolute", again
        return
    if not host.exists():
        yield f"the host {host} is not there", again
        return
    if not os.access(host, os.X_OK):
        yield f"the host {host} may not be run", f"chmod 755 '{host}'"


# ---- the host -----------------------------------------------------------------------------------
def _host(settings: Settings, host: Path) -> Iterator[Check]:
    if not host.exists():
        return  # said above
    place = host.parent
    if host.name not in OURS:
        fix = f"remove the manifest that names it, then {INSTALL}"
        yield Check("fail", "host", f"{host} is none of ours", fix)
        return
    python = interpreter_of(host)
    if python is None or not Path(python).exists():
        says = f"its Python {python} is gone" if python else f"{host} names no Python"
        yield Check("fail", "host", says, INSTALL)
        return
    config = read_config(place)
    if config is None:
        yield Check("fail", "host", f"{place / 'host.json'} cannot be read", INSTALL)
        return
    if not os.access(host, os.X_OK):
        return  # said above, too
    runs = _runs(host)
    yield runs
    if runs.verdict == "ok" and not is_current(place):
        version = installed_version(place) or "none that is known"
        says = f"{host} is not this version's (it is {version}, this is {__version__})"
        yield Check("warn", "host", says, INSTALL)
    yield from _config(settings, config)


def _runs(host: Path) -> Check:
    """Let it refuse somebody: it has to start, read what it was told, and say so in a frame."""
    try:
        done = subprocess.run(
            [str(host), NOBODY],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=HOST_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Check("fail", "host", f"{host} does not answer", INSTALL)
    except OSError as error:
        return Check("fail", "host", f"{host} cannot be run: {error.strerror}", INSTALL)
    length = int.from_bytes(done.stdout[:4], sys.byteorder)
    try:
        said = json.loads(done.stdout[4 : 4 + length])["error"]["code"]
    except (ValueError, LookupError, TypeError):
        said = None
    if said != "origin-not-allowed":
        words = done.stderr.decode(errors="replace").strip().splitlines()
        says = f"{host} fails" + (f": {words[-1]}" if words else "")
        return Check("fail", "host", says, INSTALL)
    return Check("ok", "host", f"{host} runs")


def _config(settings: Settings, config: dict[str, Any]) -> Iterator[Check]:
    served = config.get("data_dir")
    if served is not None and Path(str(served)) != settings.data_dir.absolute():
        yield Check(
            "fail",
            "host",
            f"it serves {served}, this command looks at {settings.data_dir}",
            f"{INSTALL}, or tabagent doctor --browser --data-dir {served}",
        )
    command = config.get("command")
    if config.get("auto_start", True) and isinstance(command, list) and command:
        python = Path(str(command[0]))
        if not python.exists():
            yield Check("fail", "host", f"the server's Python {python} is gone", INSTALL)


# ---- the server ---------------------------------------------------------------------------------
def _starts(settings: Settings, hosts: list[Path]) -> bool | None:
    """Whether a browser may start the server; None where no host says."""
    places = [host.parent for host in hosts] + [place_of(Desktop(), settings.data_dir)]
    configs = [config for place in places if (config := read_config(place)) is not None]
    return any(config.get("auto_start", True) for config in configs) if configs else None


def _server(settings: Settings, starts: bool | None) -> Iterator[Check]:
    running = DataDirectory(settings.data_dir).running()
    wrong = "" if running is None else _unreachable(running)
    if running is None or (wrong and not _alive(running)):
        if starts:
            yield Check("ok", "server", "none runs; a browser starts one when it asks")
        elif starts is not None:
            says = "none runs, and browsers may not start one"
            fix = f"tabagent serve, or {INSTALL} (without --no-auto-start)"
            yield Check("fail", "server", says, fix)
        return
    if wrong:
        yield Check("fail", "server", *wrong)
        return
    yield Check("ok", "server", f"answers on its native socket (pid {running.pid})")
    if running.version != __version__:
        says = f"it is version {running.version}, this is {__version__}"
        yield Check("warn", "server", says, "start it again: tabagent stop, then tabagent serve")


def _alive(running: Running) -> bool:
    import psutil

    return psutil.pid_exists(running.pid)


def _unreachable(running: Running) -> tuple[str, str] | str:
    """(what is wrong, what mends it), or nothing."""
    again = "tabagent stop, then tabagent serve --mode both"
    native = running.native
    if native is None:
        return "it runs without a native socket", again
    try:
        if "path" in native:
            peer, address = socket.socket(socket.AF_UNIX), native["path"]
        else:
            peer, address = socket.socket(), ("127.0.0.1", native["port"])
        with peer:
            peer.settimeout(CONNECT_S)
            peer.connect(address)
    except (OSError, LookupError, TypeError) as error:
        return f"its native socket does not answer: {error}", again
    return ""
