"""Letting go of what was pulled, and of nothing else."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from tabagent.catalog.models import Model
from tabagent.catalog.variant import belongs_to, is_onnx, variant_of
from tabagent.errors import Conflict
from tabagent.hub.jobs import MANIFEST, owned_files, write_durably


def delete(model: Model, models: Path) -> tuple[list[str], int]:
    """Remove a model's files; their names, and how many bytes that freed.

    Raises Conflict for files that nobody pulled: they are their owner's.
    """
    if model.location == "built-in":
        raise Conflict(f"{model.id} is a part of TabAgent and stays")
    folder = _repository(model.path, models)
    owned = owned_files(folder) if folder else {}
    if folder is None or model.path.relative_to(folder).as_posix() not in owned:
        raise Conflict(f"{model.id} was not pulled by TabAgent: remove its file yourself")
    mine = _files_of(model.path.relative_to(folder).as_posix(), list(owned))
    freed = 0
    for path in mine:
        file = folder / path
        with suppress(FileNotFoundError):
            size = file.lstat().st_size
            file.unlink()
            freed += size
        del owned[path]
    if owned:
        write_durably(folder / MANIFEST, json.dumps({"files": owned}))
    else:
        (folder / MANIFEST).unlink(missing_ok=True)
    for empty in (*sorted(folder.rglob("*"), reverse=True), folder, folder.parent):
        if empty.is_dir() and not empty.is_symlink():
            with suppress(OSError):
                empty.rmdir()
    return mine, freed


def _files_of(weights: str, owned: list[str]) -> list[str]:
    """Those of one variant; what several share goes with the last of them."""
    if not is_onnx(weights):
        return [path for path in owned if variant_of(path) == variant_of(weights)]
    mine = [path for path in owned if path == weights or belongs_to(path, weights)]
    others = [path for path in owned if path not in mine]
    shared = not any(is_onnx(path) or path.endswith(".gguf") for path in others)
    return mine + (others if shared else [])


def _repository(path: Path, models: Path) -> Path | None:
    """The repository's folder, two below the models directory. None outside of it."""
    try:
        steps = path.relative_to(models).parts
    except ValueError:
        return None
    return models / steps[0] / steps[1] if len(steps) > 2 else None
