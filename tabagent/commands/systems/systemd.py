"""A user unit of systemd, and a socket unit where systemd is to open the port.

Sources: systemd.unit(5), systemd.service(5) for quoting, systemd.exec(5), systemd.socket(5).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from native_host.host_files import write
from tabagent.commands.failure import NO_SERVER, USAGE, CommandFailed
from tabagent.commands.systems.contract import (
    FINAL,
    MARK,
    Run,
    Service,
    State,
    check_free,
    is_ours,
)

SERVICE: Final = "tabagent.service"
SOCKET: Final = "tabagent.socket"
START_S: Final = 300  # a database that is brought up to date takes its time

REFUSED: Final = "\"'\\"
"""What systemd takes in an argument, and in the path of a program not."""

# Nothing here needs a mount of its own: with one, /tmp may be another, and long paths of the native
# socket lie there. Libraries for graphics cards, and ctypes, write the code that they run.
HARDENING: Final = (
    "NoNewPrivileges=yes",
    "LockPersonality=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "RestrictNamespaces=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    "SystemCallArchitectures=native",
    "UMask=0077",
)


class Systemd:
    """systemd of one user, whose configuration lies in `config_home`."""

    def __init__(self, run: Run, config_home: Path) -> None:
        self._run = run
        self._place = config_home / "systemd" / "user"

    @property
    def advice(self) -> Sequence[str]:
        return (
            "Its log: journalctl --user -u tabagent",
            "It ends when you log out; to keep it: loginctl enable-linger",
        )

    def install(self, service: Service, *, start: bool) -> list[Path]:
        files = {SERVICE: unit(service)}
        if service.listen is not None:
            files[SOCKET] = socket_unit(service.listen)
        self._reach()
        for name in (SERVICE, SOCKET):
            check_free(self._place / name)
        self._take_back()
        for name, text in files.items():
            write(self._place / name, text.encode(), 0o644)
        self._do("daemon-reload")
        first = SERVICE if service.listen is None else SOCKET
        self._do("enable", first)
        if start:
            self._start(first)
        return [self._place / name for name in files]

    def uninstall(self) -> list[Path]:
        found = self._found()
        for name in (SERVICE, SOCKET):
            check_free(self._place / name)
        if found and self._reachable():
            self._take_back()
            self._do("daemon-reload")
            self._run(["systemctl", "--user", "reset-failed", *(file.name for file in found)])
        else:  # nothing of it runs, so removing is all there is to do
            for file in found:
                for folder in self._place.glob("*.wants"):
                    (folder / file.name).unlink(missing_ok=True)
                file.unlink()
        return found

    def state(self) -> State:
        found = self._found()
        if not found:
            return State([], running=False)
        if not self._reachable():
            return State(found, running=False, words="systemd does not run for this user")
        facts = self._facts()
        if facts.get("ActiveState") == "active":
            return State(found, running=True, words=f"pid {facts.get('MainPID', 'unknown')}")
        words = facts.get("ActiveState", "unknown")
        if why := _why(facts):
            words += f": {why}"
        if self._place / SOCKET in found:
            listening = self._run(["systemctl", "--user", "is-active", SOCKET]).out.strip()
            words += f"; its socket is {listening or 'unknown'}"
        return State(found, running=False, words=words)

    def _found(self) -> list[Path]:
        files = [self._place / name for name in (SERVICE, SOCKET)]
        return [file for file in files if is_ours(file)]

    def _reachable(self) -> bool:
        return self._run(["systemctl", "--user", "show", "--property=Version"]).code == 0

    def _reach(self) -> None:
        done = self._run(["systemctl", "--user", "show", "--property=Version"])
        if done.code:
            raise CommandFailed(
                f"systemd does not run for this user: {done.said}",
                "log in as this user, without su or sudo; or run `tabagent serve` by other means",
                NO_SERVER,
            )

    def _take_back(self) -> None:
        """Stop, disable and remove what is there: a unit that changes may be wanted elsewhere."""
        for file in sorted(self._found(), key=lambda file: file.name == SERVICE):  # first the port
            self._do("disable", "--now", file.name)
            file.unlink()

    def _do(self, *words: str) -> None:
        done = self._run(["systemctl", "--user", *words])
        if done.code:
            raise CommandFailed(f"systemctl {' '.join(words)}: {done.said}", "systemctl --user")

    def _start(self, name: str) -> None:
        done = self._run(["systemctl", "--user", "restart", name])
        if done.code:
            why = _why(self._facts()) or done.said
            raise CommandFailed(
                f"{name} is installed, but does not start: {why}",
                "journalctl --user -u tabagent -n 20",
            )

    def _facts(self) -> dict[str, str]:
        asked = "--property=ActiveState,MainPID,ExecMainStatus"
        lines = self._run(["systemctl", "--user", "show", SERVICE, asked]).out.splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)


def _why(facts: dict[str, str]) -> str:
    status = facts.get("ExecMainStatus", "")
    return FINAL.get(int(status), "") if status.isdecimal() else ""


def unit(service: Service) -> str:
    """The text of a unit that runs `service`."""
    command = list(service.command)
    if any(letter in command[0] for letter in REFUSED):
        command = ["/bin/sh", "-c", 'exec "$0" "$@"', *command]
    # A `$` stands for a variable everywhere but in the program's path, where it cannot be doubled.
    prefix = ":" if any("$" in word for word in command) else ""
    words = " ".join(quoted(word) for word in command)
    final = " ".join(str(code) for code in sorted(FINAL))
    lines = [
        f"# {MARK}; uninstall removes it.",
        "[Unit]",
        "Description=TabAgent: models that run on this machine",
    ]
    if service.listen is not None:
        lines += [f"Requires={SOCKET}", f"After={SOCKET}"]
    lines += ["", "[Service]", "Type=notify", f"ExecStart={prefix}{words}"]
    lines += [
        f"Environment={quoted(f'{name}={value}')}" for name, value in service.environment.items()
    ]
    lines += [
        "Restart=on-failure",
        "RestartSec=2",
        f"RestartPreventExitStatus={final}",
        f"TimeoutStartSec={START_S}",
        f"TimeoutStopSec={service.stop_s}",
        "KillMode=mixed",  # workers answer to the end; what is left then is killed
        *HARDENING,
    ]
    if service.listen is None:
        lines += ["", "[Install]", "WantedBy=default.target"]
    return "\n".join(lines) + "\n"


def socket_unit(listen: str) -> str:
    """The text of a unit that opens `listen`, and starts the service when somebody connects."""
    return (
        f"# {MARK}; uninstall removes it.\n"
        "[Unit]\n"
        "Description=The port of TabAgent\n\n"
        "[Socket]\n"
        f"ListenStream={listen}\n"
        "Backlog=2048\n\n"
        "[Install]\n"
        "WantedBy=sockets.target\n"
    )


def quoted(word: str) -> str:
    """One word of a unit's command line, whatever is in it. Raises CommandFailed on controls."""
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in word):
        raise CommandFailed(f"{word!r} cannot be written into a unit", code=USAGE)
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
