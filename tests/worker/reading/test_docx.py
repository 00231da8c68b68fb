"""Word documents, and archives that only say they are."""

from __future__ import annotations

import random
import zipfile
from io import BytesIO

import pytest

from tabagent.paper import Link
from tabagent.worker.reading.docx import OLD, read_docx
from tabagent.worker.reading.limits import CannotRead
from tests.worker.reading.documents import W, archive, docx, p

XML = "word/document.xml"


def numbered(which: int, level: int = 0) -> str:
    return f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="{which}"/></w:numPr>'


def test_headings_lists_tables_code_and_links_are_kept() -> None:
    row = "<w:tr><w:tc>{}</w:tc><w:tc>{}</w:tc></w:tr>"
    body = (
        p("Einleitung", '<w:pStyle w:val="berschrift1"/>')
        + p("Füße &amp; 日本 👍")
        + p("Tief", '<w:pStyle w:val="berschrift3"/>')
        + p("one", numbered(1)) + p("inner", numbered(1, 1)) + p("two", numbered(1))
        + p("first", numbered(2)) + p("second", numbered(2))
        + p("x = 1", '<w:pStyle w:val="Code"/>') + p("  y = 2", '<w:pStyle w:val="Code"/>')
        + "<w:tbl>" + row.format(p("Name"), p("Wert")) + row.format(p("a|b"), p("1") + p("2"))
        + "</w:tbl>"
        + '<w:p><w:r><w:t xml:space="preserve">See </w:t></w:r><w:hyperlink r:id="r1"><w:r><w:t>'
        "here</w:t></w:r></w:hyperlink><w:del><w:r><w:delText>gone</w:delText></w:r></w:del>"
        "<w:ins><w:r><w:t>!</w:t><w:br/><w:t># no heading</w:t></w:r></w:ins></w:p>"
    )  # fmt: skip
    title, text, links = read_docx(docx(body, "Der Titel", {"r1": "https://example.org/a"}))
    assert title == "Der Titel"
    assert text == (
        "# Einleitung\n\nFüße & 日本 👍\n\n### Tief\n\n- one\n  - inner\n- two\n1. first\n2. second\n\n"
        "```\nx = 1\n  y = 2\n```\n\n| Name | Wert |\n| --- | --- |\n| a\\|b | 1 2 |\n\n"
        "See [here](https://example.org/a)!\n\\# no heading"
    )
    assert links == [Link("https://example.org/a", "here")]


def test_without_a_title_the_first_heading_is_one() -> None:
    assert read_docx(docx(p("Kapitel", '<w:pStyle w:val="berschrift2"/>') + p("x")))[0] == "Kapitel"


def with_entities() -> bytes:
    dtd = (
        '<!DOCTYPE d [<!ENTITY a "ha"><!ENTITY b "&a;&a;"><!ENTITY f SYSTEM "file:///etc/passwd">]>'
    )
    return archive(
        {XML: f'{dtd}<w:document xmlns:w="{W}"><w:body>{p("&b;&f;")}</w:body></w:document>'}
    )


def lying(data: bytes) -> bytes:
    """The same archive with all sizes of inflated parts said to be 1,000 bytes."""
    changed = bytearray(data)
    for signature, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        start = -1
        while (start := changed.find(signature, start + 1)) >= 0:
            changed[start + at : start + at + 4] = (1000).to_bytes(4, "little")
    return bytes(changed)


BOMB = archive({XML: b"<d>" + b" " * 30_000_000 + b"</d>"})


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (BOMB, "inflates to far more"),
        (archive({XML: f'<d xmlns:w="{W}">{p("x")}</d>', "docProps/core.xml": b" " * 30_000_000}), "inflates to far more"),
        (lying(BOMB), "damaged|inflates"),
        (with_entities(), "entities|damaged"),
        (archive({XML: f"{'<a>' * 5000}{'</a>' * 5000}"}), "damaged"),
        (archive({XML: "<not closed"}), "damaged"),
        (archive({"xl/workbook.xml": "<x/>"}), "not a Word document"),
        (archive({XML: "<d/>"})[:-30], "not a Word document"),
        (b"PK\x03\x04", "not a Word document"),
        (b"", "not a Word document"),
        (OLD + b"\0" * 600, "encrypted or an old"),
        (docx(p("")), "no text"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_why(data: bytes, why: str) -> None:
    with pytest.raises(CannotRead, match=why) as refused:
        read_docx(data)
    assert refused.value.answer.slug == "document-unreadable"


def test_a_part_over_the_limit_is_too_large_however_well_it_packs() -> None:
    text = random.Random(1).randbytes(2_700_000).hex()
    data = archive({XML: "<d>" + f"<e>{text}</e>" * 10 + "</d>"})
    with pytest.raises(CannotRead) as refused:
        read_docx(data)
    assert refused.value.answer.slug == "payload-too-large"


def test_a_part_with_a_password_is_refused() -> None:
    data = bytearray(docx(p("x")))
    for signature, at in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        start = -1
        while (start := data.find(signature, start + 1)) >= 0:
            data[start + at] |= 1
    assert zipfile.is_zipfile(BytesIO(data))
    with pytest.raises(CannotRead, match="encrypted"):
        read_docx(bytes(data))
