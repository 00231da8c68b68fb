"""Which models exist: the built-in one, those named on start, and those that lie on the disk.

A name is looked up here and never joined into a path. Facts come from a file's header, or from what
lies beside it, and are kept by path, size and modification time: a listing costs a `stat` per file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

from tabagent.catalog.abilities import Abilities, abilities_of
from tabagent.catalog.gguf_header import GgufHeader, read_gguf_header
from tabagent.catalog.kept_facts import KeptFacts, Signature
from tabagent.catalog.layouts import Layout, folder_of, read_layout
from tabagent.catalog.places import Location, Place, in_added, in_directory, in_hub_cache, loose_id
from tabagent.catalog.pooling import pooling_of
from tabagent.catalog.shape import Shape, shape_of
from tabagent.catalog.variant import DESCRIBED, POOLING, layout_variant, rank
from tabagent.errors import ModelNotFound, NotAvailableHere, TabAgentError
from tabagent.wire import Pooling, Reading, Speaking

Task = Literal["chat", "completion", "embedding", "rerank", "classification", "entities", "adapter"]
BUILTIN: Final = "tabagent/guide"
EMBEDDER: Final = "tabagent/embed"


@dataclass(frozen=True, slots=True)
class Model:
    """One model and variant. `problem` says why it cannot be loaded, when it cannot."""

    id: str
    path: Path
    backend: str  # which worker backend runs it
    format: str = "gguf"
    task: Task = "chat"
    architecture: str = ""
    quantisation: str = ""
    size_bytes: int = 0  # of all its files
    files: int = 1
    parameters: int = 0
    context_length: int = 0
    modified: int = 0  # unix seconds
    location: Location = "named"
    license: str | None = None
    abilities: Abilities = Abilities()  # noqa: RUF009  # frozen
    embedding_length: int = 0  # numbers in a vector of a model that makes them
    pooling: Pooling | None = None  # of a model that reads whole texts
    reading: Reading | None = None  # of one of which its folder says how
    speaking: Speaking | None = None  # of one that generates, of which its folder says how
    shape: Shape | None = None  # what decides how much memory it takes
    problem: TabAgentError | None = None


class Catalog:
    """Everything that could be loaded: the built-in model and embedder, `files`, what lies in the
    directories. `extra` are records that need no file of ours.

    `kept` is the file that keeps facts over a restart, `read` what reads a header.
    """

    def __init__(
        self,
        models_dir: Path,
        builtin: Path,
        files: Iterable[Path] = (),
        extra: Iterable[Model] = (),
        *,
        embedder: Path | None = None,
        added: Iterable[Path] = (),
        hub_cache: Path | None = None,
        kept: Path | None = None,
        read: Callable[[Path], GgufHeader] = read_gguf_header,
    ) -> None:
        self._dir, self._builtin, self._files = models_dir, builtin, tuple(files)
        self._embedder = embedder
        self._added, self._hub_cache = tuple(added), hub_cache
        self._extra = {model.id: model for model in extra}
        self._known: dict[str, Model] = {}
        self._kept: KeptFacts[Model] = KeptFacts(kept, Model)
        self._facts: dict[Signature, Model | None] | None = None  # nothing was read yet
        self._read_header = read

    def scan(self) -> list[Model]:
        """All models, the built-in one first. Reads directories: not for the event loop."""
        known = self._facts = self._kept.load() if self._facts is None else self._facts
        facts: dict[Signature, Model | None] = {}
        found: dict[str, Model] = {}
        seen: set[tuple[int, int]] = set()
        for place in self._places():
            try:
                info = place.path.stat()
            except OSError:
                continue  # gone meanwhile, or a link to what is not there yet
            if (file := (info.st_dev, info.st_ino)) not in seen:
                seen.add(file)  # where it is found again, as by a link, its first name counts
                key = _signature(place.path, info)
                try:
                    model = facts[key] = known[key] if key in known else self._read(place, info)
                except OSError:
                    continue  # gone while it was read
                if model is not None:  # else they are weights that nothing describes
                    id_ = _free(place.id, found)
                    found[id_] = _as_placed(model, id_, place.location)
        if facts.keys() != known.keys():
            self._facts = facts
            self._kept.save({k: m for k, m in facts.items() if m is None or m.problem is None})
        self._known = {**found, **self._extra}
        return list(self._known.values())

    def find(self, name: str) -> Model:
        """The model with this id, or the only one whose id ends in `/name`, variant or not.

        Raises ModelNotFound.

        Reads directories when that is not known: not for the event loop.
        """
        if (known := self.known(name)) is not None:
            return known
        self.scan()
        model = self._pick(name)
        if model is None:
            raise ModelNotFound(
                f"there is no model named {name!r} here",
                param="model",
                model=name,
                pull_hint=(
                    "`tabagent pull owner/repo` gets one from the hub; or put a .gguf file into the "
                    "models directory"
                ),
            )
        return model

    def known(self, name: str) -> Model | None:
        """What the last scan found, if its file has not changed since."""
        model = self._pick(name)
        if model is not None and (model.id in self._extra or self._unchanged(model)):
            return model
        return None

    def siblings(self, model: Model) -> list[Model]:
        """Other variants of a model that the last scan found, the largest first."""
        repository = model.id.partition(":")[0]
        found = [
            other
            for other in self._known.values()
            if other.id.partition(":")[0] == repository
            and other.id != model.id
            and other.problem is None
        ]
        return sorted(found, key=lambda other: -other.size_bytes)

    def _pick(self, name: str) -> Model | None:
        if name in self._known:
            return self._known[name]
        low = name.lower()
        near = [m for id_, m in self._known.items() if id_.lower().endswith(("/" + low, low))]
        if len(near) == 1:
            return near[0]
        # A repository without a variant: what it would be pulled as, if more than one is here.
        by_repository: dict[str, list[Model]] = {}
        for id_, model in self._known.items():
            by_repository.setdefault(id_.lower().partition(":")[0], []).append(model)
        named = [name for name in by_repository if name == low or name.endswith("/" + low)]
        exact = low if low in by_repository else named[0] if len(named) == 1 else ""
        return min(by_repository.get(exact, ()), key=_preference, default=None)

    def _unchanged(self, model: Model) -> bool:
        try:
            return _signature(model.path, model.path.stat()) in (self._facts or ())
        except OSError:
            return False

    def _places(self) -> Iterator[Place]:
        yield Place(BUILTIN, self._builtin, "built-in")
        if self._embedder is not None:
            yield Place(EMBEDDER, self._embedder, "built-in")
        for path in self._files:
            yield Place(loose_id(path), path, "named")
        yield from in_directory(self._dir, "models-directory")
        yield from in_added(self._added)
        if self._hub_cache is not None:
            yield from in_hub_cache(self._hub_cache)

    def _read(self, place: Place, info: os.stat_result) -> Model | None:
        base = Model(
            id=place.id,
            path=place.path,
            backend="gguf",
            size_bytes=info.st_size,
            modified=int(info.st_mtime),
            location=place.location,
        )
        try:
            if place.path.suffix.lower() == ".gguf":
                return _describe(base, self._read_header(place.path))
            return _laid_out(base, read_layout(place.path))
        except TabAgentError as problem:
            return replace(base, format=_format(place.path), problem=problem)


def _as_placed(model: Model, id_: str, location: Location) -> Model:
    """Facts that were kept, under the name that the file has now."""
    if model.problem is None and (missing := _missing_engine(model)) is not None:
        model = replace(model, problem=missing)
    if (model.id, model.location) != (id_, location):
        model = replace(model, id=id_, location=location)
    return model


def _signature(path: Path, info: os.stat_result) -> Signature:
    stamps = [info.st_size, info.st_mtime_ns]
    if path.suffix.lower() != ".gguf":
        stamps.append(path.parent.stat().st_mtime_ns)  # what lies beside it has come or gone
        for name in (*DESCRIBED, *POOLING):
            with suppress(OSError):
                described = (folder_of(path) / name).stat()
                stamps += [described.st_size, described.st_mtime_ns]
    return path, tuple(stamps)


def _format(path: Path) -> str:
    endings = {".gguf": "gguf", ".onnx": "onnx"}
    return endings.get(path.suffix.lower(), "sentence-transformers")


def _laid_out(base: Model, layout: Layout | None) -> Model | None:
    """A model in a folder. One that no engine of this version runs has no backend, and a problem in
    every list.
    """
    if layout is None:
        return None
    return replace(
        base,
        backend=_backend(layout),
        format=layout.format,
        task=layout.task,
        architecture=layout.architecture,
        quantisation=base.id.partition(":")[2] or layout_variant((base.path.name,)),
        size_bytes=layout.size_bytes,
        files=len(layout.files),
        parameters=layout.parameters,
        context_length=layout.context_length,
        license=layout.license,
        abilities=abilities_of(layout.chat_template) if layout.task == "chat" else Abilities(),
        embedding_length=layout.width if layout.task == "embedding" else 0,
        pooling=layout.pooling,
        reading=layout.reading,
        speaking=layout.speaking,
        shape=layout.shape,
    )


def _backend(layout: Layout) -> str:
    if layout.format == "onnx":
        return "onnx" if layout.pooling is None else "onnx-pooling"
    return "sentences" if layout.pooling is not None else ""


def _missing_engine(model: Model) -> TabAgentError | None:
    """Why nothing here runs the model, when nothing does."""
    if not model.backend:
        return NotAvailableHere(
            f"{model.format} models that generate are listed, "
            "and no engine of this version runs them: take a GGUF or ONNX variant of it",
            what=model.format,
            why="there is no engine for it in this version",
        )
    if model.backend == "sentences" and not _has_sentences():
        return NotAvailableHere(
            "sentence-transformers is not installed: "
            'pip install "tabagent[sentence-transformers]", or take an ONNX variant of it',
            what=model.format,
            why="the extra sentence-transformers is not installed",
        )
    return None


@cache
def _has_sentences() -> bool:
    return find_spec("sentence_transformers") is not None and find_spec("torch") is not None


def _describe(base: Model, header: GgufHeader) -> Model:
    task: Task = "chat" if header.chat_template else "completion"
    pooling: Pooling | None = None
    if header.is_adapter:
        task = "adapter"
    elif (pooling := pooling_of(header)) is not None:
        task = "rerank" if pooling == "rank" else "embedding"
    meta, arch = header.metadata, header.architecture

    def number(key: str, default: int) -> int:
        value = meta.get(f"{arch}.{key}")
        return value if isinstance(value, int) else default

    vector = number("embedding_length_out", header.embedding_length or 0)
    return replace(
        base,
        backend="gguf-pooling" if pooling else "gguf",
        task=task,
        pooling=pooling,
        embedding_length=vector if task == "embedding" else 0,
        architecture=arch,
        quantisation=header.quantisation or "",
        size_bytes=header.file_size,
        files=header.parts,
        parameters=header.parameters,
        context_length=header.context_length or 0,
        license=header.license,
        abilities=abilities_of(header.chat_template) if task == "chat" else Abilities(),
        shape=None if header.is_adapter else shape_of(header),
    )


def _preference(model: Model) -> tuple[bool, int, bool, int]:
    """Of variants of one model: what can run, what loses little, what needs no other library."""
    variant, foreign = model.id.partition(":")[2], model.format == "sentence-transformers"
    return model.problem is not None, rank(variant), foreign, -model.size_bytes


def _free(id_: str, taken: dict[str, Model]) -> str:
    name, number = id_, 2
    while name in taken:
        name, number = f"{id_}-{number}", number + 1
    return name
