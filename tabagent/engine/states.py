"""Where computed prompts lie between two loads of a model, and how much of that stays."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tabagent.catalog.models import Model


class States:
    """A folder for each model under `root`, `limit_bytes` in all. Does file I/O: use a thread."""

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self._root, self._limit = root, limit_bytes

    def path(self, model: Model) -> Path:
        return self._root / re.sub("[/:]", "--", model.id)

    def drop(self, model: Model) -> None:
        """What an earlier load kept is nobody's any more."""
        shutil.rmtree(self.path(model), ignore_errors=True)

    def trim(self) -> None:
        """Remove what was kept longest ago until the rest is within the limit."""
        try:
            folders = [folder for folder in self._root.iterdir() if folder.is_dir()]
        except OSError:
            return  # nothing was ever kept
        aged = sorted(((_age(folder), _size(folder), folder) for folder in folders), reverse=True)
        total = 0
        for _, size, folder in aged:
            total += size
            if total > self._limit:
                shutil.rmtree(folder, ignore_errors=True)
                total -= size


def _age(folder: Path) -> float:
    return max((file.stat().st_mtime for file in folder.iterdir()), default=0.0)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
