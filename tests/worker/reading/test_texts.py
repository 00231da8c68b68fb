"""Bytes to text."""

from __future__ import annotations

import codecs
import random

import pytest

from tabagent.worker.reading import texts
from tabagent.worker.reading.limits import CannotRead
from tabagent.worker.reading.texts import declared_charset, decode

GERMAN = "Der Bär aß süße Äpfel über der Straße, und dann schlief er für längere Zeit. " * 5
RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 5


@pytest.mark.parametrize(
    ("mark", "charset"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
        (b"", "utf-8"),
        (b"", "utf-16-le"),
        (b"", "utf-16-be"),
    ],
)
def test_unicode_is_known_by_its_mark_and_by_its_zeros(mark: bytes, charset: str) -> None:
    assert decode(mark + GERMAN.encode(charset)) == GERMAN


def test_a_declared_charset_is_believed_where_it_fits() -> None:
    assert decode(RUSSIAN.encode("koi8-r"), "KOI8-R") == RUSSIAN
    assert decode(RUSSIAN.encode(), "us-ascii") == RUSSIAN
    assert decode("“quoted”".encode("cp1252"), "iso-8859-1") == "“quoted”"


@pytest.mark.parametrize(
    "odd", ["zip", "rot13", "idna", "unicode_escape", "punycode", "nö", "x" * 99]
)
def test_what_is_no_charset_of_a_text_is_passed_over(odd: str) -> None:
    assert decode(b"plain \\u0041 text", odd) == "plain \\u0041 text"


@pytest.mark.parametrize(("text", "charset"), [(GERMAN, "cp1252"), (RUSSIAN, "cp1251")])
def test_an_undeclared_charset_is_guessed(text: str, charset: str) -> None:
    assert decode(text.encode(charset)) == text


def test_damaged_utf8_stays_utf8() -> None:
    data = RUSSIAN.encode() + b"\xff\xfe!" + RUSSIAN.encode()
    assert decode(data).startswith(RUSSIAN)
    assert decode(data).count("\ufffd") == 2


@pytest.mark.parametrize(
    "data",
    [
        random.Random(1).randbytes(5000),
        bytes(range(1, 32)) * 50,
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"text and then a\0 zero",
        "wide \0 zero".encode("utf-16"),
    ],
)
def test_binary_data_is_refused_whatever_it_is_called(data: bytes) -> None:
    with pytest.raises(CannotRead, match="binary"):
        decode(data)


def test_lines_end_with_lf() -> None:
    assert decode(b"a\r\nb\rc\n") == "a\nb\nc\n"


def test_a_text_over_the_limit_says_the_limit() -> None:
    with pytest.raises(CannotRead) as refused:
        decode(b"a" * 50_000_001)
    assert refused.value.answer.slug == "payload-too-large"
    assert refused.value.answer.members == {"limit_bytes": 50_000_000}


@pytest.mark.parametrize(
    "head",
    [
        b"<html><head><meta charset=koi8-r>",
        b'<META http-equiv="Content-Type" content="text/html; charset=koi8-r">',
        b"<?xml version='1.0' encoding='koi8-r'?>",
    ],
)
def test_a_page_says_what_it_is_written_in(head: bytes) -> None:
    assert declared_charset(head) == "koi8-r"
    assert declared_charset(b"<html>") == ""


def test_scrubbed_text_can_be_written() -> None:
    assert texts.scrub("a\0b\ud83d\ude00c\ud800") == "ab😀c\ufffd"
