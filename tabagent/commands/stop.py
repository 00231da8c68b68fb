"""`tabagent stop`: end the server of a data directory, whoever started it."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Final

import psutil
import typer
from filelock import FileLock, Timeout

from tabagent.commands.failure import CommandFailed
from tabagent.config import Settings
from tabagent.runtime import DataDirectory, Running

START_S: Final = 10.0  # for one that is only starting to say where it is
SPARE_S: Final = 15.0  # beyond the drain, for workers and stores
NOW_S: Final = 10.0


def stop(settings: Settings, *, now: bool) -> None:
    """End it as SIGTERM does: running answers get their time, with `now` they get none."""
    running = _owner(settings.data_dir)
    if running is None:
        typer.echo("No server runs.")
        return
    try:
        process = psutil.Process(running.pid)
        for _ in range(2 if now else 1):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.1 if now else 0)  # the second is another one, and means: at once
    except psutil.NoSuchProcess:
        pass  # it has just ended
    except psutil.AccessDenied as error:
        hint = "stop it as that user"
        raise CommandFailed(f"the server (pid {running.pid}) is another user's", hint) from error
    else:
        limit = NOW_S if now else settings.drain_s + SPARE_S
        if not _ended(process, limit):
            raise CommandFailed(
                f"the server (pid {running.pid}) has not ended within {limit:.0f} s",
                f"kill -9 {running.pid}" if now else "tabagent stop --now",
            )
    typer.echo(f"The server (pid {running.pid}) has ended.")


def _owner(data_dir: Path) -> Running | None:
    """The server that holds this directory's lock: what `runtime.json` says may be long over."""
    deadline = time.monotonic() + START_S
    while _is_locked(data_dir):
        running = DataDirectory(data_dir).running()
        if running is not None:
            return running
        if time.monotonic() > deadline:
            raise CommandFailed(
                "a server holds the data directory, and does not say which it is",
                f"see who has {data_dir / 'lock'} open",
            )
        time.sleep(0.05)
    return None


def _is_locked(data_dir: Path) -> bool:
    if not (data_dir / "lock").exists():
        return False
    try:
        with FileLock(data_dir / "lock", timeout=0):
            return False
    except Timeout:
        return True
    except OSError as error:
        hint = "stop it as its user"
        raise CommandFailed(f"{data_dir} is not yours: {error.strerror}", hint) from error


def _ended(process: psutil.Process, limit: float) -> bool:
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        try:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False
