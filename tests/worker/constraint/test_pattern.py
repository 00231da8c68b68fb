"""Patterns: what is written anew finds the same strings, in ECMA-262's, Python's and Rust's eyes."""

from __future__ import annotations

import json
import random
import re

import pytest

from tabagent.worker.constraint import formats
from tabagent.worker.constraint.compiler import Compiler
from tabagent.worker.constraint.pattern import PatternError, whole
from tabagent.worker.constraint.vocabulary import Vocabulary
from tests.worker.constraint.real import start, takes, walk

SAME = {
    pattern: pattern
    for pattern in (
        "a", "^a", "a$", "^a$", "^a|b$", "(^a$)|(^b+$)", "^(a|bc)?d{1,3}$", "x*y+z?", "[abc]",
        "[^abc]", "[a-c-]", "[-a]", "[a\\]]", "^[^\\S ]$", "\\d{2}-\\d", "^\\w+@\\w+$", "\\S+",
        "^[^\\d\\s]+$", "^\\D$", "^\\W\\w$", "\\.", "a{2}", "a{2,}", "^a{0,2}$", "{", "a{x}",
        "^a+?$", "(?:ab)+", "(?P<n>ab)", "/", "\\/", "\\x41", "\\u0041", "\\t", "", "^$", "()", "a||b",
        "^(?:a|)$", "[0-9a-fA-F]{8}", "[^\\w]", "^.{1,4}$",
    )
} | {  # what Python spells in another way
    "(?<n>ab)": "ab", "\\u{41}": "A", "\\ud83d\\ude00": "😀", "^\\p{Lu}+$": "^[A-Z]+$",
    "[[]": "\\[", "[a&&b]": "[a&b]", "[a~~b]": "[a~b]", "[+--]": "[+,-]", "^\\cJ$": "^\\n\\Z",
    "^[\\b]$": "^\\x08$",
}  # fmt: skip
FOUND_IN = [
    "", "a", "b", "c", "ab", "abc", "aa", "aaa", "bb", "bcd", "d", "ddd", "dddd", "xyz", "yz", "-",
    "[", "]", "&", "~", "{", "}", "a{x}", ".", "/", "A", "12-3", "12", "a@b", "é@b", "é", " ",
    "\u00a0", "\ufeff", "\u2028", "\n", "\t", "\r", "\b", "_", "1", "١", "²", "😀", "abababab",
    "deadBEEF", "%a", '"', "\\", "+",
]  # fmt: skip
# Where those who read patterns disagree, only what all of them find is let through.
DISPUTED = {"\n", "\r"}


@pytest.mark.parametrize("pattern", SAME)
def test_a_pattern_lets_through_what_it_is_found_in(
    pattern: str, compiler: Compiler, vocabulary: Vocabulary
) -> None:
    at_start = start(compiler, "json_schema", schema={"type": "string", "pattern": pattern})
    for text in FOUND_IN:
        found = re.search(SAME[pattern], text) is not None
        taken = takes(at_start.copy(), vocabulary, json.dumps(text, ensure_ascii=False))
        assert found or not taken, text
        if text.isascii() and text not in DISPUTED:
            assert taken == found, text


REFUSED = [
    "(?=a)", "(?!a)", "(?<=a)", "(?<!a)", "(?i)a", "(?i:a)", "(?>a)", "\\bword\\b", "\\Ba", "(a)\\1",
    "\\k<n>", "\\A", "\\Z", "\\z", "\\q", "\\", "(", ")", "a)", "[", "[a", "[]", "[^]", "[z-a]",
    "[a-\\d]", "*a", "+", "?", "a**", "a{2}{3}", "a*+", "a{3,2}", "^*", "a^b", "a$b", "(a^)b",
    "x{,3}", "\\x4", "\\u12", "\\ud800", "\\u{110000}", "\\x00", "\\p", "a{2001}", "(a{50}){50}",
    "(" * 33 + ")" * 33, "(?#c)a", "\\x7f", "\\cA", "[a--c]",
]  # fmt: skip


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_cannot_be_enforced_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        whole(pattern)


@pytest.mark.parametrize("pattern", ["\\w\\W", "^[^\\w]+$", "\\D{3}", "^\\S+\\s$", "^[^\\s]$", "."])
def test_what_is_drawn_is_found_by_python_too(
    pattern: str, compiler: Compiler, vocabulary: Vocabulary
) -> None:
    """Python counts letters and digits of every script; ECMA-262 those of ASCII."""
    schema = {"type": "string", "pattern": pattern, "maxLength": 8}
    for seed in range(10):
        drawn = walk(start(compiler, "json_schema", schema=schema), vocabulary, random.Random(seed))
        assert drawn is not None
        text = json.loads(drawn)
        assert re.search(pattern, text) and re.search(pattern, text, re.ASCII)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("date", ["2024-02-29", "2000-02-29", "0001-01-01", "9999-12-31", "2023-02-28"],
         ["2023-02-29", "1900-02-29", "0000-01-01", "2023-04-31", "2023-13-01", "2023-1-1"]),
        ("time", ["00:00:00Z", "23:59:59.123456+14:00"],
         ["24:00:00Z", "12:00:60Z", "12:00:00", "12:00Z"]),
        ("date-time", ["2024-02-29T12:00:00Z"], ["2024-02-30T12:00:00Z", "2024-01-01 12:00:00Z"]),
        ("duration", ["P1Y2M3DT4H5M6S", "PT1M", "P3W", "P1D"], ["P", "PT", "P1S", "P1Y1D", "1D"]),
        ("uuid4", ["9b2c1f7e-0d3a-4c5b-8e9f-0123456789ab"],
         ["9b2c1f7e-0d3a-1c5b-8e9f-0123456789ab", "9b2c1f7e-0d3a-4c5b-ce9f-0123456789ab"]),
    ],
)  # fmt: skip
def test_formats_take_what_they_should(name: str, right: list[str], wrong: list[str]) -> None:
    pattern = formats.PATTERNS[name]
    assert [text for text in right if not re.search(pattern, text)] == []
    assert [text for text in wrong if re.search(pattern, text)] == []
