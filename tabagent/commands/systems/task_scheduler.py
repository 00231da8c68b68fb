"""A scheduled task of Windows that starts when its user logs on.

Source: the Task Scheduler schema, version 1.2.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from native_host.host_files import write
from tabagent.commands.failure import USAGE, CommandFailed
from tabagent.commands.systems.contract import (
    MARK,
    NOT_FOUND,
    Run,
    Service,
    State,
    check_free,
    is_ours,
)

NAME: Final = "TabAgent"
NAMESPACE: Final = "http://schemas.microsoft.com/windows/2004/02/mit/task"
SETTINGS: Final = {
    "MultipleInstancesPolicy": "IgnoreNew",
    "DisallowStartIfOnBatteries": "false",
    "StopIfGoingOnBatteries": "false",
    "StartWhenAvailable": "true",
    "ExecutionTimeLimit": "PT0S",  # none
    "Priority": "5",  # a program's own; a task's would be that of background work
}


class TaskScheduler:
    """The tasks of `user`, by name and domain. The description is kept in `place`."""

    def __init__(self, run: Run, place: Path, user: str) -> None:
        self._run, self._user = run, user
        self._file = place / "service.xml"

    @property
    def advice(self) -> Sequence[str]:
        return (
            f"Its log: {self._file.parent / 'server.log'}",
            "It starts when you log on, and ends when you log off.",
        )

    def install(self, service: Service, *, start: bool) -> list[Path]:
        self._check_name()
        check_free(self._file)
        if service.environment:
            names = ", ".join(service.environment)
            raise CommandFailed(
                f"a task takes no {names}", f"as a variable of yours: setx {names} ..."
            )
        write(self._file, task(service, self._user), 0o600)
        self._do("/Create", "/TN", NAME, "/XML", str(self._file), "/F")
        if start:
            self._run(["schtasks", "/End", "/TN", NAME])  # one that runs would be left alone
            self._do("/Run", "/TN", NAME)
        return [self._file]

    def uninstall(self) -> list[Path]:
        self._check_name()
        check_free(self._file)
        if self._query() is not None:
            self._run(["schtasks", "/End", "/TN", NAME])
            self._do("/Delete", "/TN", NAME, "/F")
        if not is_ours(self._file):
            return []
        self._file.unlink()
        return [self._file]

    def state(self) -> State:
        files = [self._file] if is_ours(self._file) else []
        if not files:
            return State([], running=False)
        # Whether it runs is said in the language of the system, so the server is asked instead.
        known = self._query() is not None
        return State(files, running=None if known else False, words="" if known else "no such task")

    def _query(self) -> str | None:
        done = self._run(["schtasks", "/Query", "/TN", NAME, "/XML"])
        if done.code == NOT_FOUND:
            raise CommandFailed(done.said)
        return None if done.code else done.out

    def _check_name(self) -> None:
        there = self._query()
        if there is not None and MARK not in there:
            raise CommandFailed(f"there is another task named {NAME}", "rename it, or use that")

    def _do(self, *words: str) -> None:
        done = self._run(["schtasks", *words])
        if done.code:
            raise CommandFailed(f"schtasks {words[0]}: {done.said}", "see the Task Scheduler")


def task(service: Service, user: str) -> bytes:
    """The description of a task that runs `service`, in UTF-16 as schtasks wants it."""
    for word in service.command:
        if "%" in word or "$(" in word:  # would be replaced, and nothing keeps it
            raise CommandFailed(f"{word} cannot be written into a task", code=USAGE)
    program, *arguments = service.command
    root = ET.Element("Task", {"version": "1.2", "xmlns": NAMESPACE})
    about = ET.SubElement(root, "RegistrationInfo")
    ET.SubElement(about, "Description").text = f"{MARK}: models that run on this machine"
    logon = ET.SubElement(ET.SubElement(root, "Triggers"), "LogonTrigger")
    ET.SubElement(logon, "Enabled").text = "true"
    ET.SubElement(logon, "UserId").text = user
    who = ET.SubElement(ET.SubElement(root, "Principals"), "Principal", {"id": "Author"})
    ET.SubElement(who, "UserId").text = user
    ET.SubElement(who, "LogonType").text = "InteractiveToken"
    ET.SubElement(who, "RunLevel").text = "LeastPrivilege"
    settings = ET.SubElement(root, "Settings")
    for name, value in SETTINGS.items():
        ET.SubElement(settings, name).text = value
    again = ET.SubElement(settings, "RestartOnFailure")
    ET.SubElement(again, "Interval").text = "PT1M"
    ET.SubElement(again, "Count").text = "3"
    execution = ET.SubElement(ET.SubElement(root, "Actions", {"Context": "Author"}), "Exec")
    ET.SubElement(execution, "Command").text = program
    ET.SubElement(execution, "Arguments").text = subprocess.list2cmdline(arguments)
    ET.SubElement(execution, "WorkingDirectory").text = str(service.data_dir)
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-16", xml_declaration=True)
    return text


def without_console(python: str) -> str:
    """The interpreter that opens no window, if it lies beside the other one."""
    silent = Path(python).with_name("pythonw.exe")
    return str(silent) if silent.is_file() else python
