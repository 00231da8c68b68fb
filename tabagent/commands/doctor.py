"""`doctor`: how this installation is, line by line, with what would mend it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tabagent.commands import checks
from tabagent.commands.browser_checks import browser_checks
from tabagent.commands.checks import Check
from tabagent.commands.client import call, client_of, running_server
from tabagent.config import Settings
from tabagent.runtime import Running

console = Console()
COLOURS: Final = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(settings: Settings, *, browser: bool = False) -> bool:
    """Show every check; whether none has failed. With a server running it is asked, as it sees.

    `browser`: the way from a browser to the server instead.
    """
    with console.status("looking"):
        if browser:
            found = list(browser_checks(settings))
        else:
            found = list(_checks(settings, running_server(settings)))
    console.print(_table(found))
    console.print(f"\n{_summary(found)}", highlight=False)
    return not any(check.verdict == "fail" for check in found)


def _checks(settings: Settings, running: Running | None) -> Iterator[Check]:
    info, recipes, token = _asked(settings, running) if running else _looked(settings)
    yield checks.server(settings, running)
    yield checks.data_directory(settings)
    yield from checks.databases(settings)
    yield checks.disk(settings)
    yield checks.hub(settings, token)
    yield from checks.machine(info, recipes)


Facts = tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]


def _asked(settings: Settings, running: Running) -> Facts:
    with client_of(running, settings) as client:
        return (
            call(client, "GET", "/v1/hardware/info"),
            call(client, "GET", "/v1/recipes")["recipes"],
            call(client, "GET", "/v1/hf/token/status"),
        )


def _looked(settings: Settings) -> Facts:
    from tabagent.app import offline_hardware
    from tabagent.hub.token import HubToken

    info, recipes = asyncio.run(offline_hardware(settings))
    found = HubToken(settings.data_dir / "hf_token").find()
    return (
        info.model_dump(mode="json"),
        recipes.model_dump(mode="json")["recipes"],
        {"set": found is not None, "source": found[1] if found else None},
    )


def _table(found: Iterable[Check]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(width=4)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in found:
        colour = COLOURS[check.verdict]
        says = escape(check.says)
        if check.fix:
            says += f"\n[{colour}]→[/{colour}] {escape(check.fix)}"
        table.add_row(f"[{colour}]{check.verdict}[/{colour}]", check.subject, says)
    return table


def _summary(found: list[Check]) -> str:
    counts = {kind: sum(check.verdict == kind for check in found) for kind in COLOURS}
    if counts["fail"]:
        return f"[red]{_some(counts['fail'], 'failure')}[/red], {_some(counts['warn'], 'warning')}"
    if counts["warn"]:
        return f"It works, with [yellow]{_some(counts['warn'], 'warning')}[/yellow]."
    return "[green]All is well.[/green]"


def _some(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
