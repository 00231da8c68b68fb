"""PDFs, and files that only say they are."""

from __future__ import annotations

import pytest

from tabagent.worker.reading.limits import CannotRead
from tabagent.worker.reading.pdf import read_pdf
from tests.worker.reading.documents import encrypted, pdf, pdf_bomb, pdf_of


def test_the_text_of_each_page_begins_at_its_offset() -> None:
    title, text, pages = read_pdf(pdf(["First page", "", "Third äöü page"], title="The  Title"))
    assert title == "The Title"
    assert [text[start:].split("\n")[0] for start in pages] == ["First page", "", "Third äöü page"]


def test_a_pdf_that_only_forbids_printing_is_read() -> None:
    assert read_pdf(encrypted(pdf(["secret"]), ""))[1] == "secret"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (encrypted(pdf(["secret"]), "password"), "encrypted"),
        (pdf(["", ""]), "images alone"),
        (b"PK\x03\x04 no pdf", "not a PDF"),
        (b"", "not a PDF"),
        (b"%PDF-1.7\n" + b"garbage " * 100, "damaged"),
        (pdf(["x"] * 2001), "more than 2000 pages"),
    ],
)
def test_what_cannot_be_read_says_why(data: bytes, why: str) -> None:
    with pytest.raises(CannotRead, match=why) as refused:
        read_pdf(data)
    assert refused.value.answer.slug == "document-unreadable"


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_truncated_pdf_is_read_as_far_as_it_goes_or_refused(kept: float) -> None:
    whole = pdf([f"Page {n}" for n in range(30)])
    try:
        text = read_pdf(whole[: int(len(whole) * kept)])[1]
    except CannotRead:
        return
    assert text.startswith("Page 0")


@pytest.mark.timeout(20)
def test_pages_that_contain_themselves_end() -> None:
    loop = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count 2/Kids[3 0 R 2 0 R]>>",
        b"<</Type/Pages/Count 2/Parent 2 0 R/Kids[2 0 R 3 0 R]>>",
    ]
    with pytest.raises((CannotRead, RecursionError)):
        read_pdf(pdf_of(loop))


@pytest.mark.timeout(20)
def test_a_stream_that_inflates_to_gigabytes_is_refused() -> None:
    with pytest.raises(CannotRead):
        read_pdf(pdf_bomb(2 * 10**9))
