"""An agent of launchd, which runs in a user's session on macOS.

Sources: launchd.plist(5), launchctl(1).
"""

from __future__ import annotations

import plistlib
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from native_host.host_files import write
from tabagent.commands.failure import CommandFailed
from tabagent.commands.systems.contract import (
    FINAL,
    MARK,
    Run,
    Service,
    State,
    check_free,
    is_ours,
)

LABEL: Final = "tabagent.server"
REST_S: Final = 30  # launchd tries again after any failure, also one that stays; not too often
GONE_S: Final = 90.0
LOOK_S: Final = 0.2


class Launchd:
    """launchd of the user with the number `uid`, whose home is `home`."""

    def __init__(
        self, run: Run, home: Path, uid: int, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._run, self._sleep = run, sleep
        self._file = home / "Library" / "LaunchAgents" / f"{LABEL}.plist"
        self._log = home / "Library" / "Logs" / "tabagent.log"
        self._domain = f"gui/{uid}"
        self._target = f"{self._domain}/{LABEL}"

    @property
    def advice(self) -> Sequence[str]:
        return (f"Its log: {self._log}", "It runs while you are logged in.")

    def install(self, service: Service, *, start: bool) -> list[Path]:
        check_free(self._file)
        content = agent(service, self._log)
        self._unload()
        write(self._file, content, 0o644)
        if start:
            self._run(["launchctl", "enable", self._target])  # it may have been switched off
            done = self._run(["launchctl", "bootstrap", self._domain, str(self._file)])
            if done.code:
                raise CommandFailed(
                    f"{self._file} is written, but launchd does not take it: {done.said}",
                    "log in on the screen of this Mac: a session over ssh alone has no agents",
                )
        return [self._file]

    def uninstall(self) -> list[Path]:
        check_free(self._file)
        self._unload()
        if not is_ours(self._file):
            return []
        self._file.unlink()
        return [self._file]

    def state(self) -> State:
        files = [self._file] if is_ours(self._file) else []
        done = self._run(["launchctl", "print", self._target])
        if done.code:
            return State(files, running=False, words="not loaded" if files else "")
        if found := re.search(r"^\s*pid = (\d+)", done.out, re.MULTILINE):
            return State(files, running=True, words=f"pid {found[1]}")
        code = re.search(r"^\s*last exit code = (\d+)", done.out, re.MULTILINE)
        why = FINAL.get(int(code[1]), f"it ended with {code[1]}") if code else "not started yet"
        return State(files, running=False, words=why)

    def _unload(self) -> None:
        """End it, and wait until launchd has forgotten it: before that it takes no other."""
        if self._run(["launchctl", "print", self._target]).code:
            return
        self._run(["launchctl", "bootout", self._target])
        for _ in range(int(GONE_S / LOOK_S)):
            if self._run(["launchctl", "print", self._target]).code:
                return
            self._sleep(LOOK_S)
        raise CommandFailed(f"launchd still runs {LABEL}", f"launchctl bootout {self._target}")


def agent(service: Service, log: Path) -> bytes:
    """The property list of an agent that runs `service`."""
    properties = {
        "Label": LABEL,
        "ProgramArguments": list(service.command),
        "EnvironmentVariables": dict(service.environment),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": REST_S,
        "ExitTimeOut": service.stop_s,
        "ProcessType": "Interactive",  # models compute at full speed also behind a closed lid
        "Umask": 0o077,
        "StandardOutPath": str(log),
        "StandardErrorPath": str(log),
    }
    text = plistlib.dumps(properties, sort_keys=False)
    return text.replace(b"<plist", f"<!-- {MARK} -->\n<plist".encode(), 1)
