"""What kind of document some bytes are: by their first bytes, what the sender says, their name."""

from __future__ import annotations

import codecs
import re
from pathlib import PurePosixPath
from typing import Final

from tabagent.paper import Kind

SNIFFED: Final = 1 << 16
TYPES: Final[dict[str, Kind]] = {
    "text/html": "html",
    "application/xhtml+xml": "html",
    "text/markdown": "markdown",
    "text/x-markdown": "markdown",
}
SUFFIXES: Final[dict[str, Kind]] = {
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".md": "markdown",
    ".markdown": "markdown",
    ".mdx": "markdown",
}
VAGUE: Final = ("", "text/plain", "application/octet-stream")  # says less than a suffix does
OTHER: Final = ("image/", "audio/", "video/", "font/")
# Atomic and possessive: a stranger's comments must not make it try every way to pair them.
PAGE: Final = re.compile(
    rb"(?>\s*(?:<\?xml[^>]*>|<!--.*?-->))*+\s*+<(?:!doctype\s+html|html)\b", re.I | re.S
)
CONTROLS: Final = bytes({*range(1, 32)} - {8, 9, 10, 12, 13, 27})
WIDE: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


def kind_of(name: str, content_type: str, data: bytes) -> Kind | None:
    """The kind to read `data` as; None when it is nothing that is read."""
    head = data[:SNIFFED]
    if b"%PDF-" in head[:1024]:
        return "pdf"
    if data.startswith(b"PK\x03\x04"):
        return "docx" if b"word/" in data else None
    declared = content_type.partition(";")[0].strip().lower()
    if not _is_text(head) or (declared.startswith(OTHER) and declared != "image/svg+xml"):
        return None
    suffix = PurePosixPath(name.lower()).suffix
    kind = TYPES.get(declared)
    if kind is None and declared in VAGUE:
        kind = SUFFIXES.get(suffix)
        if (
            kind is None
            and suffix in ("", ".php", ".asp", ".aspx", ".jsp")
            and declared != VAGUE[1]
        ):
            kind = "html" if PAGE.match(head.removeprefix(codecs.BOM_UTF8)) else None
    return kind or "text"


def _is_text(head: bytes) -> bool:
    if head.startswith(WIDE):
        return True
    zeros = head.count(0)
    if zeros:  # UTF-16 without a mark: nearly all in even or nearly all in odd places
        odd = head[1::2].count(0)
        return zeros > len(head) * 0.2 and (odd > zeros * 0.95 or odd < zeros * 0.05)
    return len(head) - len(head.translate(None, CONTROLS)) <= len(head) * 0.02
