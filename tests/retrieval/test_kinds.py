"""What kind of document some bytes are."""

from __future__ import annotations

import random

import pytest

from tabagent.retrieval.kinds import kind_of
from tests.worker.reading.documents import archive, docx, p, pdf

WORD = docx(p("x"))
NOISE = random.Random(1).randbytes(4000)


@pytest.mark.parametrize(
    ("name", "content_type", "data", "kind"),
    [
        ("a.pdf", "application/pdf", pdf(["x"]), "pdf"),
        ("a.txt", "text/plain", pdf(["x"]), "pdf"),
        ("a", "", b"\n" + pdf(["x"]), "pdf"),
        ("a.docx", "", WORD, "docx"),
        ("a.zip", "application/zip", WORD, "docx"),
        ("a.docx", "", archive({"xl/workbook.xml": "<x/>"}), None),
        ("a.html", "", b"<p>x", "html"),
        ("", "text/html; charset=utf-8", b"hello", "html"),
        ("", "application/xhtml+xml", b"<x/>", "html"),
        ("", "", b"\xef\xbb\xbf <!-- c -->\n<!DOCTYPE html><p>", "html"),
        ("", "application/octet-stream", b"<?xml version='1.0'?><html>", "html"),
        ("page.php", "", b"<HTML lang=en>", "html"),
        ("page.txt", "", b"<html>", "text"),
        ("README.md", "text/plain; charset=utf-8", b"# x", "markdown"),
        ("", "text/markdown", b"# x", "markdown"),
        ("a.MARKDOWN", "application/octet-stream", b"# x", "markdown"),
        ("a.md", "text/html", b"<p>", "html"),
        *[
            (f"a.{suffix}", "", b"some: text\n\x1b[0m", "text")
            for suffix in (
                "py",
                "js",
                "rst",
                "csv",
                "json",
                "log",
                "toml",
                "yaml",
                "txt",
                "c++",
                "",
            )
        ],
        ("a.json", "application/json", b"{}", "text"),
        ("a.svg", "image/svg+xml", b"<svg/>", "text"),
        ("a.txt", "", "wide".encode("utf-16"), "text"),
        ("a.txt", "", ("wide" * 20).encode("utf-16-be"), "text"),
        ("a.txt", "", "Bär".encode("latin-1"), "text"),
        ("a.txt", "", b"", "text"),
        ("a.txt", "text/plain", NOISE, None),
        ("a.html", "text/html", NOISE, None),
        ("a.png", "image/png", b"\x89PNG\r\n\x1a\n" + NOISE, None),
        ("a.txt", "audio/mpeg", b"ID3", None),
        ("a", "", b"\x7fELF\x02\x01\x01" + bytes(64), None),
        ("a.txt", "", bytes(range(1, 32)) * 9, None),
    ],
)
def test_bytes_tell_first_then_the_sender_then_the_name(
    name: str, content_type: str, data: bytes, kind: str | None
) -> None:
    assert kind_of(name, content_type, data) == kind


@pytest.mark.timeout(5)
def test_no_beginning_takes_long() -> None:
    for piece in (b"<!-- ", b"<?xml ", b" ", b"<!---->", b"<?xml>"):
        kind_of("", "", piece * 200_000)
