"""`tabagent sessions`: its commands and what they take. Each imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tabagent.commands.failure import USAGE, CommandFailed
from tabagent.commands.options import DataDir, load_settings

sessions = typer.Typer(help="Kept conversations: list, show, take out and in, delete.")
SessionId = Annotated[
    str, typer.Argument(metavar="ID", help="A session's id, or a beginning or end of it.")
]


@sessions.command("list")
def list_sessions(
    search: Annotated[
        str | None, typer.Option(help="In titles, and words in what was said.")
    ] = None,
    archived: Annotated[bool, typer.Option("--archived", help="Those that are archived.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Sessions at most.")] = 50,
    data_dir: DataDir = None,
) -> None:
    """List sessions: pinned ones first, then the last used."""
    from tabagent.commands.sessions import show_list

    show_list(load_settings(data_dir=data_dir), search, archived=archived, limit=limit)


@sessions.command("show")
def show_session(
    session: SessionId,
    limit: Annotated[int, typer.Option(min=1, help="Messages at most, the newest.")] = 100,
    branch: Annotated[str | None, typer.Option(help="The current if unset.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Print a conversation."""
    from tabagent.commands.sessions import show_session

    show_session(load_settings(data_dir=data_dir), session, limit, branch)


@sessions.command("export")
def export_session(
    session: SessionId,
    format_: Annotated[str, typer.Option("--format", help="json or markdown.")] = "json",
    output: Annotated[Path | None, typer.Option(help="A file; stdout if unset.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Write a whole session, with every branch."""
    from tabagent.commands.sessions import export

    if format_ not in ("json", "markdown"):
        raise CommandFailed(f"there is no format {format_}", "json or markdown", USAGE)
    export(load_settings(data_dir=data_dir), session, format_, output)


@sessions.command("import")
def import_session(
    file: Annotated[Path, typer.Argument(help="What `export` wrote.")],
    new_ids: Annotated[
        bool, typer.Option("--new-ids", help="Beside one that has the same ids.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Take in a session that was exported."""
    from tabagent.commands.sessions import import_

    import_(load_settings(data_dir=data_dir), file, new_ids=new_ids)


@sessions.command("rm")
def remove_sessions(
    session: Annotated[list[str], typer.Argument(metavar="ID...", help="As `show` takes them.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Delete sessions with all their messages."""
    from tabagent.commands.sessions import remove

    remove(load_settings(data_dir=data_dir), session, sure=yes)
