"""`pull`, `rm` and `hf-token`: models from the hub, and out again."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from tabagent.commands.client import call, raise_for_problem, server
from tabagent.commands.failure import NO_SERVER, CommandFailed
from tabagent.commands.models import size_text
from tabagent.config import Settings

INTERRUPTED = 130  # as shells say of Ctrl-C


def pull(settings: Settings, model: str) -> None:
    """Pull through the running server, or one of our own, and show how far it is."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    last: dict[str, Any] = {}
    try:
        with server(settings) as client, bar:
            task = bar.add_task(model, total=None)
            for last in _events(client, model):
                bar.update(
                    task,
                    description=last["model"],
                    total=last["total_bytes"],
                    completed=last["completed_bytes"],
                )
    except KeyboardInterrupt:
        name = last.get("model", model)
        raise CommandFailed(
            "stopped; what has come is kept", f"go on: tabagent pull {name}", INTERRUPTED
        ) from None
    if last.get("state") != "done":
        raise CommandFailed(f"the pull is {last.get('state', 'unknown')}", f"tabagent pull {model}")
    print(f"{last['model']} is here: {size_text(last['total_bytes'])}")


def _events(client: httpx.Client, model: str) -> Iterator[dict[str, Any]]:
    body = {"model": model, "stream": True}
    pull_id = ""
    try:
        with client.stream("POST", "/v1/pull", json=body) as response:
            raise_for_problem(response)
            for line in response.iter_lines():
                if line.startswith("data: "):
                    event = json.loads(line[6:])
                    if "error" in event:
                        raise CommandFailed(event["error"]["message"])
                    pull_id = event["id"]
                    yield event
    except httpx.HTTPError as error:
        raise CommandFailed("the server went away", "pull again: it goes on", NO_SERVER) from error
    except KeyboardInterrupt:
        # The job is the server's: it would go on without us.
        if pull_id:
            call(client, "POST", f"/v1/pulls/{pull_id}/cancel", {})
        raise


def remove(settings: Settings, model: str, *, sure: bool) -> None:
    """Delete what was pulled; asks first."""
    with server(settings) as client:
        if not sure:
            if not sys.stdin.isatty():
                raise CommandFailed(f"{model} stays: nobody can be asked", "rm --yes does not ask")
            typer.confirm(f"Delete {model}?", abort=True)
        gone = call(client, "POST", "/v1/delete", {"model": model})
    print(f"{gone['model']} is deleted: {size_text(gone['freed_bytes'])} are free again")
    if gone["was_selected"]:
        print("It answered requests that name no model; the built-in model does now.")


def variants(settings: Settings, repository: str) -> None:
    """What a repository offers, before any of it is pulled."""
    from urllib.parse import quote

    from rich.table import Table

    with server(settings) as client:
        rows = call(client, "GET", f"/v1/models/{quote(repository, safe='')}/quants")["data"]
    table = Table("variant", "size", "fits", "here", box=None, pad_edge=False)
    for row in rows:
        fits = "yes" if row["fits"] else "[red]no[/red]"
        table.add_row(row["name"], size_text(row["size_bytes"]), fits, "yes" if row["here"] else "")
    Console().print(table)


def hub_token(settings: Settings, *, clear: bool, status: bool) -> None:
    """Set the hub's token from stdin, show where it lies, or forget it."""
    with server(settings) as client:
        if clear:
            found = call(client, "DELETE", "/v1/hf/token", {})
        elif status:
            found = call(client, "GET", "/v1/hf/token/status")
        else:
            text = (
                typer.prompt("Token", hide_input=True) if sys.stdin.isatty() else sys.stdin.read()
            )
            found = call(client, "POST", "/v1/hf/token", {"token": text.strip()})
    print(f"The hub's token is in the {found['source']}." if found["set"] else "There is no token.")
