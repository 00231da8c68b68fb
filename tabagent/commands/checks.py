"""What `doctor` looks at: each check says how things are, and what would mend them."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from tabagent.commands.failure import CommandFailed
from tabagent.commands.models import size_text
from tabagent.config import Settings
from tabagent.runtime import DataDirectory, Running, UnsafeFile

GB: Final = 10**9
LITTLE_MEMORY: Final = 2 * GB
LITTLE_DISK: Final = 10 * GB  # a model of usual size, and room for the next
NO_DISK: Final = GB
DATABASES: Final = ("*.db", "*.sqlite3")


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's. `fix` is what to do, where something should be done."""

    verdict: Literal["ok", "warn", "fail"]
    subject: str
    says: str
    fix: str = ""


def machine(info: dict[str, Any], recipes: list[dict[str, Any]]) -> Iterator[Check]:
    """Processor, memory, graphics and engines, as the probe found them."""
    yield _processor(info["cpu"])
    yield _memory(info["memory"])
    yield from _graphics(info, recipes)
    yield from _engines(info, recipes)
    for note in info["notes"]:
        yield Check("warn", "not found out", f"{note['source']}: {note['text']}")


def _processor(cpu: dict[str, Any]) -> Check:
    known = ", ".join(cpu["features"]) or "no fast instructions that are known"
    says = f"{cpu['name']}, {cpu['physical_cores']} cores"
    if cpu["usable_cores"] < cpu["physical_cores"]:
        says += f" of which {cpu['usable_cores']} may be used"
    says += f"; {known}"
    if (
        cpu["architecture"] in ("x86_64", "AMD64")
        and cpu["features"]
        and "avx2" not in cpu["features"]
    ):
        return Check("warn", "processor", says, "without AVX2 answers are slow: take small models")
    return Check("ok", "processor", says)


def _memory(memory: dict[str, Any]) -> Check:
    total, free = memory["total_bytes"], memory["available_bytes"]
    says = f"{size_text(free)} of {size_text(total)} free"
    if total < memory["machine_bytes"]:
        says += (
            f"; a limit ({memory['source']}) hides the rest of {size_text(memory['machine_bytes'])}"
        )
    if free < LITTLE_MEMORY:
        return Check("warn", "memory", says, "end other programs, or take models under 1 GB")
    return Check("ok", "memory", says)


def _graphics(info: dict[str, Any], recipes: list[dict[str, Any]]) -> Iterator[Check]:
    if not info["gpus"]:
        yield Check("ok", "graphics", "none found: models run on the processor")
    for gpu in info["gpus"]:
        says = gpu["name"]
        if gpu["total_bytes"] and gpu["free_bytes"] is not None:
            says += f", {size_text(gpu['free_bytes'])} of {size_text(gpu['total_bytes'])} free"
        if gpu["driver"]:
            says += f", driver {gpu['driver']}"
        mine = [r for r in recipes if r["runs"] == "gguf" and gpu["name"] in r["devices"]]
        working = next((recipe for recipe in mine if recipe["works"]), None)
        if working is not None:
            yield Check("ok", "graphics", f"{says}; models run on it ({working['device']})")
        elif gpu["unified"] and gpu["vendor"] == "intel":
            yield Check("ok", "graphics", f"{says}; the processor is as fast")
        else:
            best = next((recipe for recipe in mine if recipe["fix"]), None)
            reason = best["reason"] if best else "nothing here can use it"
            yield Check("warn", "graphics", f"{says}; {reason}", best["fix"] if best else "")


def _engines(info: dict[str, Any], recipes: list[dict[str, Any]]) -> Iterator[Check]:
    found = {engine["name"]: engine for engine in info["engines"]}
    cpu = {recipe["runs"]: recipe for recipe in recipes if recipe["device"] == "cpu"}
    llama = found["llama-cpp-python"]
    if cpu["gguf"]["works"]:
        kinds = ", ".join(("the processor", *llama["kinds"]))
        build = llama["build"].removeprefix("llama.cpp ")
        says = f"{build} for {kinds}; llama-cpp-python {llama['version']}"
        yield Check("ok", "llama.cpp", says)
    else:
        fix = cpu["gguf"]["fix"] or "install TabAgent again: pip install --force-reinstall tabagent"
        yield Check("fail", "llama.cpp", cpu["gguf"]["reason"], fix)
    onnx = found["onnxruntime"]
    if onnx["version"] is None:
        yield Check("warn", "ONNX Runtime", "not installed", "pip install onnxruntime")
    else:
        able = ", ".join(name.removesuffix("ExecutionProvider") for name in onnx["providers"])
        says = f"{onnx['version']} ({able})"
        if not cpu["onnx"]["works"]:
            says += f"; {cpu['onnx']['reason'].partition(';')[0]}"
        yield Check("ok", "ONNX Runtime", says)


def server(settings: Settings, running: Running | None) -> Check:
    """Whether it serves, and whether it could."""
    if running is not None:
        return Check("ok", "server", f"serves at {running.url} (pid {running.pid})")
    from tabagent.commands.serve import bound

    try:
        with bound(settings):
            return Check("ok", "server", f"none runs; port {settings.port} is free for one")
    except CommandFailed as error:
        return Check("fail", "server", f"none runs, and {error}", error.hint)


def data_directory(settings: Settings) -> Check:
    """Whether we can keep things there, and nobody else can read them."""
    path, subject = settings.data_dir, "data"
    if not path.exists():
        parent = _existing(path)
        if os.access(parent, os.W_OK | os.X_OK):
            return Check("ok", subject, f"{path} is made on the first start")
        return Check("fail", subject, f"{parent} may not be written", "choose another: --data-dir")
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        fix = f"make it yours: chown -R $USER {path}; or choose another: --data-dir"
        return Check("fail", subject, f"{path} cannot be written: {error.strerror}", fix)
    if os.name == "posix" and path.stat().st_mode & 0o077:
        return Check("warn", subject, f"{path} can be read by others", f"chmod 700 {path}")
    if (path / "token").exists() and not settings.token:
        try:
            DataDirectory(path).token()
        except UnsafeFile as error:
            return Check("fail", subject, str(error), "see above; a new token is made on the start")
    return Check("ok", subject, str(path))


def disk(settings: Settings) -> Check:
    """Whether there is room for models."""
    path = settings.models_path
    try:
        free = shutil.disk_usage(_existing(path)).free
    except OSError as error:
        return Check("fail", "models", f"{path}: {error.strerror}", "set TABAGENT_MODELS_DIR")
    says = f"{size_text(free)} free in {path}"
    if free < NO_DISK:
        return Check("fail", "models", says, "tabagent rm a model, or set TABAGENT_MODELS_DIR")
    if free < LITTLE_DISK:
        return Check("warn", "models", says, "make room, or set TABAGENT_MODELS_DIR")
    return Check("ok", "models", says)


def hub(settings: Settings, status: dict[str, Any]) -> Check:
    """Where models come from, and as whom."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Check("warn", "hub", "HF_HUB_OFFLINE is set: nothing is pulled", "unset it to pull")
    who = (
        f"a token from the {status['source']}" if status["set"] else "no token: public models alone"
    )
    return Check("ok", "hub", f"{settings.hub}, {who}")


def databases(settings: Settings) -> Iterator[Check]:
    """Each database that there is, whether it is sound."""
    files = [file for pattern in DATABASES for file in settings.data_dir.glob(pattern)]
    for file in sorted(files):
        try:
            with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as opened:
                (said,) = opened.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.Error as error:
            said = str(error)
        if said == "ok":
            yield Check("ok", "database", f"{file.name}, {size_text(file.stat().st_size)}")
        else:
            fix = f"move {file} away, and it is made anew; a backup has what was in it"
            yield Check("fail", "database", f"{file.name}: {said}", fix)


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
