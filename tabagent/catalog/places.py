"""Where model files lie, and what each is called there. Reads directories and opens no file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

from tabagent.catalog.variant import is_layout, is_projector, layout_variant, part_of, variant_of

Location = Literal["built-in", "named", "models-directory", "added-path", "hugging-face-cache"]
OWNER_OF_LOOSE_FILES: Final = "local"
DEEPEST: Final = 8  # folders below a root; links that lead in circles end there


@dataclass(frozen=True, slots=True)
class Place:
    """A file that may be a model, or the first part of one."""

    id: str
    path: Path
    location: Location


def in_directory(root: Path, location: Location) -> Iterator[Place]:
    """Models below a directory: `owner/repo/...` gives a file its name, else the file itself."""
    for path in _files(str(root)):
        yield _placed(str(root), path, location)


def in_added(paths: Iterable[Path]) -> Iterator[Place]:
    """Files and directories that a setting names; one that is not there is no error: disks come
    and go.
    """
    for path in paths:
        if path.is_dir():
            yield from in_directory(path, "added-path")
        elif path.is_file():
            yield Place(loose_id(path), path, "added-path")


def in_hub_cache(root: Path) -> Iterator[Place]:
    """Models in Hugging Face's own cache, used where they are.

    Source: "Understand caching" in huggingface_hub's documentation. A repository is a folder
    `models--owner--name`; `refs/main` names the revision that is current, and
    `snapshots/REVISION` holds links to what is whole: what is still coming has none.
    """
    for folder in _listed(root):
        kind, *words = folder.name.split("--")
        if kind != "models" or not words:
            continue
        snapshot = _snapshot(Path(folder.path))
        if snapshot is None:
            continue
        owner, name = (words[0], "--".join(words[1:])) if len(words) > 1 else ("", words[0])
        for path in _files(str(snapshot)):
            repository = owner or OWNER_OF_LOOSE_FILES, name
            yield _placed(str(snapshot), path, "hugging-face-cache", repository)


def hub_cache() -> Path:
    """Where huggingface_hub keeps what it downloads, by its own environment variables."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    home = os.environ.get("HF_HOME")
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home or f"{caches}/huggingface").expanduser() / "hub"


def loose_id(path: Path) -> str:
    """The id of a file that no owner/repo folder names."""
    return f"{OWNER_OF_LOOSE_FILES}/{_word(path.stem)}"


@lru_cache(maxsize=2**14)  # names alone; most listings see the same ones
def _placed(
    root: str, path: str, location: Location, repository: tuple[str, str] | None = None
) -> Place:
    """A file below `root`, which is a repository's own folder or one of owners' folders."""
    file = Path(path)
    steps = file.relative_to(root).parts
    if is_layout(file.name):
        return Place(_layout_id(root, steps, repository), file, location)
    if repository is None and len(steps) > 2:
        repository, steps = (steps[0], steps[1]), steps[2:]
    if repository is None:
        return Place(loose_id(file), file, location)
    owner, name = map(_word, repository)
    return Place(f"{owner}/{name}:{_word(variant_of('/'.join(steps)))}", file, location)


def _layout_id(root: str, steps: tuple[str, ...], repository: tuple[str, str] | None) -> str:
    """The id of weights that their folder describes: the folder has the name, not the file."""
    steps = tuple(step for step in steps if step != "onnx")
    if repository is None and len(steps) > 2:
        repository, steps = (steps[0], steps[1]), steps[2:]
    elif repository is None:
        folder = steps[0] if len(steps) > 1 else Path(root).name
        repository, steps = (OWNER_OF_LOOSE_FILES, folder), steps[-1:]
    owner, name = map(_word, repository)
    return f"{owner}/{name}:{_word(layout_variant(steps))}"


def _snapshot(repository: Path) -> Path | None:
    """The folder of the revision that is current; the newest where none is."""
    snapshots = repository / "snapshots"
    with suppress(OSError):
        revision = (repository / "refs" / "main").read_text()[:100].strip()
        if re.fullmatch(r"[0-9a-f]{7,64}", revision) and (snapshots / revision).is_dir():
            return snapshots / revision
    found = [entry for entry in _listed(snapshots) if entry.is_dir()]
    newest = max(found, key=lambda entry: entry.stat().st_mtime, default=None)
    return Path(newest.path) if newest else None


def _files(root: str, depth: int = 0) -> Iterator[str]:
    """Model files below `root`, the shallow ones first; later parts and projectors are found
    through others.
    """
    seen = [entry for entry in _listed(root) if not entry.name.startswith(".")]
    models = [entry for entry in seen if entry.name.lower().endswith(".gguf")]
    for entry in models:
        if part_of(entry.name)[0] == 1 and not is_projector(entry.name):
            yield entry.path
    for entry in seen:
        if is_layout(entry.name):
            yield entry.path
    for entry in seen:
        if depth < DEEPEST and entry not in models and _is_directory(entry):
            yield from _files(entry.path, depth + 1)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link into nothing, or in a circle


def _listed(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []  # gone, or not ours to read


def _word(text: str) -> str:
    """`text` as one side of an id: letters, digits, dot, underscore and dash."""
    return re.sub(r"[^A-Za-z0-9._-]+|^[^A-Za-z0-9]+|\.\.+", "-", text)[:96].lstrip("._-") or "model"
