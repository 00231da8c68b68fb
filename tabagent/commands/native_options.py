"""`tabagent native`: its commands and what they take. Each imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tabagent.commands.options import DataDir, load_settings

native = typer.Typer(help="The browser's way to this server: install it, remove it, look at it.")
BrowserName = Annotated[
    str,
    typer.Option(
        "--browser",
        help="chrome, chromium, edge, brave, vivaldi, firefox, or all that are found.",
    ),
]


@native.command("install")
def install_host(
    browser: BrowserName = "all",
    extension_id: Annotated[
        list[str] | None,
        typer.Option(help="Of an extension that may call; our own if unset.", show_default=False),
    ] = None,
    system: Annotated[
        bool, typer.Option("--system", help="For every user of this machine.")
    ] = False,
    user_data_dir: Annotated[
        Path | None, typer.Option(help="For a Chromium that is run with this --user-data-dir.")
    ] = None,
    no_auto_start: Annotated[
        bool, typer.Option("--no-auto-start", help="Browsers do not start the server.")
    ] = False,
    no_approve: Annotated[
        bool, typer.Option("--no-approve", help="Do not let the extension in yet.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Tell browsers where TabAgent is, and let the extension in."""
    from tabagent.commands.native import Wishes, install

    wishes = Wishes(
        browser,
        extension_id or [],
        system=system,
        user_data_dir=user_data_dir,
        auto_start=not no_auto_start,
        approve=not no_approve,
    )
    install(load_settings(data_dir=data_dir), wishes)


@native.command("uninstall")
def uninstall_host(
    browser: BrowserName = "all",
    system: Annotated[
        bool, typer.Option("--system", help="What was installed for every user.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Take back what `install` wrote. Approved extensions stay approved."""
    from tabagent.commands.native import uninstall

    uninstall(load_settings(data_dir=data_dir), browser, system=system)


@native.command("status")
def show_status(data_dir: DataDir = None) -> None:
    """List the browsers, what each was told, and which extensions may call."""
    from tabagent.commands.native import status

    status(load_settings(data_dir=data_dir))
