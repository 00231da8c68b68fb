"""Where the browser extension lies that came with this installation."""

from __future__ import annotations

from pathlib import Path

import tabagent

NAME = "extension-manifest"


def extension_folder() -> Path | None:
    """The folder that a browser loads unpacked: in the package, or beside it in a checkout."""
    package = Path(tabagent.__file__).parent
    for place in (package / NAME, package.parent / NAME):
        if (place / "manifest.json").is_file():
            return place
    return None
