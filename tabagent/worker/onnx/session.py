"""One ONNX Runtime session: opened on the best provider there is, and what it wants to be fed.

The optimised graph of a small model is kept, since optimising takes two thirds of a load. Of its
fusions ONNX Runtime's own are taken: those of `onnxruntime.transformers` made fewer, larger
operations that were slower on the processor (see benchmarks/RESULTS.md).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from tabagent.errors import ModelCorrupt, OutOfMemory, TabAgentError, UnsupportedModel
from tabagent.worker.onnx.graph import check_file
from tabagent.worker.pooling.model import Ids

ENGINE: Final = f"onnxruntime {ort.__version__}"
CPU: Final = "CPUExecutionProvider"
NUMBERED: Final = ("CUDAExecutionProvider", "ROCMExecutionProvider", "MIGraphXExecutionProvider")
TYPES: Final[dict[str, Any]] = {
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32,
    "tensor(float16)": np.float16, "tensor(bool)": np.bool_,
}  # fmt: skip
INPUTS: Final = frozenset(
    {"input_ids", "attention_mask", "token_type_ids", "position_ids", "use_cache_branch"}
)
PAST: Final = ("past_key_values", "past.", "past_")


@dataclass(frozen=True, slots=True)
class Opened:
    """A session, where it runs, and why it does not run where it was meant to."""

    session: ort.InferenceSession
    provider: str
    note: str | None
    operations: frozenset[str]


@dataclass(frozen=True, slots=True)
class Kept:
    """Optimised graphs in `folder`, of which `limit` bytes stay."""

    folder: Path
    limit: int

    def place_of(self, path: Path) -> Path | None:
        """Where the graph of this file, as this version optimises it, is kept; None: nowhere.

        One of half the limit would drive out all others.
        """
        info = path.stat()
        if info.st_size * 2 > self.limit:
            return None
        made_by = f"{path.resolve()} {info.st_size} {info.st_mtime_ns} {ort.__version__}"
        return self.folder / f"{hashlib.sha256(made_by.encode()).hexdigest()[:32]}.onnx"

    def session(self, path: Path, graph: Path, threads: int) -> ort.InferenceSession:
        """Of the graph that is kept, or of this file, whose graph is kept then. Raises anything."""
        if graph.is_file():
            with suppress(Exception):  # a damaged one is made anew
                session = ort.InferenceSession(str(graph), _options(threads), providers=[CPU])
                os.utime(graph)
                return session
        graph.parent.mkdir(parents=True, exist_ok=True)
        draft, options = graph.with_suffix(f".{os.getpid()}.part"), _options(threads)
        options.optimized_model_filepath = str(draft)
        # More is bound to this very processor, and would be saved with it.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        try:
            session = ort.InferenceSession(str(path), options, providers=[CPU])
            draft.replace(graph)
        finally:
            draft.unlink(missing_ok=True)
        self.trim()
        return session

    def trim(self) -> None:
        """Remove what was used longest ago until the rest is within the limit."""
        found = [(file.stat(), file) for file in self.folder.glob("*.onnx")]
        total = 0
        for info, file in sorted(found, key=lambda entry: -entry[0].st_mtime):
            total += info.st_size
            if total > self.limit:
                file.unlink(missing_ok=True)


def open_session(
    path: Path,
    *,
    providers: Sequence[str],
    device: int,
    lanes: int,
    threads: int,
    kept: Kept | None,
) -> Opened:
    """Check the file and open it, for `lanes` runs at once of `threads` threads together.

    Raises ModelCorrupt, UnsupportedModel or OutOfMemory.
    """
    contents = check_file(path)
    able = ort.get_available_providers()
    usable = [name for name in providers if name in able]
    note = None
    if providers and not usable:
        wanted = providers[0].removesuffix("ExecutionProvider")
        note = f"it runs on the CPU: the installed ONNX Runtime has no {wanted} provider"
    each = max(1, threads // lanes)
    # Weights in other files are too large for one: a graph that is saved holds them all.
    graph = kept.place_of(path) if kept and not usable and not contents.external else None
    if kept and graph is not None:
        with suppress(Exception):  # a damaged file, a full disk: then it is opened as it is
            return Opened(kept.session(path, graph, each), CPU, note, contents.operations)
    try:
        given = [(name, {"device_id": device} if name in NUMBERED else {}) for name in usable]
        session = ort.InferenceSession(str(path), _options(each), providers=[*given, CPU])
    except Exception as error:
        raise _load_error(path, error) from None
    provider = session.get_providers()[0]
    if usable and provider == CPU:
        wanted = usable[0].removesuffix("ExecutionProvider")
        note = f"it runs on the CPU: {wanted} could not be started"
    return Opened(session, provider, note, contents.operations)


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    # Lengths differ from batch to batch: what was planned for one is wrong for the next.
    options.enable_mem_pattern = False
    return options


def _load_error(path: Path, error: Exception) -> TabAgentError:
    said = str(error)
    kind = type(error).__name__
    if "alloc" in said.lower() or isinstance(error, MemoryError):
        return OutOfMemory(f"ONNX Runtime ran out of memory: {said[:300]}", device="cpu")
    if kind == "NotImplemented" or "is not a registered function/op" in said:
        return UnsupportedModel(f"ONNX Runtime cannot run it: {said[:300]}", architecture=path.name)
    return ModelCorrupt(
        f"ONNX Runtime cannot read {path.name}: {said[:300]}",
        file=path.name,
        check="onnx",
        expected="a model that ONNX Runtime opens",
        actual=said[:200],
    )


class Feed:
    """Builds a session's inputs from tokens. Raises UnsupportedModel for inputs of unknown use."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._inputs = session.get_inputs()
        names = {given.name for given in self._inputs}
        strange = [n for n in sorted(names) if n not in INPUTS and not n.startswith(PAST)]
        unknown = [given.type for given in self._inputs if given.type not in TYPES]
        if strange or unknown or "input_ids" not in names:
            what = ", ".join([*strange, *unknown]) or "no input_ids"
            raise UnsupportedModel(
                f"what it wants to be fed is no text's tokens: {what}", architecture="unknown"
            )

    def of(self, ids: Ids, mask: Ids, kinds: Ids) -> dict[str, Any]:
        """Padding has a mask of 0."""
        known = {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds}
        found: dict[str, Any] = {}
        for given in self._inputs:
            kind = TYPES[given.type]
            if given.name in known:
                found[given.name] = known[given.name].astype(kind, copy=False)
            elif given.name == "position_ids":
                places = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
                found[given.name] = np.ascontiguousarray(places, kind)
            elif given.name == "use_cache_branch":
                found[given.name] = np.zeros(1, kind)
            else:  # keys and values of what came before: nothing did
                sides = [side if isinstance(side, int) else 0 for side in given.shape]
                found[given.name] = np.zeros([len(ids), *sides[1:]], kind)
        return found
