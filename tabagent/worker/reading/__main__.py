"""A child that reads documents and nothing else: `python -m tabagent.worker.reading`.

Parsers of PDF, Word and HTML are large, and meet what strangers made. Here they have a bounded
address space and time, no secrets and nothing to lose. An empty frame says that it is ready.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import psutil

from tabagent.frames import FrameDecoder, FrameError, encode
from tabagent.paper import Paper, Read, Unreadable, decode_read
from tabagent.paper import encode as pack
from tabagent.worker.confinement import budget, die_with_parent, run
from tabagent.worker.reading import outline
from tabagent.worker.reading.chunks import Cutter, cutter
from tabagent.worker.reading.docx import read_docx
from tabagent.worker.reading.limits import COMPUTE_S, MEMORY, CannotRead
from tabagent.worker.reading.pages import read_page
from tabagent.worker.reading.pdf import read_pdf
from tabagent.worker.reading.texts import decode

DAMAGED: Final = {
    "text": "the text cannot be read",
    "markdown": "the Markdown cannot be read",
    "html": "the page is damaged",
    "pdf": "the PDF is damaged",
    "docx": "the Word document is damaged",
}


def paper(read: Read, data: bytes, cut: Cutter) -> Paper:
    """The document as text, cut. Raises CannotRead, or what a parser raises."""
    found = Paper("", "", [])
    match read.kind:
        case "html":
            found.title, found.text, found.links = read_page(data, read.url, read.charset)
        case "docx":
            found.title, found.text, found.links = read_docx(data)
        case "pdf":
            found.title, found.text, found.pages = read_pdf(data)
        case "text" | "markdown":
            found.text = decode(data, read.charset)
    if not found.text.strip():
        raise CannotRead("the document is empty")
    if read.kind in ("text", "pdf"):
        found.chunks = cut.chunks(found.text, None)
    else:
        headings = outline.headings(found.text)
        found.title = found.title or outline.title(found.text, headings)
        found.chunks = cut.chunks(found.text, outline.Outline(headings))
    return found


def answer(read: Read, data: bytes) -> bytes:
    """One frame with a Paper or an Unreadable; whatever a parser raises is the document's fault."""
    try:
        cut = cutter(read.splitting)
    except Exception:  # no such file; an overlap that is no smaller than the chunk
        return encode(pack(Unreadable("internal-error", "texts cannot be split as was asked")))
    said: Paper | Unreadable
    try:
        said = paper(read, data, cut)
        return encode(pack(said))
    except CannotRead as error:
        said = error.answer
    except (MemoryError, RecursionError):
        said = Unreadable("document-unreadable", "reading it takes too much memory")
    except FrameError:  # a text near the limit with a very long outline
        said = Unreadable("document-unreadable", "the document has too much structure")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a panic in Rust is no Exception
        said = Unreadable("document-unreadable", DAMAGED[read.kind])
    return encode(pack(said))


def main(read: Callable[[int], bytes], write: Callable[[bytes], Any]) -> None:
    """Answer until the input ends."""
    bodies = _bodies(read)
    write(encode(b""))
    for body in bodies:
        request = decode_read(body)
        data = b"".join(next(bodies) for _ in range(request.frames))
        budget(COMPUTE_S)
        said = answer(request, data)
        budget(0)
        write(said)


def _bodies(read: Callable[[int], bytes]) -> Iterator[bytes]:
    decoder = FrameDecoder()
    while data := read(1 << 20):
        yield from decoder.feed(data)


if __name__ == "__main__":
    die_with_parent()
    sys.stdout = sys.stderr  # a library that prints must not break the frames
    run(main, psutil.Process().memory_info().vms + MEMORY)
