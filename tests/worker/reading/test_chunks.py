"""A text in chunks."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from msgspec.structs import replace
from tokenizers import Tokenizer

from tabagent.paper import Chunk, Splitting
from tabagent.worker.reading import chunks as chunking
from tabagent.worker.reading.chunks import SECTION, cutter
from tabagent.worker.reading.outline import Outline, headings
from tests.worker.reading.documents import SPLITTING, TOKENIZER, uncovered

TOKENS = Tokenizer.from_file(str(TOKENIZER))
README = Path(__file__, "../../../../README.md").resolve().read_text()
MIXED = "Füße 👩‍👩‍👧 日本語の文章です。 e\u0301te\u0301 \u200f עברית 𝔘𝔫𝔦\n\n" * 60
TEXTS = {
    "prose": "The quick brown fox jumps over the lazy dog. It runs away, then.\n" * 300,
    "mixed": MIXED,
    "readme": README,
    "one word": "x" * 100_000,
    "one line": "lorem ipsum dolor " * 6000,
    "wide gaps": "\n\n\n   word\t\t\n" * 5000,
    "no spaces": "日本語の文章です" * 1200,
    "combining": "e\u0301" * 60_000,
}


def cut(text: str, splitting: Splitting = SPLITTING, *, plain: bool) -> list[Chunk]:
    outline = None if plain else Outline(headings(text))
    return cutter(splitting).chunks(text, outline)


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("name", TEXTS)
def test_nothing_is_lost_and_no_chunk_is_over_its_tokens(name: str, plain: bool) -> None:
    text = TEXTS[name]
    chunks = cut(text, replace(SPLITTING, tokens=64, overlap=8), plain=plain)
    assert uncovered(text, chunks) == ""
    counted = TOKENS.encode_batch([text[c.start : c.end] for c in chunks], add_special_tokens=False)
    assert [c.tokens for c in chunks] == [sum(encoding.attention_mask) for encoding in counted]
    assert max(c.tokens for c in chunks) <= 64
    assert all(
        (not text[c.start].isspace() and not text[c.end - 1].isspace()) or not plain for c in chunks
    )
    assert all(a.start < b.start for a, b in pairwise(chunks))


def test_a_long_text_is_cut_by_characters_within_the_same_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunking, "FINE", 0)
    text = README + MIXED + "`" * 3000 + "日本語の" * 2000
    chunks = cut(text, plain=False)
    assert uncovered(text, chunks) == ""
    assert max(c.tokens for c in chunks) <= SPLITTING.tokens
    assert sum(c.tokens for c in chunks) / len(chunks) > SPLITTING.tokens / 3


def test_chunks_overlap_as_asked() -> None:
    text = " ".join(f"word{n}." for n in range(2000))
    apart = cut(text, replace(SPLITTING, overlap=0), plain=True)
    assert all(a.end <= b.start for a, b in pairwise(apart))
    near = cut(text, plain=True)
    assert sum(a.end > b.start for a, b in pairwise(near)) > len(near) / 2


def test_a_section_ends_at_a_heading_where_it_can() -> None:
    filler = "word " * (SECTION // 8)
    text = f"# A\n\n{filler}\n\n# B\n\n{filler}\n\n# C\n\n{filler}\n"
    starts = [chunk.start for chunk in cut(text, plain=False)]
    assert text.index("# B") in starts
    assert text.index("# C") in starts


def test_a_hard_cut_keeps_characters_whole() -> None:
    text = "e\u0301" * SECTION
    assert all(text[chunk.start] == "e" for chunk in cut(text, plain=True))


def test_chunks_know_their_headings() -> None:
    text = (
        "intro\n\n# A\n\n" + "a b c d. " * 100 + "\n\n## B\n\n```\n# no\n```\n\n" + "e f g. " * 100
    )
    chunks = cut(text, replace(SPLITTING, tokens=64), plain=False)
    assert chunks[0].headings == []
    assert chunks[-1].headings == ["A", "B"]
    assert {tuple(chunk.headings) for chunk in chunks} == {(), ("A",), ("A", "B")}


def test_a_tokenizer_that_truncates_and_pads_does_not_here(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=512)
    tokenizer.save(str(tmp_path / "t.json"))
    text = TEXTS["prose"]
    other = replace(SPLITTING, tokenizer=str(tmp_path / "t.json"))
    assert cut(text, other, plain=True) == cut(text, plain=True)


def test_a_splitter_is_made_once() -> None:
    assert cutter(SPLITTING) is cutter(replace(SPLITTING))
