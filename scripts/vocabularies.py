"""Fetches the vocabularies of public models that the tests need, once.

llama.cpp's source holds real tokenizers without weights (models/ggml-vocab-*.gguf), and
llama-cpp-python's source package holds llama.cpp: the one of the installed version is asked for.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Final

from platformdirs import user_cache_path

PACKAGE: Final = "llama-cpp-python"
FILE: Final = re.compile(r".+/models/(ggml-vocab-[\w.-]+\.gguf)")


def place() -> Path:
    """Where they are kept, for the installed version of llama.cpp's bindings."""
    return user_cache_path("tabagent") / "vocabularies" / version(PACKAGE)


def fetch(target: Path) -> None:
    """Download the source package and keep its vocabularies, all of them or none."""
    print(f"Fetching {PACKAGE}'s source for the vocabularies in it (75 MB, once).", flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
        wanted = f"{PACKAGE}=={version(PACKAGE)}"
        subprocess.run(
            [*pip, "--no-deps", "--no-binary", PACKAGE, "--dest", folder, wanted], check=True
        )
        (archive,) = Path(folder).glob("*.tar.gz")
        unpacked = Path(folder) / "unpacked"
        unpack(archive, unpacked)
        if not target.is_dir():  # someone else may have been faster
            unpacked.rename(target)


def unpack(archive: Path, folder: Path) -> None:
    """Make `folder` with the vocabularies of `archive` and nothing else of it."""
    folder.mkdir()
    with tarfile.open(archive) as source:
        for member in source:
            if (found := FILE.fullmatch(member.name)) and (data := source.extractfile(member)):
                (folder / found[1]).write_bytes(data.read())


def main() -> None:
    if place().is_dir():
        return
    try:
        fetch(place())
    except (subprocess.CalledProcessError, OSError) as error:
        if os.environ.get("CI") == "true":
            raise
        print(f"*** NO VOCABULARIES: {error}; tests with real tokens will be SKIPPED ***")


if __name__ == "__main__":
    main()
