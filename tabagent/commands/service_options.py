"""`tabagent service`: its commands and what they take. Each imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tabagent.commands.options import DataDir, load_settings

service = typer.Typer(
    help="The server in the background: systemd, launchd or the Task Scheduler keeps it running."
)


@service.command("install")
def install_service(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    mode: Annotated[str | None, typer.Option(help="What listens: http, native or both.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A .gguf file to serve, or the id of a model.", show_default=False),
    ] = None,
    models_dir: Annotated[Path | None, typer.Option(help="Where models are looked for.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error.")] = None,
    log_format: Annotated[str | None, typer.Option(help="console or json.")] = None,
    socket: Annotated[
        bool, typer.Option("--socket", help="systemd opens the port; who connects starts it.")
    ] = False,
    no_start: Annotated[
        bool, typer.Option("--no-start", help="Not before the next login.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Run `tabagent serve` with these flags now, and whenever you log in."""
    from tabagent.commands.service import install

    flags = {
        "host": host,
        "port": port,
        "mode": mode,
        "models_dir": models_dir,
        "log_level": log_level,
        "log_format": log_format,
    }
    settings = load_settings(**flags, data_dir=data_dir)
    install(settings, flags, model or [], socket=socket, start=not no_start)


@service.command("uninstall")
def uninstall_service(data_dir: DataDir = None) -> None:
    """Stop it and remove what `install` wrote. Models, sessions and settings stay."""
    from tabagent.commands.service import uninstall

    uninstall(load_settings(data_dir=data_dir))


@service.command("status")
def show_status(data_dir: DataDir = None) -> None:
    """Say whether it is installed, by which file, and whether it runs."""
    from tabagent.commands.service import status

    status(load_settings(data_dir=data_dir))
