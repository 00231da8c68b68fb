"""What an ONNX file contains, read from its bytes before the engine sees it.

A file can name others that hold its weights, and operations that come from libraries: both are
refused where they lead out of the model's folder or out of ONNX Runtime. Weights are skipped, so
this takes milliseconds whatever a file's size. Source of the numbers: onnx.proto3.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tabagent.errors import ModelCorrupt, TabAgentError, UnsupportedModel

DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})
"""Of operations that ONNX Runtime itself brings."""
DEEPEST: Final = 16  # graphs within graphs
MOST_NODES: Final = 1_000_000

# Field numbers, by message.
GRAPH, FUNCTIONS = 7, 25  # of ModelProto
NODE, INITIALIZER, SPARSE = 1, 5, 15  # of GraphProto
FUNCTION_NODE: Final = 7  # of FunctionProto
OP_TYPE, ATTRIBUTE, DOMAIN = 4, 5, 7  # of NodeProto
TENSOR, SUBGRAPH, TENSORS, SUBGRAPHS = 5, 6, 10, 11  # of AttributeProto
TENSOR_NAME, EXTERNAL, LOCATION = 8, 13, 14  # of TensorProto
KEY, VALUE = 1, 2  # of StringStringEntryProto
VALUES, INDICES = 1, 2  # of SparseTensorProto
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass(slots=True)
class _Seen:
    nodes: int = 0
    operations: set[str] = field(default_factory=set)
    external: dict[str, int] = field(default_factory=dict)  # file name: bytes it must have


@dataclass(frozen=True, slots=True)
class Contents:
    """The names of a graph's operations, and whether weights of it lie in other files."""

    operations: frozenset[str]
    external: bool


def check_file(path: Path) -> Contents:
    """What a file contains.

    Raises ModelCorrupt or UnsupportedModel for a file that must not reach the engine.
    """
    seen = _Seen()
    with path.open("rb") as file:
        try:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except ValueError:
            raise _corrupt(path, "an ONNX model", "an empty file") from None
        try:
            graphs = 0
            for number, value in _fields(data):
                if number == GRAPH and isinstance(value, memoryview):
                    graphs += 1
                    _graph(value, seen, 0)
                elif number == FUNCTIONS and isinstance(value, memoryview):
                    _nodes(value, FUNCTION_NODE, seen, 0)
            if not graphs:
                raise _Bad("no graph")
        except _Bad as bad:
            raise _corrupt(path, "an ONNX model", str(bad)) from None
    for name, size in seen.external.items():
        _check_external(path, name, size)
    return Contents(frozenset(seen.operations), bool(seen.external))


class _Bad(Exception):
    """These bytes are no ONNX model."""


def _graph(data: memoryview, seen: _Seen, depth: int) -> None:
    if depth > DEEPEST:
        raise _Bad("graphs nested too deep")
    for number, value in _fields(data):
        if not isinstance(value, memoryview):
            continue
        if number == NODE:
            _node(value, seen, depth)
        elif number == INITIALIZER:
            _tensor(value, seen)
        elif number == SPARSE:
            for part, inside in _fields(value):
                if part in (VALUES, INDICES) and isinstance(inside, memoryview):
                    _tensor(inside, seen)


def _nodes(data: memoryview, field_number: int, seen: _Seen, depth: int) -> None:
    for number, value in _fields(data):
        if number == field_number and isinstance(value, memoryview):
            _node(value, seen, depth)


def _node(data: memoryview, seen: _Seen, depth: int) -> None:
    seen.nodes += 1
    if seen.nodes > MOST_NODES:
        raise _Bad(f"more than {MOST_NODES} operations")
    domain = operation = ""
    for number, value in _fields(data):
        if not isinstance(value, memoryview):
            continue
        if number == DOMAIN:
            domain = _text(value)
        elif number == OP_TYPE:
            operation = _text(value)
        elif number == ATTRIBUTE:
            for part, inside in _fields(value):
                if not isinstance(inside, memoryview):
                    continue
                if part in (SUBGRAPH, SUBGRAPHS):
                    _graph(inside, seen, depth + 1)
                elif part in (TENSOR, TENSORS):
                    _tensor(inside, seen)
    seen.operations.add(operation)
    if domain not in DOMAINS:
        raise UnsupportedModel(
            f"it wants the operation {operation[:64]!r} of {domain[:64]!r}, which ONNX Runtime does "
            "not bring; libraries of a model's own are not loaded",
            architecture=domain[:64],
        )


def _tensor(data: memoryview, seen: _Seen) -> None:
    external = False
    said: dict[str, str] = {}
    for number, value in _fields(data):
        if number == LOCATION and value == 1:
            external = True
        elif number == EXTERNAL and isinstance(value, memoryview):
            entry = {n: _text(v) for n, v in _fields(value) if isinstance(v, memoryview)}
            said[entry.get(KEY, "")] = entry.get(VALUE, "")
    if not external and not said:
        return
    try:
        offset, length = int(said.get("offset") or 0), int(said.get("length") or 0)
    except ValueError:
        raise _Bad("offsets that are no numbers") from None
    if offset < 0 or length < 0:
        raise _Bad("an offset below zero")
    name = said.get("location", "")
    seen.external[name] = max(seen.external.get(name, 0), offset + length)


def _check_external(path: Path, name: str, size: int) -> None:
    """Weights beside the graph: a plain file in the same folder, large enough."""
    if not name or "/" in name or "\\" in name or name in (".", "..") or "\0" in name:
        raise _corrupt(path, "weights in a file beside it", f"{name[:100]!r}")
    file = path.parent / name
    # A hub's cache keeps files elsewhere and links to them: both then lie in one folder there.
    try:
        real, info = file.resolve(strict=True), file.stat()
    except (OSError, RuntimeError):
        raise _corrupt(path, f"its weights in {name[:100]}", "no such file") from None
    if file.is_symlink() and real.parent not in (path.parent, path.resolve().parent):
        raise _corrupt(path, "weights in its own folder", f"{name[:100]} links elsewhere")
    if not real.is_file():
        raise _corrupt(path, "weights in a file", f"{name[:100]} is none")
    if info.st_nlink > 1:
        raise _corrupt(
            path, "weights that are its own", f"{name[:100]} is a hard link: copy the file instead"
        )
    if info.st_size < size:
        raise _corrupt(path, f"{size} bytes in {name[:100]}", f"{info.st_size}")


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """(field number, value) of a message: bytes, or a whole number."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            yield number, value
        elif kind == BYTES:
            length, at = _varint(data, at)
            if length > end - at:
                raise _Bad("a field that is longer than what holds it")
            yield number, data[at : at + length]
            at += length
        elif kind in (FIXED64, FIXED32):
            at += 8 if kind == FIXED64 else 4
            if at > end:
                raise _Bad("a number that is cut off")
        else:
            raise _Bad(f"a field of kind {kind}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        if at >= len(data):
            raise _Bad("a number that is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _Bad("a number of more than 64 bits")


def _text(data: memoryview) -> str:
    return bytes(data[:4096]).decode(errors="replace")


def _corrupt(path: Path, expected: str, actual: str) -> TabAgentError:
    return ModelCorrupt(
        f"{path.name} must hold {expected}: {actual}",
        file=path.name,
        check="onnx",
        expected=expected,
        actual=actual,
    )
