"""What all commands share: where the data lies, and the settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tabagent.commands.failure import BAD_CONFIG, CommandFailed

if TYPE_CHECKING:
    from tabagent.config import Settings

DataDir = Annotated[
    Path | None, typer.Option(help="Where TabAgent keeps its things.", show_default=False)
]


def load_settings(**flags: Any) -> Settings:
    from tabagent import config

    try:
        return config.load(**flags)
    except config.ConfigError as error:
        hint = "`tabagent config` lists every setting"
        raise CommandFailed(str(error), hint, BAD_CONFIG) from error
