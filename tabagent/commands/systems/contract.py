"""What `tabagent service` asks of a system, and what it knows of what it asks for."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from tabagent.commands.failure import (
    BAD_CONFIG,
    DIRECTORY_IN_USE,
    NO_SERVER,
    PORT_TAKEN,
    USAGE,
    CommandFailed,
)

MARK: Final = "Written by `tabagent service install`"
"""Stands in every file of ours, so that nobody else's is overwritten or removed."""
RUN_S: Final = 400.0  # a start waits for readiness, a stop for running answers
NOT_FOUND: Final = 127

FINAL: Final = {
    USAGE: "the command is wrong",
    PORT_TAKEN: "the port is taken",
    DIRECTORY_IN_USE: "another server owns the data directory; `tabagent stop` ends it",
    BAD_CONFIG: "a setting cannot be used",
}
"""Exit codes of `tabagent serve` that another try does not change."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command of the system's ended."""

    code: int
    out: str = ""
    err: str = ""

    @property
    def said(self) -> str:
        """Its last words, in one line."""
        lines = (self.err.strip() or self.out.strip()).splitlines()
        return lines[-1].strip() if lines else f"exit code {self.code}"


Run = Callable[[Sequence[str]], Done]


@dataclass(frozen=True, slots=True)
class Service:
    """What is to run. `listen` is the address that the system opens in our place, if it does."""

    command: Sequence[str]
    data_dir: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    listen: str | None = None
    stop_s: int = 60


@dataclass(frozen=True, slots=True)
class State:
    """What the system says. `files` are ours and there; `running` is None where it does not say."""

    files: Sequence[Path]
    running: bool | None
    words: str = ""


class System(Protocol):
    """One kind of system. All of it raises CommandFailed, with what the system said."""

    def install(self, service: Service, *, start: bool) -> list[Path]:
        """Write what is needed, in place of what was; have it start with the user's session."""

    def uninstall(self) -> list[Path]:
        """Stop it, and remove what was written: the files, if any."""

    def state(self) -> State: ...

    @property
    def advice(self) -> Sequence[str]:
        """What a person should know once it is installed."""


def run(command: Sequence[str]) -> Done:
    """The real one. A program that is not there ends with 127, as in a shell."""
    try:
        ended = subprocess.run(
            list(command), capture_output=True, timeout=RUN_S, check=False, errors="replace"
        )
    except FileNotFoundError:
        return Done(NOT_FOUND, err=f"there is no {command[0]} here")
    except subprocess.TimeoutExpired:
        return Done(NO_SERVER, err=f"{command[0]} has not ended within {RUN_S:.0f} s")
    return Done(ended.returncode, ended.stdout, ended.stderr)


def is_ours(file: Path) -> bool:
    """False where there is nothing. Raises CommandFailed where it cannot be read."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise CommandFailed(f"{file} cannot be read: {error.strerror}") from error
    return MARK.encode() in content or MARK.encode("utf-16-le") in content


def check_free(file: Path) -> None:
    """Raises CommandFailed where a file of somebody else's lies."""
    if file.exists() and not is_ours(file):
        raise CommandFailed(f"{file} is not ours", "move it away, or go on using that")
