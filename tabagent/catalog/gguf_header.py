"""What a GGUF file says about itself, read in Python and checked before any engine opens the file.

Every count, length and offset is compared with the file before it is believed, so a damaged or a
hostile file ends as ModelCorrupt here and not as an abort there. The file is read through a window
of 1 MiB, not mapped: a map of a file that shrinks kills the process (SIGBUS).
Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import os
import re
import stat
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

from tabagent.errors import ModelCorrupt

HEADER_LIMIT: Final = 512 * 1024 * 1024
"""Most bytes that metadata and tensor list may take together."""
TEXT_LIMIT: Final = 32 * 1024 * 1024
"""Most bytes of keys, names and string values that are kept of one file."""
STRING_LIMIT: Final = 1024 * 1024
KEY_LIMIT: Final = 65_535
TENSOR_NAME_LIMIT: Final = 63
"""Bytes; llama.cpp keeps a name in 64 with its terminator."""
PAIR_LIMIT: Final = 65_536
TENSOR_LIMIT: Final = 1_048_576
ARRAY_STRINGS_LIMIT: Final = 4_194_304
"""Most strings in all arrays of one file: the one thing that takes time (0.1 µs each)."""
LAYER_LIMIT: Final = 512
"""llama.cpp aborts on 0 layers and on more than these."""

Scalar: TypeAlias = str | int | float | bool

_WINDOW: Final = 1024 * 1024
_INT64_MAX: Final = 2**63 - 1
_DEFAULT_ALIGNMENT: Final = 32
_MAX_DIMENSIONS: Final = 4
_SMALLEST_PAIR: Final = 8 + 1 + 4 + 1
_SMALLEST_TENSOR: Final = 8 + 1 + 4 + 8 + 4 + 8

_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_TYPE_AND_LENGTH: Final = struct.Struct("<IQ")
_SHAPES: Final = {rank: struct.Struct(f"<{rank}Q") for rank in range(1, _MAX_DIMENSIONS + 1)}

_UINT32: Final = 4
_STRING: Final = 8
_ARRAY: Final = 9
_SCALARS: Final = {
    0: ("uint8", struct.Struct("<B")),
    1: ("int8", struct.Struct("<b")),
    2: ("uint16", struct.Struct("<H")),
    3: ("int16", struct.Struct("<h")),
    4: ("uint32", struct.Struct("<I")),
    5: ("int32", struct.Struct("<i")),
    6: ("float32", struct.Struct("<f")),
    7: ("bool", struct.Struct("<?")),
    10: ("uint64", struct.Struct("<Q")),
    11: ("int64", struct.Struct("<q")),
    12: ("float64", struct.Struct("<d")),
}

# fmt: off
TENSOR_TYPES: Final[Mapping[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4),
    27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}
"""GGML's tensor types by id: name, elements in a block, bytes of a block. Ids between are gone."""

_FILE_TYPES: Final[Mapping[int, tuple[str, str]]] = {
    2: ("Q4_0", "Q4_0"), 3: ("Q4_1", "Q4_1"), 7: ("Q8_0", "Q8_0"), 8: ("Q5_0", "Q5_0"),
    9: ("Q5_1", "Q5_1"), 10: ("Q2_K", "Q2_K"), 11: ("Q3_K_S", "Q3_K"), 12: ("Q3_K_M", "Q3_K"),
    13: ("Q3_K_L", "Q3_K"), 14: ("Q4_K_S", "Q4_K"), 15: ("Q4_K_M", "Q4_K"), 16: ("Q5_K_S", "Q5_K"),
    17: ("Q5_K_M", "Q5_K"), 18: ("Q6_K", "Q6_K"), 19: ("IQ2_XXS", "IQ2_XXS"),
    20: ("IQ2_XS", "IQ2_XS"), 21: ("Q2_K_S", "Q2_K"), 22: ("IQ3_XS", "IQ3_S"),
    23: ("IQ3_XXS", "IQ3_XXS"), 24: ("IQ1_S", "IQ1_S"), 25: ("IQ4_NL", "IQ4_NL"),
    26: ("IQ3_S", "IQ3_S"), 27: ("IQ3_M", "IQ3_S"), 28: ("IQ2_S", "IQ2_XS"), 29: ("IQ2_M", "IQ2_S"),
    30: ("IQ4_XS", "IQ4_XS"), 31: ("IQ1_M", "IQ1_M"), 36: ("TQ1_0", "TQ1_0"),
    37: ("TQ2_0", "TQ2_0"), 38: ("MXFP4_MOE", "MXFP4"), 39: ("NVFP4", "NVFP4"),
    40: ("Q1_0", "Q1_0"), 41: ("Q2_0", "Q2_0"),
}
# fmt: on
"""`general.file_type`: its name, and the tensor type a file of that name is mainly made of."""

_VOCABULARY_ARRAYS: Final[Mapping[str, tuple[tuple[str, ...], bool]]] = {
    "tokenizer.ggml.tokens": (("string",), False),
    "tokenizer.ggml.merges": (("string",), False),
    "tokenizer.ggml.scores": (("float32",), True),
    "tokenizer.ggml.token_type": (("int32", "uint32"), True),
    "tokenizer.ggml.precompiled_charsmap": (("uint8", "int8"), False),
}
"""Element types of the tokenizer arrays, and whether each token needs an element: an engine takes
pointers into these, and not every version looks first."""

_ARCHITECTURE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PART_NAME: Final = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: `shape` in GGML's order (row length first), `offset` in bytes from the start of
    its file's tensor data, `nbytes` without padding.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class ArraySummary:
    """An array that was checked and not kept: the type of its elements and how many there are."""

    type: str
    length: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """A checked header. Of a split model `tensors` and `file_size` cover all parts, the rest is the
    first part's. Sizes and offsets are bytes.
    """

    version: int
    metadata: dict[str, Scalar | ArraySummary]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    file_size: int
    parts: int = 1

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"])

    @property
    def name(self) -> str | None:
        return self._text("general.name")

    @property
    def is_adapter(self) -> bool:
        """Whether it only changes another model (LoRA)."""
        return self._text("general.type") == "adapter"

    @property
    def license(self) -> str | None:
        return self._text("general.license")

    @property
    def chat_template(self) -> str | None:
        """The default Jinja template, as it stands in the file and as untrusted as the file."""
        return self._text("tokenizer.chat_template")

    @property
    def block_count(self) -> int:
        """Layers, 1..512."""
        return self._count(f"{self.architecture}.block_count") or 0

    @property
    def context_length(self) -> int | None:
        """Tokens the model was trained for."""
        return self._count(f"{self.architecture}.context_length")

    @property
    def embedding_length(self) -> int | None:
        """Width of the hidden state, and of an embedding."""
        return self._count(f"{self.architecture}.embedding_length")

    @property
    def pooling_type(self) -> int | None:
        """0 none, 1 mean, 2 CLS, 3 last, 4 rank; None in a model that only generates."""
        return self._count(f"{self.architecture}.pooling_type")

    @property
    def vocab_size(self) -> int | None:
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        if isinstance(tokens, ArraySummary):
            return tokens.length
        return self._count(f"{self.architecture}.vocab_size")

    @property
    def parameters(self) -> int:
        """Weights: the elements of all tensors."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def weight_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def quantisation(self) -> str | None:
        """`Q4_K_M` and the like when `general.file_type` says so and the tensors bear it out, else
        the tensor type that takes most bytes; None in a file with neither.
        """
        by_type: Counter[str] = Counter()
        for tensor in self.tensors:
            by_type[tensor.type] += tensor.nbytes
        label, main = _FILE_TYPES.get(self._count("general.file_type") or 0, (None, None))
        if label is not None and (main in by_type or not by_type):
            return label
        return by_type.most_common(1)[0][0] if by_type else None

    def _text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def _count(self, key: str) -> int | None:
        return _count(self.metadata, key)


def read_gguf_header(path: Path) -> GgufHeader:
    """The header of the model at `path`, a file or the first part of a split model.

    Blocks while it reads (under 60 ms for a vocabulary of 151,000 tokens). Raises ModelCorrupt for
    everything that is not a whole, sound GGUF v2 or v3 file; its `check` says which rule failed.
    """
    header = _read_file(path)
    fail = _Failure(_file_name(path))
    if (_count(header.metadata, "split.count") or 1) > 1:
        header = _with_other_parts(path, header, fail)
    architecture = header.metadata.get("general.architecture")
    if not isinstance(architecture, str) or not _ARCHITECTURE.fullmatch(architecture):
        raise fail(
            "architecture",
            "general.architecture is missing or not a name",
            "the name of an architecture",
            _shown(architecture),
        )
    if header.is_adapter:
        return header  # what it adapts has the layers and the vocabulary
    blocks = header.metadata.get(f"{architecture}.block_count")
    if type(blocks) is not int or not 1 <= blocks <= LAYER_LIMIT:
        kind = _shown(header.metadata.get("general.type", "model"))
        detail = f"{architecture}.block_count is missing or impossible in this file of type {kind}"
        raise fail("block-count", detail, f"1..{LAYER_LIMIT}", _shown(blocks))
    _check_vocabulary(header.metadata, fail)
    return header


class _Failure:
    """Makes the ModelCorrupt of one file. Only the file's own name goes into it."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __call__(self, check: str, detail: str, expected: Any, actual: Any) -> ModelCorrupt:
        return ModelCorrupt(
            f"{self.file}: {detail}", file=self.file, check=check, expected=expected, actual=actual
        )

    def truncated(self, what: str, *, end: int, size: int) -> ModelCorrupt:
        detail = f"the file ends within {what}: {end - size} bytes or more are missing"
        return self("truncated", detail, end, size)


class _Reader:
    """A cursor over one file's header: reads forward only, never past the file or HEADER_LIMIT."""

    def __init__(self, file: BinaryIO, size: int, fail: _Failure) -> None:
        self.size = size
        self.fail = fail
        self._file = file
        self._end = min(size, HEADER_LIMIT)
        self._buffer = b""
        self._base = 0  # where the buffer starts in the file; the file stands at its end
        self._at = 0
        self._text_left = TEXT_LIMIT
        self._strings_left = ARRAY_STRINGS_LIMIT

    @property
    def position(self) -> int:
        return self._base + self._at

    def require(self, count: int, what: str) -> None:
        """Refuse `what` unless the file and the limit have room for `count` more bytes."""
        end = self.position + count
        if end > self.size:
            raise self.fail.truncated(what, end=end, size=self.size)
        if end > HEADER_LIMIT:
            raise self.fail("header-size", "the header is too large", HEADER_LIMIT, end)

    def unpack(self, layout: struct.Struct, what: str) -> tuple[Any, ...]:
        self._load(layout.size, what)
        values = layout.unpack_from(self._buffer, self._at)
        self._at += layout.size
        return values

    def text(self, limit: int, what: str) -> str:
        (length,) = self.unpack(_U64, what)
        if length > limit:
            raise self.fail("string-length", f"{what} is too long", limit, length)
        self._load(length, what)
        self._text_left -= length
        if self._text_left < 0:
            raise self.fail("header-size", "the header holds too much text", TEXT_LIMIT, "more")
        raw = self._buffer[self._at : self._at + length]
        self._at += length
        try:
            return raw.decode()
        except UnicodeDecodeError:
            shown = raw[:40].decode(errors="backslashreplace")
            raise self.fail("utf-8", f"{what} is not UTF-8", "UTF-8", shown) from None

    def skip(self, count: int, what: str) -> None:
        self.require(count, what)
        self._at += count
        if self._at > len(self._buffer):
            self._base, self._buffer, self._at = self.position, b"", 0
            self._file.seek(self._base)

    def skip_strings(self, count: int, what: str) -> None:
        """Walk over `count` strings by their lengths alone."""
        self._strings_left -= count
        if self._strings_left < 0:
            detail = f"with {what} the arrays hold too many strings"
            raise self.fail("array-length", detail, ARRAY_STRINGS_LIMIT, count)
        unpack = _U64.unpack_from
        while count:
            self._load(_U64.size, what)
            buffer, at, done = self._buffer, self._at, 0
            try:
                for done in range(1, count + 1):  # noqa: B007  (read after the loop)
                    (length,) = unpack(buffer, at)
                    if length > STRING_LIMIT:
                        detail = f"a string in {what} is too long"
                        raise self.fail("string-length", detail, STRING_LIMIT, length)
                    at += 8 + length
            except struct.error:  # the window has ended; to ask before each string costs double
                done -= 1
            self.skip(at - self._at, what)
            count -= done

    def _load(self, count: int, what: str) -> None:
        """Have the next `count` bytes in the buffer."""
        if len(self._buffer) - self._at >= count:
            return
        self.require(count, what)
        rest = self._buffer[self._at :]
        self._base, self._at = self.position, 0
        wanted = min(max(_WINDOW, count), self._end - self._base) - len(rest)
        self._buffer = rest + self._file.read(wanted)
        if len(self._buffer) < count:  # it shrank while being read
            shrunk = self._base + len(self._buffer)
            raise self.fail.truncated(what, end=self._base + count, size=shrunk)


def _read_file(path: Path) -> GgufHeader:
    """One file's header, without the rules that hold for a whole model only."""
    fail = _Failure(_file_name(path))
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise fail("file", "not a regular file", "a file", "something else")
            if status.st_size == 0:
                raise fail("file", "the file is empty", "a GGUF file", "0 bytes")
            return _read_header(_Reader(file, status.st_size, fail))
    except IsADirectoryError:
        raise fail("file", "this is a directory", "a file", "a directory") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = (error.strerror if isinstance(error, OSError) else None) or "not a usable path"
        raise fail("file", f"cannot be read: {reason}", "a readable file", reason) from None


def _read_header(reader: _Reader) -> GgufHeader:
    version, tensor_count, pair_count = _read_preamble(reader)
    metadata: dict[str, Scalar | ArraySummary] = {}
    for _ in range(pair_count):
        key = reader.text(KEY_LIMIT, "a metadata key")
        if not key or "\0" in key:  # C would compare such a key up to its NUL
            raise reader.fail("key", "a metadata key is empty or holds a NUL", "text", _shown(key))
        if key in metadata:
            detail = "a metadata key appears twice"
            raise reader.fail("duplicate-key", detail, "unique keys", _shown(key))
        metadata[key] = _read_value(reader, key)
    alignment = _alignment(metadata, reader.fail)
    tensors = _read_tensors(reader, tensor_count, alignment)
    data_offset = _padded(reader.position, alignment)
    if tensors:
        end = data_offset + tensors[-1].offset + tensors[-1].nbytes
        if end > reader.size:
            raise reader.fail.truncated("the tensor data", end=end, size=reader.size)
    return GgufHeader(version, metadata, tensors, data_offset, reader.size)


def _read_preamble(reader: _Reader) -> tuple[int, int, int]:
    """Version, number of tensors, number of metadata pairs."""
    fail = reader.fail
    (magic,) = reader.unpack(struct.Struct("4s"), "the magic")
    if magic != b"GGUF":
        hint = ", but a Git LFS pointer: fetch the file itself" if magic == b"vers" else ""
        raise fail("magic", f"not a GGUF file{hint}", "'GGUF'", repr(magic)[1:])
    (version,) = reader.unpack(_U32, "the version")
    if version & 0xFFFF == 0 and version:
        detail = "a big-endian GGUF file; only little-endian ones are supported"
        raise fail("byte-order", detail, "little-endian", "big-endian")
    if version not in (2, 3):
        raise fail("version", f"GGUF version {version} is not supported", "2 or 3", version)
    (tensor_count,) = reader.unpack(_U64, "the number of tensors")
    (pair_count,) = reader.unpack(_U64, "the number of metadata pairs")
    for check, what, count, limit, smallest in (
        ("metadata-count", "metadata pairs", pair_count, PAIR_LIMIT, _SMALLEST_PAIR),
        ("tensor-count", "tensors", tensor_count, TENSOR_LIMIT, _SMALLEST_TENSOR),
    ):
        if count > limit:
            raise fail(check, f"too many {what}: {count}", limit, count)
        reader.require(count * smallest, f"its {count} {what}")
    return version, tensor_count, pair_count


def _read_value(reader: _Reader, key: str) -> Scalar | ArraySummary:
    (kind,) = reader.unpack(_U32, "a metadata value's type")
    if key == "general.alignment" and kind != _UINT32:
        raise reader.fail("alignment", f"{key} is of the wrong type", _UINT32, kind)
    key = _shown(key)
    if kind == _STRING:
        return reader.text(STRING_LIMIT, f"the value of {key}")
    if kind != _ARRAY:
        value: Scalar = reader.unpack(_scalar(reader, kind, key)[1], "a metadata value")[0]
        return value
    kind, length = reader.unpack(_TYPE_AND_LENGTH, "an array's type and length")
    what = f"the array {key}"
    if kind == _STRING:
        name, smallest = "string", _U64.size
    else:
        name, layout = _scalar(reader, kind, key)
        smallest = layout.size
    if length * smallest > reader.size - reader.position:
        room = (reader.size - reader.position) // smallest
        raise reader.fail("array-length", f"{what} is longer than the file", room, length)
    if kind == _STRING:
        reader.skip_strings(length, what)
    else:
        reader.skip(length * smallest, what)
    return ArraySummary(name, length)


def _scalar(reader: _Reader, kind: int, key: str) -> tuple[str, struct.Struct]:
    if kind not in _SCALARS:
        nested = "an array of arrays" if kind == _ARRAY else f"of the unknown type {kind}"
        detail = f"the value of {key} is {nested}"
        raise reader.fail("value-type", detail, "a scalar, a string or a flat array", kind)
    return _SCALARS[kind]


def _alignment(metadata: Mapping[str, Scalar | ArraySummary], fail: _Failure) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        detail = "general.alignment is not a power of two"
        raise fail("alignment", detail, "a power of two", _shown(alignment))
    return alignment


def _read_tensors(reader: _Reader, count: int, alignment: int) -> tuple[TensorInfo, ...]:
    """The tensor list. Each starts where the one before it ends, rounded up to `alignment`."""
    fail = reader.fail
    seen: set[str] = set()
    tensors: list[TensorInfo] = []
    next_offset = 0
    for _ in range(count):
        name = reader.text(TENSOR_NAME_LIMIT, "a tensor name")
        if not name or "\0" in name:
            raise fail("tensor-name", "a tensor name is empty or holds a NUL", "text", _shown(name))
        shown = f"the tensor {_shown(name)}"
        if name in seen:
            raise fail("duplicate-tensor", f"{shown} appears twice", "unique names", _shown(name))
        seen.add(name)
        (rank,) = reader.unpack(_U32, "a tensor's number of dimensions")
        if not 1 <= rank <= _MAX_DIMENSIONS:
            raise fail("tensor-dimensions", f"{shown} has {rank} dimensions", "1..4", rank)
        shape = reader.unpack(_SHAPES[rank], "a tensor's shape")
        kind, offset = reader.unpack(_TYPE_AND_LENGTH, "a tensor's type and offset")
        nbytes, type_name = _tensor_size(fail, shown, shape, kind)
        if offset % alignment:
            detail = f"{shown} is not aligned to {alignment} bytes"
            raise fail("tensor-offset", detail, f"a multiple of {alignment}", offset)
        if offset != next_offset:
            check = "tensor-overlap" if offset < next_offset else "tensor-gap"
            detail = f"{shown} does not start where the tensor before it ends"
            raise fail(check, detail, next_offset, offset)
        next_offset = _padded(offset + nbytes, alignment)
        if next_offset > _INT64_MAX:
            detail = f"{shown} ends where no file does"
            raise fail("tensor-shape", detail, str(_INT64_MAX), str(next_offset))
        tensors.append(TensorInfo(name, shape, type_name, offset, nbytes))
    return tuple(tensors)


def _tensor_size(fail: _Failure, shown: str, shape: tuple[int, ...], kind: int) -> tuple[int, str]:
    """Bytes and type name of a tensor."""
    if kind not in TENSOR_TYPES:
        detail = f"{shown} is of type {kind}, which is unknown or withdrawn"
        raise fail("tensor-type", detail, "a GGML tensor type", kind)
    name, block, block_bytes = TENSOR_TYPES[kind]
    elements = math.prod(shape)
    if not 0 < elements < _INT64_MAX or shape[0] % block:
        detail = f"{shown} of type {name} cannot have the shape {shape}"
        rule = f"dimensions of 1 or more, the first a multiple of {block}"
        raise fail("tensor-shape", detail, rule, str(shape))
    return elements // block * block_bytes, name


def _check_vocabulary(metadata: Mapping[str, Scalar | ArraySummary], fail: _Failure) -> None:
    """Refuse tokenizer arrays of another kind than llama.cpp takes them for, or too short."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    for key, (types, per_token) in _VOCABULARY_ARRAYS.items():
        value = metadata.get(key)
        if value is None:
            continue
        if not isinstance(value, ArraySummary) or (value.length and value.type not in types):
            actual = value.type if isinstance(value, ArraySummary) else type(value).__name__
            raise fail("vocabulary", f"{key} holds the wrong type", f"{types[0]} array", actual)
        if per_token and isinstance(tokens, ArraySummary) and value.length < tokens.length:
            detail = f"{key} is shorter than the list of tokens"
            raise fail("vocabulary", detail, tokens.length, value.length)


def _with_other_parts(path: Path, first: GgufHeader, fail: _Failure) -> GgufHeader:
    """`first` with the tensors and the size of the parts beside it, which are checked likewise."""
    count = _count(first.metadata, "split.count") or 0
    match = _PART_NAME.fullmatch(path.name)
    if match is None or int(match[3]) != count or int(match[2]) != 1:
        detail = f"not named as the first of the {count} parts it is split into"
        raise fail("split", detail, f"NAME-00001-of-{count:05}.gguf", fail.file)
    others = [path.with_name(f"{match[1]}-{n:05}-of-{count:05}.gguf") for n in range(2, count + 1)]
    missing = [_file_name(other) for other in others if not other.is_file()]
    if missing:
        detail = f"{len(missing)} of {count} parts are missing, the first of them {missing[0]}"
        raise fail("split", detail, count, count - len(missing))
    tensors, file_size = list(first.tensors), first.file_size
    for number, part in enumerate([first, *map(_read_file, others)]):
        stated = f"{_count(part.metadata, 'split.no')} of {_count(part.metadata, 'split.count')}"
        if stated != f"{number} of {count}":
            detail = f"part {number + 1} of {count} says that it is another"
            raise fail("split", detail, f"{number} of {count}", stated)
        if number:
            tensors += part.tensors
            file_size += part.file_size
    _check_all_tensors(first, tensors, fail)
    return replace(first, tensors=tuple(tensors), file_size=file_size, parts=count)


def _check_all_tensors(first: GgufHeader, tensors: list[TensorInfo], fail: _Failure) -> None:
    stated = _count(first.metadata, "split.tensors.count")
    if stated is not None and stated != len(tensors):
        raise fail("split", "the parts do not hold all tensors", stated, len(tensors))
    repeated = Counter(tensor.name for tensor in tensors).most_common(1)
    if repeated and repeated[0][1] > 1:
        detail = "a tensor is in two parts"
        raise fail("duplicate-tensor", detail, "unique names", _shown(repeated[0][0]))


def _count(metadata: Mapping[str, Scalar | ArraySummary], key: str) -> int | None:
    value = metadata.get(key)
    return value if type(value) is int else None  # a bool is no count


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _shown(value: object) -> str:
    """A value from the file, short and escaped, fit for a problem."""
    shown = repr(value)
    return shown if len(shown) <= 100 else shown[:97] + "..."


def _file_name(path: Path) -> str:
    return path.name.encode(errors="replace").decode()


def _open_without_waiting(path: str, flags: int) -> int:
    """Opens even a FIFO at once, so that it can be refused."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
