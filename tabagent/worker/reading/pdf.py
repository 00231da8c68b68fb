"""A PDF: the text of each page, and where each begins in it."""

from __future__ import annotations

import logging
from io import BytesIO
from typing import Final

from pypdf import PdfReader
from pypdf.errors import DependencyError, FileNotDecryptedError, LimitReachedError, PyPdfError

from tabagent.worker.reading.limits import PAGES, TEXT, CannotRead, too_large
from tabagent.worker.reading.texts import scrub

BETWEEN: Final = "\n\n"
LONGEST_TITLE: Final = 300

logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it complains about every second file


def read_pdf(data: bytes) -> tuple[str, str, list[int]]:
    """Title, text and the offset of each page. Raises CannotRead."""
    if b"%PDF-" not in data[:1024]:
        raise CannotRead("this is not a PDF")
    try:
        reader = PdfReader(BytesIO(data))
        _unlock(reader)
        text, pages = _pages(reader)
        title = _title(reader)
    except LimitReachedError as error:
        raise CannotRead("the PDF inflates to far more than it should") from error
    except FileNotDecryptedError as error:
        raise CannotRead("the PDF is encrypted") from error
    except DependencyError as error:  # AES, which pypdf leaves to another package
        raise CannotRead("the PDF is encrypted in a way that is not read here") from error
    except PyPdfError as error:
        raise CannotRead("the PDF is damaged") from error
    if not text.strip():
        raise CannotRead("the PDF has no text: it seems to hold images alone")
    return title, text, pages


def _unlock(reader: PdfReader) -> None:
    if reader.is_encrypted and not reader.decrypt(""):
        raise CannotRead("the PDF is encrypted")


def _pages(reader: PdfReader) -> tuple[str, list[int]]:
    parts: list[str] = []
    starts: list[int] = []
    size = 0
    if len(reader.pages) > PAGES:
        raise CannotRead(f"the PDF has more than {PAGES} pages")
    for page in reader.pages:
        text = scrub(page.extract_text()).replace("\r", "").strip()
        starts.append(size)
        parts.append(text)
        size += len(text) + len(BETWEEN)
        if size > TEXT:
            raise too_large("the text of the PDF")
    return BETWEEN.join(parts), starts


def _title(reader: PdfReader) -> str:
    try:
        title = reader.metadata.title if reader.metadata else ""
    except (PyPdfError, ValueError, TypeError):  # the text is worth more than its title
        title = ""
    return " ".join(scrub(str(title or "")).split())[:LONGEST_TITLE]
