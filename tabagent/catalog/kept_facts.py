"""Facts of models, kept over a restart: what was read once is not read again until it changes.

One file in the data directory. It can be lost at any time: then everything is read anew.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import msgspec
import structlog

from tabagent import __version__

log = structlog.get_logger(__name__)

Facts = TypeVar("Facts")
Signature = tuple[Path, tuple[int, ...]]
"""A model's file, and the size and time of every file that its facts come from."""

LARGEST: Final = 64 * 2**20  # bytes of the file


class KeptFacts(Generic[Facts]):
    """`file` holds facts of one `kind`, a dataclass that msgspec knows; None keeps nothing."""

    def __init__(self, file: Path | None, kind: Any) -> None:
        self._file = file
        # What another version read, it may have read otherwise, or not at all.
        self._format = " ".join([__version__, *(field.name for field in fields(kind))])
        entries = list[tuple[Path, tuple[int, ...], kind | None]]
        self._decoder = msgspec.msgpack.Decoder(tuple[str, entries], dec_hook=_decoded)

    def load(self) -> dict[Signature, Facts | None]:
        """What was kept; nothing when it is damaged or of another version."""
        if self._file is None:
            return {}
        try:
            if self._file.stat().st_size > LARGEST:
                return {}
            data = self._file.read_bytes()
            version = msgspec.msgpack.decode(data, type=tuple[str, msgspec.Raw])[0]
            if version != self._format:
                return {}
            return {(path, stamps): facts for path, stamps, facts in self._decoder.decode(data)[1]}
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError, RecursionError) as error:
            log.info("catalogue_read_anew", reason=type(error).__name__)
            return {}

    def save(self, facts: Mapping[Signature, Facts | None]) -> None:
        """Keep these and no others. What cannot be written is read again next time."""
        if self._file is None or not self._file.parent.is_dir():
            return
        entries = [(path, stamps, found) for (path, stamps), found in facts.items()]
        data = msgspec.msgpack.encode((self._format, entries), enc_hook=_encoded)
        draft = ""
        try:
            handle, draft = tempfile.mkstemp(dir=self._file.parent, prefix=self._file.name)
            with open(handle, "wb") as file:
                file.write(data)
            os.replace(draft, self._file)
        except OSError as error:
            log.info("catalogue_not_kept", reason=error.strerror)
            with suppress(OSError):
                os.unlink(draft)


def _encoded(value: Any) -> Any:
    if isinstance(value, Path):
        return os.fsencode(value)  # names need not be text
    raise NotImplementedError(type(value).__name__)


def _decoded(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, bytes):
        return Path(os.fsdecode(value))
    raise NotImplementedError(kind.__name__)
