"""`tabagent service`: the server in the background, kept running by the system."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import typer

from tabagent.commands.failure import USAGE, CommandFailed
from tabagent.commands.native import SERVE
from tabagent.commands.systems.contract import Run, Service, System, run
from tabagent.commands.systems.launchd import Launchd
from tabagent.commands.systems.systemd import Systemd
from tabagent.commands.systems.task_scheduler import TaskScheduler, without_console
from tabagent.config import PREFIX, Settings
from tabagent.runtime import DataDirectory

SPARE_S: Final = 40  # beyond the drain: for workers, stores and the rest of the way out
CONFIG: Final = PREFIX + "CONFIG"


def system_here(settings: Settings, run: Run = run, platform: str = sys.platform) -> System:
    """What runs programs in the background on this system."""
    if platform == "linux":
        named = os.environ.get("XDG_CONFIG_HOME", "")
        home = Path(named) if named.startswith("/") else Path.home() / ".config"
        return Systemd(run, home)
    if platform == "darwin":
        return Launchd(run, Path.home(), os.getuid())
    if platform == "win32":
        return TaskScheduler(run, settings.data_dir.absolute(), _windows_user())
    raise CommandFailed(
        f"there is no service for {platform}", "start `tabagent serve` from what you use"
    )


def install(
    settings: Settings,
    flags: Mapping[str, Any],
    models: Sequence[str],
    *,
    socket: bool = False,
    start: bool = True,
    system: System | None = None,
) -> None:
    """Have the system run `tabagent serve` with these flags, now and from each login on."""
    system = system or system_here(settings)
    if socket and not isinstance(system, Systemd):
        raise CommandFailed("only systemd opens a port for a service", "leave --socket out", USAGE)
    service = Service(
        command=_command(settings, flags, models),
        data_dir=settings.data_dir.absolute(),
        environment=_environment(),
        listen=_listen(settings) if socket else None,
        stop_s=int(settings.drain_s) + SPARE_S,
    )
    try:
        files = system.install(service, start=start)
    except OSError as error:
        raise CommandFailed(f"{error.filename} cannot be written: {error.strerror}") from error
    for file in files:
        typer.echo(f"wrote {file}")
    _warn_of_variables()
    if not start:
        typer.echo("It starts at the next login.")
    elif service.listen is not None:
        typer.echo(f"It starts when somebody connects to {service.listen}.")
        if (service.data_dir / "native_host").exists():
            typer.echo("Browsers start a server of their own meanwhile: leave --socket out here.")
    else:
        running = DataDirectory(service.data_dir).running()
        typer.echo(f"It runs{f' at {running.url}' if running and running.url else ''}.")
    for line in system.advice:
        typer.echo(line)


def uninstall(settings: Settings, system: System | None = None) -> None:
    """Stop it and remove what was written. Models, sessions and settings stay."""
    system = system or system_here(settings)
    try:
        removed = system.uninstall()
    except OSError as error:
        raise CommandFailed(f"{error.filename} cannot be removed: {error.strerror}") from error
    for file in removed:
        typer.echo(f"removed {file}")
    if not removed:
        typer.echo("No service is installed.")


def status(settings: Settings, system: System | None = None) -> None:
    """Whether it is installed, by which file, and whether it runs."""
    system = system or system_here(settings)
    state = system.state()
    if not state.files:
        typer.echo("Not installed: tabagent service install")
        return
    for file in state.files:
        typer.echo(f"Installed: {file}")
    running = state.running
    words = state.words
    if running is None:  # the system does not say; the server does
        server = DataDirectory(settings.data_dir).running()
        running = server is not None and _is_alive(server.pid)
        words = f"pid {server.pid}" if server is not None and running else ""
    typer.echo(("Runs" if running else "Does not run") + (f": {words}" if words else ""))


def _is_alive(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid)


def _command(
    settings: Settings, flags: Mapping[str, Any], models: Sequence[str]
) -> tuple[str, ...]:
    """`tabagent serve` by absolute paths: a service starts elsewhere, and knows no PATH."""
    python, *module = SERVE
    if sys.platform == "win32":
        python = without_console(python)
    words = [os.path.abspath(python), *module, "--data-dir", str(settings.data_dir.absolute())]
    for name, value in flags.items():
        if value is not None:
            shown = str(value.absolute()) if isinstance(value, Path) else str(value)
            words += ["--" + name.replace("_", "-"), shown]
    for model in models:
        file = Path(model)
        is_file = model.endswith(".gguf") or "\\" in model
        if is_file and not file.is_file():
            raise CommandFailed(f"{model} is no file", code=USAGE)
        words += ["--model", str(file.absolute()) if is_file else model]
    return tuple(words)


def _environment() -> dict[str, str]:
    named = os.environ.get(CONFIG)
    return {CONFIG: os.path.abspath(named)} if named else {}


def _warn_of_variables() -> None:
    """A service has no shell's environment, so what was set here would silently not count."""
    lost = sorted(name for name in os.environ if name.startswith(PREFIX) and name != CONFIG)
    if lost:
        typer.echo(
            f"Not for the service, which reads its settings from the configuration file: "
            f"{', '.join(lost)}"
        )


def _listen(settings: Settings) -> str:
    if settings.mode == "native" or settings.port == 0:
        raise CommandFailed(
            "a socket unit needs a port that is known", "leave --socket out, or name --port", USAGE
        )
    host = "127.0.0.1" if settings.host == "localhost" else settings.host.strip("[]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise CommandFailed(
            f"a socket unit needs an address, and {host} is a name", code=USAGE
        ) from None
    shown = f"[{address}]" if address.version == 6 else str(address)
    return f"{shown}:{settings.port}"


def _windows_user() -> str:
    domain, name = os.environ.get("USERDOMAIN", ""), os.environ.get("USERNAME", "")
    return f"{domain}\\{name}" if domain else name
