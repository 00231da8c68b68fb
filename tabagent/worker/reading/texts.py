"""Bytes to text: by byte order mark, by what was declared, as UTF-8, and only then by a guess."""

from __future__ import annotations

import codecs
import re
from typing import Final

from charset_normalizer import from_bytes

from tabagent.worker.reading.limits import TEXT, CannotRead, too_large

MARKS: Final = (  # the longer before those that begin alike
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Codecs of Python that are no charset of a document, and slow or surprising on a stranger's bytes.
ODD: Final = {"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined", "utf-7"}
# What calls itself Latin-1 on the web is Windows-1252, says the WHATWG's Encoding standard.
LATIN: Final = {"iso8859-1", "ascii"}
SAMPLE: Final = 1 << 16
CONTROLS: Final = re.compile("[\x01-\x08\x0b\x0e-\x1a\x1c-\x1f]")
MOST_CONTROLS: Final = 0.02  # of the characters; logs have some
SPACE: Final = re.compile(r"\r\n?")
DECLARED: Final = re.compile(
    rb"""<(?:meta|\?xml)[^>]{0,400}?(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]{1,40})""", re.I
)


def decode(data: bytes, charset: str = "") -> str:
    """The text with lines ended by LF. Raises CannotRead when it is binary or too large."""
    if len(data) > TEXT:
        raise too_large("the text")
    text = _decoded(data, charset)
    if "\0" in text or _too_many_controls(text):
        raise CannotRead("this is binary data, not text")
    return SPACE.sub("\n", text) if "\r" in text else text


def declared_charset(data: bytes) -> str:
    """What a page says itself that it is written in, or ""."""
    found = DECLARED.search(data[:4096])
    return found[1].decode("ascii") if found else ""


def _decoded(data: bytes, charset: str) -> str:
    for mark, name in MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(name, errors="replace")
    for name in (_codec(charset), "utf-8", _wide(data)):
        if name:
            try:
                return data.decode(name)
            except (ValueError, LookupError):  # not in it; a codec that makes no text
                continue
    if b"\0" in data:
        raise CannotRead("this is binary data, not text")
    text = data.decode("utf-8", errors="replace")
    broken = text.count("\ufffd")
    if sum(1 for c in text[: SAMPLE * 16] if c > "\x7f") >= 2 * broken:
        return text  # UTF-8 with a few damaged places
    return data.decode(_guess(data), errors="replace")


def _codec(charset: str) -> str:
    """The Python codec of a declared charset, or "" when it is none of a text."""
    try:
        name = codecs.lookup(charset.strip()).name if charset.isascii() else ""
    except (LookupError, ValueError):
        return ""
    if name.replace("_", "-") in ODD:
        return ""
    return "cp1252" if name in LATIN else name


def _wide(data: bytes) -> str:
    """UTF-16 without a mark shows by zeros in every second place."""
    head = data[:4096]
    if len(data) % 2 or len(head) < 2:
        return ""
    even, odd = head[::2].count(0), head[1::2].count(0)
    if odd > len(head) * 0.2 and even < odd / 10:
        return "utf-16-le"
    if even > len(head) * 0.2 and odd < even / 10:
        return "utf-16-be"
    return ""


def _guess(data: bytes) -> str:
    # Only around what is not ASCII is there anything to guess by.
    first = next(iter(re.finditer(rb"[\x80-\xff]", data))).start()
    start = max(0, first - SAMPLE // 4)
    best = from_bytes(data[start : start + SAMPLE]).best()
    return best.encoding if best else "cp1252"


def _too_many_controls(text: str) -> bool:
    head = text[: SAMPLE * 16]
    return len(CONTROLS.findall(head)) > len(head) * MOST_CONTROLS


def scrub(text: str) -> str:
    """A parser's text without NULs and halves of characters, which no text may hold."""
    if "\0" in text:
        text = text.replace("\0", "")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
