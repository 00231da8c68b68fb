"""`recommend`: public models that would run well here, and how to get one."""

from __future__ import annotations

import asyncio
from itertools import groupby
from typing import Any, Final

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tabagent.commands.client import call, client_of, running_server
from tabagent.commands.failure import USAGE, CommandFailed
from tabagent.commands.models import size_text
from tabagent.config import Settings

console = Console()
TASKS: Final = ("chat", "completion", "embedding", "rerank")
FITS: Final = {"yes": "yes", "smaller": "[yellow]smaller[/yellow]", "no": "[red]no[/red]"}
PACES: Final = {"fast": "fast", "fair": "fair", "slow": "[yellow]slow[/yellow]"}


def recommend(settings: Settings, task: str | None, *, everything: bool) -> None:
    """The list, by task. Asks the running server, which knows what its models take."""
    if task is not None and task not in TASKS:
        raise CommandFailed(f"there is no task {task!r}", f"one of {', '.join(TASKS)}", USAGE)
    found = _listed(settings, task, "anywhere" if everything else "here")
    rows = found["data"]
    for name, group in groupby(rows, key=lambda row: row["task"]):
        console.print(_table(name, list(group)))
        console.print()
    if not rows:
        console.print("Nothing on the list would run well here; --all shows the rest.\n")
    else:
        console.print(f"Get one: [bold]tabagent pull {rows[0]['pull']}[/bold]", highlight=False)
    console.print(
        f"[dim]The list is of {found['dated']}; `fits` counts what is free now, `speed` is a guess."
        "[/dim]",
        highlight=False,
    )


def _table(task: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(task, overflow="fold", header_style="bold")
    table.add_column("size", justify="right", no_wrap=True, header_style="dim")
    table.add_column("fits", no_wrap=True, header_style="dim")
    table.add_column("speed", no_wrap=True, header_style="dim")
    for row in rows:
        able = [word for word in ("tools", "reasoning") if row[word]]
        more = "; ".join(
            [row["about"].rstrip("."), *([", ".join(able)] if able else []), row["license"]]
        )
        table.add_row(
            Group(Text(row["pull"]), Padding(Text(more, style="dim"), (0, 0, 0, 2))),
            size_text(row["size_bytes"]),
            FITS.get(row["fits"], row["fits"]),
            PACES.get(row["pace"] or "", "-"),
        )
    return table


def _listed(settings: Settings, task: str | None, fits: str) -> dict[str, Any]:
    wish = {"fits": fits} | ({"task": task} if task else {})
    if (running := running_server(settings)) is not None:
        query = "&".join(f"{name}={value}" for name, value in wish.items())
        with client_of(running, settings) as client:
            found: dict[str, Any] = call(client, "GET", f"/v1/hardware/recommendations?{query}")
            return found
    from tabagent.app import offline_recommendations
    from tabagent.services.hardware.recommendations import RecommendationsRequest

    request = RecommendationsRequest.model_validate(wish)
    return asyncio.run(offline_recommendations(settings, request)).model_dump(mode="json")
