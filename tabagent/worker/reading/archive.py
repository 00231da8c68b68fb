"""A ZIP archive from a stranger: only what is asked for, and never more than was bargained for."""

from __future__ import annotations

import zipfile
import zlib
from io import BytesIO
from typing import Any, Final

from lxml import etree

from tabagent.worker.reading.limits import RATIO, TEXT, CannotRead, too_large

PIECE: Final = 1 << 16
SMALL: Final = 1 << 20  # bytes that may come of anything: a short XML file packs well


class Archive:
    """The parts of an Office document. All sizes are counted, none is believed."""

    def __init__(self, data: bytes) -> None:
        self._size = len(data)
        self._left = TEXT
        try:
            self._zip = zipfile.ZipFile(BytesIO(data))
        except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
            raise CannotRead("this is not a Word document") from error

    def xml(self, name: str) -> Any:
        """The root element of a part, or None when there is none. Raises CannotRead."""
        try:
            info = self._zip.getinfo(name)
        except KeyError:
            return None
        try:
            body = self._inflate(info)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
            raise CannotRead("the Word document is damaged") from error
        except (RuntimeError, NotImplementedError) as error:  # a password; another compression
            raise CannotRead("the Word document is encrypted") from error
        return _parse(body)

    def _inflate(self, info: zipfile.ZipInfo) -> bytes:
        most = max(RATIO * min(info.compress_size, self._size), SMALL)
        parts: list[bytes] = []
        size = 0
        with self._zip.open(info) as source:
            while piece := source.read(PIECE):
                parts.append(piece)
                size += len(piece)
                self._left -= len(piece)
                if size > most:
                    raise CannotRead("the Word document inflates to far more than it should")
                if self._left < 0:
                    raise too_large("the text of the Word document")
        return b"".join(parts)


def _parse(body: bytes) -> Any:
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True,
        remove_pis=True, huge_tree=False,
    )  # fmt: skip
    try:
        root = etree.fromstring(body, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise CannotRead("the Word document is damaged") from error
    if root.getroottree().docinfo.internalDTD is not None:  # Office writes none
        raise CannotRead("the Word document declares entities, which are not read")
    return root
