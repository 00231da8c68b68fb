"""`tabagent clients`: which extensions may call; asked of the server, or of its database without."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from tabagent.commands.client import call, client_of, owner_token, running_server
from tabagent.commands.failure import DIRECTORY_IN_USE, CommandFailed
from tabagent.commands.sessions import moment, plain
from tabagent.config import Settings
from tabagent.errors import TabAgentError
from tabagent.parameters.extensions import origin_of
from tabagent.runtime import DataDirectory, DirectoryInUse
from tabagent.stores.unusable import DatabaseUnusable

SHORT: Final = 8  # characters of an id's end, which differ between two clients
CODE: Final = 8
console = Console()

Ask = Callable[[str, dict[str, Any]], Any]
"""An operation's reply, by the operation's name and its request."""


def show_list(settings: Settings) -> None:
    """A line for each client, and one for each extension that asks."""
    with gateway(settings) as (ask, live):
        found = ask("list_clients", {})
    if found["data"]:
        console.print(_clients(found["data"]))
    else:
        print("No extension is approved.")
    if found["pending"]:
        console.print("\nThese ask to be approved; compare the code with what each shows:\n")
        console.print(_pending(found["pending"]))
        code = found["pending"][-1]["code"]
        console.print(f"\n  tabagent clients approve {code}", style="dim", highlight=False)
    if not live:
        console.print("\nNo server runs, so none can ask.", style="dim", highlight=False)


def approve(settings: Settings, which: str, name: str | None, *, admin: bool) -> None:
    """Let one in, by the code that it shows or by its id."""
    said = {"access": "admin" if admin else "user", **({"name": name} if name else {})}
    typed = "".join(letter for letter in which if letter.isalnum())
    origin = origin_of(which)
    if origin is None and len(typed) != CODE:
        raise CommandFailed(
            f"{which} is neither a code nor an extension's id", "codes: tabagent clients"
        )
    with gateway(settings) as (ask, live):
        if origin is None and not live:
            raise CommandFailed(
                "no server runs, and only a running one knows codes",
                "approve it by its extension's id, or start one: tabagent serve",
            )
        wanted = {"code": which} if origin is None else {"origin": origin}
        made = ask("approve_client", {**wanted, **said})
    print(f"{_called(made)} is approved with {made['access']} access")


def revoke(settings: Settings, which: str) -> None:
    """Shut one out."""
    with gateway(settings) as (ask, _):
        rows = ask("list_clients", {})["data"]
        found = [
            row
            for row in rows
            if row["origin"] == origin_of(which) or (which and row["id"].endswith(which))
        ]
        if len(found) != 1:
            raise CommandFailed(
                f"{which} may be {len(found)} clients" if found else f"there is no client {which}",
                "tabagent clients",
            )
        ask("revoke_client", {"client_id": found[0]["id"]})
    print(f"{_called(found[0])} is revoked")


@contextlib.contextmanager
def gateway(settings: Settings) -> Iterator[tuple[Ask, bool]]:
    """What answers: the server, however it is served, or its database; and whether it is one."""
    running = DataDirectory(settings.data_dir).serving()
    if running and not running.url and running.native:
        from tabagent.commands.owner_socket import owner_socket

        with owner_socket(running.native, owner_token(settings)) as line:
            yield line.ask, True
        return
    if (serving := running_server(settings)) is None:
        with _database(settings) as ask:
            yield ask, False
        return
    with client_of(serving, settings) as client:

        def over_http(route: str, payload: dict[str, Any]) -> Any:
            if route == "revoke_client":
                return call(client, "DELETE", f"/v1/clients/{quote(payload['client_id'])}", {})
            return call(client, "POST" if payload else "GET", "/v1/clients", payload or None)

        yield over_http, True


@contextlib.contextmanager
def _database(settings: Settings) -> Iterator[Ask]:
    """The operations without a server. Nobody else has the directory meanwhile."""
    from tabagent import logs
    from tabagent.app import offline_clients

    logs.configure("warning", "console", settings.audit_file, aloud=False)
    directory = DataDirectory(settings.data_dir)
    try:
        directory.take()
    except DirectoryInUse as error:
        raise CommandFailed(
            f"{error} and does not answer", "end it, then try again", DIRECTORY_IN_USE
        ) from error
    except OSError as error:
        raise CommandFailed(f"the data directory cannot be used: {error.strerror}") from error

    def ask(route: str, payload: dict[str, Any]) -> Any:
        try:
            reply = asyncio.run(offline_clients(settings, route, payload))
        except DatabaseUnusable as error:
            raise CommandFailed(str(error), error.fix) from error
        except TabAgentError as error:
            raise CommandFailed(f"{error.detail} ({error.slug})", error.advice) from error
        return reply.model_dump(mode="json")

    try:
        yield ask
    finally:
        directory.release()


def _clients(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        Column("id", no_wrap=True),
        Column("name", overflow="fold"),
        Column("extension", overflow="fold"),
        Column("access", no_wrap=True),
        Column("last used", no_wrap=True),
        Column("now", no_wrap=True),
        box=None,
        pad_edge=False,
    )
    for row in rows:
        table.add_row(
            row["id"][-SHORT:],
            Text(plain(row["name"])),
            Text(_extension(row)),
            row["access"],
            moment(row["last_used_at"]) if row["last_used_at"] else "never",
            "here" if row["connected"] else "",
        )
    return table


def _pending(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        Column("code", no_wrap=True, style="bold"),
        Column("name", overflow="fold"),
        Column("extension", overflow="fold"),
        Column("who says so", no_wrap=True),
        Column("for", no_wrap=True, justify="right"),
        box=None,
        pad_edge=False,
    )
    for row in rows:
        left = datetime.fromisoformat(row["expires_at"]) - datetime.now(UTC)
        table.add_row(
            row["code"],
            Text(plain(row["name"])),
            Text(_extension(row)),
            "the browser" if row["vouched"] else "it alone",
            f"{max(1, round(left.total_seconds() / 60))} min",
        )
    return table


def _called(row: dict[str, Any]) -> str:
    name, extension = plain(row["name"]), _extension(row)
    return name if name == extension else f"{name} ({extension})"


def _extension(row: dict[str, Any]) -> str:
    """Its id as its browser shows it."""
    return plain(str(row["origin"]).rpartition("://")[2].removeprefix("moz-extension-id:"))
