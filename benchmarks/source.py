"""llama.cpp's tree as our engine was built from it: the source package of llama-cpp-python.

Fetched once through pip, in the version that is installed, and kept in `build/benchmarks`.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

CACHE: Final = Path(__file__).parent.parent / "build" / "benchmarks"
PACKAGE: Final = "llama-cpp-python"


def version() -> str:
    """The version of llama-cpp-python that is installed."""
    return importlib.metadata.version(PACKAGE)


def tree() -> Path:
    """llama.cpp's folder, fetched and unpacked if it is not there yet."""
    name = f"llama_cpp_python-{version()}"
    package = CACHE / name
    if not package.exists():
        archive = _archive(name)
        # Under another name until it is whole, so that an interrupted run leaves no half a tree.
        with tempfile.TemporaryDirectory(dir=CACHE) as draft, tarfile.open(archive) as packed:
            packed.extractall(draft, filter="data")
            (Path(draft) / name).rename(package)
    return package / "vendor" / "llama.cpp"


def _archive(name: str) -> Path:
    archive = CACHE / f"{name}.tar.gz"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        print(f"fetching the source of {PACKAGE} {version()}", flush=True)
        # `--no-binary` for this package alone: what builds its metadata may come as wheels.
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
        wanted = ["--no-binary", PACKAGE, "--no-deps", f"{PACKAGE}=={version()}"]
        subprocess.run([*pip, *wanted, "--dest", str(CACHE)], check=True)
    return archive
