"""A Word document (ECMA-376 WordprocessingML) as Markdown: headings, lists, tables and links."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Any, Final

from tabagent.paper import Link
from tabagent.worker.reading import markdown
from tabagent.worker.reading.archive import Archive
from tabagent.worker.reading.limits import TEXT, CannotRead, too_large
from tabagent.worker.reading.texts import scrub
from tabagent.worker.reading.word_styles import Numbering, Styles, local

RELATION: Final = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
STRICT: Final = "{http://purl.oclc.org/ooxml/officeDocument/relationships}id"
OLD: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # Office before 2007, and an encrypted one since
# Taken out by its author, or a second version of what stands beside it.
LEFT_OUT: Final = frozenset(("del", "moveFrom", "Fallback", "instrText", "delText", "pPr", "rPr"))
SIGNS: Final = {"tab": " ", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
MOST_LINKS: Final = 1000
WEB: Final = re.compile(r"https?://\S+", re.I)

Element = Any  # lxml has no types


def read_docx(data: bytes) -> tuple[str, str, list[Link]]:
    """Title, Markdown and links. Raises CannotRead."""
    if data.startswith(OLD):
        raise CannotRead("this is an encrypted or an old Word document (.doc); save it as .docx")
    archive = Archive(data)
    main = _main_part(archive)
    root = archive.xml(main)
    if root is None:
        raise CannotRead("this is not a Word document")
    document = _Document(archive, main)
    text = scrub(document.markdown(root))
    if not text.strip():
        raise CannotRead("the Word document has no text")
    if len(text) > TEXT:
        raise too_large("the text of the Word document")
    return _title(archive) or document.title, text, document.links


def _main_part(archive: Archive) -> str:
    """What the package says is its document; Word does not always call it document.xml."""
    relations = archive.xml("_rels/.rels")
    for relation in [] if relations is None else relations:
        if relation.get("Type", "").endswith("/officeDocument"):
            return str(relation.get("Target", "")).lstrip("/")
    return "word/document.xml"


def _title(archive: Archive) -> str:
    core = archive.xml("docProps/core.xml")
    for element in [] if core is None else core:
        if local(element) == "title":
            return " ".join(scrub(element.text or "").split())[:300]
    return ""


class _Document:
    """Walks the body. XML is not parsed deeper than 256 elements, so this may recurse."""

    def __init__(self, archive: Archive, main: str) -> None:
        folder, name = posixpath.split(main)
        self._styles = Styles(archive.xml(posixpath.join(folder, "styles.xml")))
        self._numbering = Numbering(archive.xml(posixpath.join(folder, "numbering.xml")))
        self._targets: dict[str, str] = {}
        relations = archive.xml(posixpath.join(folder, "_rels", name + ".rels"))
        for relation in [] if relations is None else relations:
            if WEB.fullmatch(target := relation.get("Target", "")):
                self._targets[relation.get("Id", "")] = target
        self._found: dict[str, Link] = {}
        self.title = ""

    @property
    def links(self) -> list[Link]:
        return list(self._found.values())

    def markdown(self, root: Element) -> str:
        parts: list[str] = []
        last = ""
        for kind, block in self._blocks(root):
            if parts:
                parts.append("\n" if kind == last == "item" else "\n\n")
            if kind == last == "code":  # each line of it is a paragraph
                parts[-1] = "\n"
            parts.append(block)
            last = kind
        return "".join(_fenced(parts, self._code))

    def _blocks(self, element: Element) -> Iterator[tuple[str, str]]:
        """Kind and Markdown of every block: "item", "code" or another."""
        for child in element:
            name = local(child)
            if name == "p":
                yield from self._paragraph(child)
            elif name == "tbl":
                if text := markdown.table(list(self._rows(child))):
                    yield "table", text
            elif name not in LEFT_OUT:
                yield from self._blocks(child)

    _code = "\0"  # begins a block of code, until neighbours are joined; no text holds one

    def _paragraph(self, paragraph: Element) -> Iterator[tuple[str, str]]:
        text = "".join(self._inline(paragraph))
        lines = [" ".join(line.split()) for line in text.split("\n")]
        words = "\n".join(filter(None, lines))
        style = self._styles.of(paragraph)
        if style.code:
            yield "code", self._code + text
        elif not words:
            return
        elif style.level:
            title = words.replace("\n", " ")
            self.title = self.title or title
            yield "heading", markdown.heading(style.level, title)
        elif item := self._numbering.item(paragraph, style.numbering):
            depth, mark = item
            indent = "  " * min(depth, 8)
            yield "item", f"{indent}{mark} " + words.replace("\n", f"\n{indent}  ")
        else:
            yield "paragraph", markdown.paragraph(words)
        for child in paragraph.iter():  # text in boxes that are anchored here
            if local(child) == "txbxContent" and local(child.getparent()) != "Fallback":
                yield from self._blocks(child)

    def _inline(self, element: Element) -> Iterator[str]:
        for child in element:
            name = local(child)
            if name == "t":
                yield child.text or ""
            elif name in SIGNS:
                yield SIGNS[name]
            elif name == "hyperlink":
                yield self._link(child)
            elif name not in LEFT_OUT and name != "txbxContent":
                yield from self._inline(child)

    def _link(self, element: Element) -> str:
        text = "".join(self._inline(element))
        url = self._targets.get(element.get(RELATION) or element.get(STRICT) or "", "")
        if not url or not text.strip():
            return text
        if len(self._found) < MOST_LINKS:
            self._found.setdefault(url, Link(url, " ".join(text.split())))
        return markdown.link(text.strip(), url)

    def _rows(self, table: Element) -> Iterator[list[str]]:
        for row in table.iter():
            if local(row) != "tr" or row.getparent() is not table:
                continue
            cells = [cell for cell in row if local(cell) == "tc"]
            yield [self._cell(cell) for cell in cells]

    def _cell(self, cell: Element) -> str:
        text = " ".join(block for _, block in self._blocks(cell))
        return " ".join(text.replace(self._code, "").split())


def _fenced(parts: list[str], mark: str) -> Iterator[str]:
    """The parts with runs of code as one fenced block."""
    code: list[str] = []
    for part in parts:
        if part.startswith(mark) or (code and part == "\n"):
            code.append(part.removeprefix(mark))
            continue
        if code:
            yield markdown.fence("".join(code).strip("\n"))
            code = []
        yield part
    if code:
        yield markdown.fence("".join(code).strip("\n"))
