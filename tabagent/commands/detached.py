"""A server that was started without a console, as Windows does it in the background."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

LOG: Final = "server.log"
LARGE: Final = 4 * 1024 * 1024


def log_where_nobody_reads(data_dir: Path) -> None:
    """Give a process that has no standard output a file for it: else its words are lost.

    A log that has grown large makes room for a new one, and is kept beside it.
    """
    if sys.stderr is not None and sys.stdout is not None:
        return
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = data_dir / LOG
    if file.is_file() and file.stat().st_size > LARGE:
        file.replace(file.with_suffix(".old.log"))
    out = file.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
    sys.stdout = sys.stderr = out
