"""`tabagent clients`: its commands and what they take. Each imports what it needs when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from tabagent.commands.options import DataDir, load_settings

clients = typer.Typer(
    help="Browser extensions that may call: list them, approve one that asks, revoke one.",
    invoke_without_command=True,
)


@clients.callback()
def list_by_default(context: typer.Context, data_dir: DataDir = None) -> None:
    if context.invoked_subcommand is None:
        list_clients(data_dir)


@clients.command("list")
def list_clients(data_dir: DataDir = None) -> None:
    """List the approved extensions, and those that ask to be, with their codes."""
    from tabagent.commands.clients import show_list

    show_list(load_settings(data_dir=data_dir))


@clients.command("approve")
def approve(
    which: Annotated[
        str,
        typer.Argument(
            metavar="CODE|EXTENSION_ID", help="The code that it shows, or an extension's id."
        ),
    ],
    admin: Annotated[
        bool, typer.Option("--admin", help="It may also load models, change settings and pull.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="What it is called here.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Let an extension in; one that is in gets the access that is said now."""
    from tabagent.commands.clients import approve as run

    run(load_settings(data_dir=data_dir), which, name, admin=admin)


@clients.command("revoke")
def revoke(
    which: Annotated[
        str,
        typer.Argument(
            metavar="ID|EXTENSION_ID", help="A client's id or an end of it, or its extension's."
        ),
    ],
    data_dir: DataDir = None,
) -> None:
    """Shut an extension out, at once: its tokens are worth nothing, and what it has open ends."""
    from tabagent.commands.clients import revoke as run

    run(load_settings(data_dir=data_dir), which)
