"""The installed host: a copy of the relay that browsers can execute, and what it is told."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from native_host import relay

RELAY: Final = "relay.py"
SHELL_LAUNCHER: Final = "tabagent-host"
WINDOWS_LAUNCHER: Final = "tabagent-host.bat"
OURS: Final = (RELAY, SHELL_LAUNCHER, WINDOWS_LAUNCHER, relay.CONFIG)

# Isolated from the browser's environment, without the site's packages (half of Python's start),
# paths in UTF-8 whatever the locale. In one word: a `#!` line passes no more.
FLAGS: Final = "-ISXutf8"
SHEBANG: Final = 127  # bytes of that line; older kernels cut off what is over, without a word


def base_python() -> str:
    """The interpreter below a virtual environment, which outlives that."""
    return getattr(sys, "_base_executable", "") or sys.executable


def write_host(place: Path, config: dict[str, Any], python: str, *, windows: bool) -> Path:
    """Write all of the host; the path that a manifest has to name."""
    source = Path(relay.__file__).read_bytes()
    relay_file = place / RELAY
    write(place / relay.CONFIG, as_json(config), 0o644)
    if windows:
        write(relay_file, source, 0o644)
        write(place / WINDOWS_LAUNCHER, _batch(python), 0o755)
        return place / WINDOWS_LAUNCHER
    line = f"#!{python} {FLAGS}\n"
    fits = len(os.fsencode(line)) <= SHEBANG and not re.search(r"\s", python)
    if fits and python.startswith("/"):
        write(relay_file, os.fsencode(line) + source, 0o755)
        (place / SHELL_LAUNCHER).unlink(missing_ok=True)
        return relay_file
    write(relay_file, source, 0o644)
    words = f'exec {shlex.quote(python)} {FLAGS} {shlex.quote(str(relay_file))} "$@"'
    write(place / SHELL_LAUNCHER, os.fsencode(f"#!/bin/sh\n{words}\n"), 0o755)
    return place / SHELL_LAUNCHER


def _batch(python: str) -> bytes:
    """Its own folder is `%~dp0`; a percent sign in a name stands there twice."""
    quoted = python.replace("%", "%%")
    lines = ("@echo off", "chcp 65001 >nul", f'"{quoted}" {FLAGS} "%~dp0{RELAY}" %*', "")
    return "\r\n".join(lines).encode()


def interpreter_of(host: Path) -> str | None:
    """The Python that an installed host runs with, as its launcher names it."""
    try:
        text = os.fsdecode(host.read_bytes()[:8192])
    except OSError:
        return None
    if host.suffix == ".bat":
        found = re.search(r'^"([^"\r\n]+)"', text, re.MULTILINE)
        return found[1].replace("%%", "%") if found else None
    first, _, rest = text.partition("\n")
    if not first.startswith("#!"):
        return None
    if first[2:].strip() != "/bin/sh":
        return first[2:].split()[0] if first[2:].split() else None
    try:
        words = shlex.split(rest)
    except ValueError:
        return None
    return words[1] if len(words) > 1 and words[0] == "exec" else None


def is_current(place: Path) -> bool:
    """Whether the installed relay is this version's, but for its first line."""
    try:
        installed = (place / RELAY).read_bytes()
    except OSError:
        return False
    return installed.endswith(Path(relay.__file__).read_bytes())


def installed_version(place: Path) -> str | None:
    try:
        found = re.search(rb'^VERSION = "([^"]+)"', (place / RELAY).read_bytes(), re.MULTILINE)
    except OSError:
        return None
    return found[1].decode() if found else None


def read_config(place: Path) -> dict[str, Any] | None:
    return read_object(place / relay.CONFIG)


def read_object(file: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is no such thing."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def as_json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def write(file: Path, content: bytes, mode: int) -> None:
    """Put a file there whole: who looks sees the old one or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with open(handle, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(draft, mode)
        os.replace(draft, file)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
