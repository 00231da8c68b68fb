"""`tabagent config`: every setting, its value, and where that came from."""

from __future__ import annotations

import re

from rich.console import Console
from rich.table import Table

from tabagent.config import PREFIX, Settings, config_file, source_of

SECRET = ("token", "index_options")


def show(settings: Settings) -> None:
    console = Console()
    table = Table("setting", "value", "from", box=None, pad_edge=False)
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if name in SECRET and value:
            value = "(set)"
        elif name == "database_url" and value:
            value = re.sub("(://[^:/@]*):[^@]*@", r"\1:(set)@", value)
        elif value is None:
            value = "-"
        elif isinstance(value, list):
            value = ", ".join(value) or "-"
        of_file = name == "token" and settings.token_file is not None
        table.add_row(name, str(value), "token_file" if of_file else source_of(name, {}))
    console.print(table)
    console.print(
        f"\n[dim]environment: {PREFIX}<NAME>   file: {config_file()}[/dim]", highlight=False
    )
