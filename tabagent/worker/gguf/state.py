"""What was computed, kept over a reload: the KV cache's kept sequences as files.

A folder holds one file per sequence and a list of them, written last and by a rename: a list that
is there is whole. It names what the numbers depend on; where that has changed they are not used.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any, Final

from tabagent.worker.gguf.cells import Cells
from tabagent.worker.gguf.context import Context

LIST: Final = "list.json"
SHORTEST: Final = 32  # tokens: less is computed faster than it is read
MOST: Final = 16  # sequences
LARGEST: Final = 2 * 2**30  # bytes of all files together


def fingerprint(path: str, **more: Any) -> dict[str, Any]:
    """What a saved state depends on: the model's file, and whatever else is given."""
    info = os.stat(path)
    return {"size": info.st_size, "mtime_ns": info.st_mtime_ns, **more}


def save(folder: Path, cells: Cells, context: Context, made_by: dict[str, Any]) -> None:
    """Write the sequences used last. A disk that is full costs the speed, not the shutdown."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    clear(folder)
    kept = [h for h in cells.kept if not h.adapters and h.done >= SHORTEST]
    files: dict[str, str] = {}  # name: digest
    room = LARGEST
    for number, holder in enumerate(reversed(kept[-MOST:])):
        name = f"{number}.state"
        cells.recall(holder)
        size = context.save(holder.id, holder.tokens, str(folder / name))
        room -= size
        if not size or room < 0:
            (folder / name).unlink(missing_ok=True)
            print("what was computed could not be saved in full", file=sys.stderr)
            break
        files[name] = _digest(folder / name)
    new = folder / (LIST + ".new")
    new.write_text(json.dumps({"made_by": made_by, "files": files}))
    os.replace(new, folder / LIST)


def restore(folder: Path, cells: Cells, context: Context, made_by: dict[str, Any]) -> int:
    """Take up what `save` wrote, and remove it; how many tokens need not be computed again."""
    try:
        saved = json.loads((folder / LIST).read_text())
    except (OSError, ValueError):
        return 0
    total = 0
    if saved.get("made_by") == made_by:
        for name, digest in reversed(saved["files"].items()):  # the one used last comes last
            if _digest(folder / name) != digest:
                continue
            holder = cells.open([])
            cells.seat(holder)
            tokens = context.restore(holder.id, str(folder / name))
            holder.tokens += tokens
            holder.done = len(tokens)
            cells.keep(holder)
            total += len(tokens)
    clear(folder)
    return total


def _digest(file: Path) -> str:
    """Empty when there is no such file."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "blake2b").hexdigest()
    except OSError:
        return ""


def clear(folder: Path) -> None:
    """Remove what is there: it is taken up once, and never twice."""
    (folder / LIST).unlink(missing_ok=True)
    for file in folder.glob("*.state"):
        file.unlink()
