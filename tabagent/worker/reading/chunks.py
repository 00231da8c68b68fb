"""A text in chunks: along its structure, within a budget of tokens, each with its headings.

The splitter is quadratic in a text without paragraphs, so it gets sections. It asks the tokenizer
often, so long texts are cut by characters first and only what came out too long by tokens.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

from tabagent.paper import Chunk, Splitting
from tabagent.worker.reading.outline import Outline

SECTION: Final = 1 << 15  # characters
FINE: Final = 1 << 13  # characters up to which every chunk is filled by its tokens
BATCH: Final = 512  # chunks counted at once
SAMPLES: Final = 16
FILL: Final = 0.95  # of the budget, where it is guessed from characters
JOINS: Final = "\u200d\ufe0e\ufe0f"  # what holds an emoji together

Splitter = MarkdownSplitter | TextSplitter


class Cutter:
    """Cuts texts as a Splitting says."""

    def __init__(self, splitting: Splitting) -> None:
        self._tokenizer = Tokenizer.from_file(splitting.tokenizer)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._splitting = splitting
        self._fine = {
            kind: kind.from_huggingface_tokenizer(
                self._tokenizer, splitting.tokens, splitting.overlap
            )
            for kind in (MarkdownSplitter, TextSplitter)
        }

    def chunks(self, text: str, outline: Outline | None) -> list[Chunk]:
        """Chunks of Markdown with an outline, of plain text with none."""
        kind = TextSplitter if outline is None else MarkdownSplitter
        fine = self._fine[kind]
        splitter = fine if len(text) <= FINE else self._coarse(kind, text)
        spans: list[tuple[int, int]] = []
        for start, end in _sections(text, outline.starts if outline else []):
            spans += _split(splitter, text, start, end)
        counts = self._count(text, spans)
        chunks: list[Chunk] = []
        for (start, end), tokens in zip(spans, counts, strict=True):
            whole = tokens <= self._splitting.tokens
            parts = [(start, end)] if whole else _split(fine, text, start, end)
            for part, size in zip(
                parts, [tokens] if whole else self._count(text, parts), strict=True
            ):
                path = outline.path(part[0]) if outline else []
                chunks.append(Chunk(*part, size, path))
        return _in_order(chunks)

    def _coarse(self, kind: type[Splitter], text: str) -> Splitter:
        step = len(text) // SAMPLES
        samples = [text[at : at + 2048] for at in range(0, len(text), step)]
        tokens = sum(len(found) for found in self._encode(samples))
        ratio = sum(map(len, samples)) / max(tokens, 1) * FILL
        capacity = min(max(int(self._splitting.tokens * ratio), 8), SECTION)
        return kind(capacity, min(int(self._splitting.overlap * ratio), capacity // 2))

    def _count(self, text: str, spans: list[tuple[int, int]]) -> list[int]:
        counts: list[int] = []
        for at in range(0, len(spans), BATCH):
            batch = [text[start:end] for start, end in spans[at : at + BATCH]]
            counts += map(len, self._encode(batch))
        return counts

    def _encode(self, texts: list[str]) -> list[list[int]]:
        encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [found.ids for found in encoded]


@lru_cache(maxsize=4)
def cutter(splitting: Splitting) -> Cutter:
    """Loading a tokenizer takes longer than most documents."""
    return Cutter(splitting)


def _in_order(chunks: list[Chunk]) -> list[Chunk]:
    """Without those that lie in another: the last part of a cut chunk may lie in the next one."""
    kept: list[Chunk] = []
    for chunk in sorted(chunks, key=lambda c: (c.start, -c.end)):
        if not kept or chunk.end > kept[-1].end:
            kept.append(chunk)
    return kept


def _split(splitter: Splitter, text: str, start: int, end: int) -> list[tuple[int, int]]:
    return [
        (start + at, start + at + len(part))
        for at, part in splitter.chunk_indices(text[start:end])
        if part and not part.isspace()
    ]


def _sections(text: str, headings: list[int]) -> Iterator[tuple[int, int]]:
    at = 0
    while len(text) - at > SECTION:
        end = _cut(text, at, headings)
        yield at, end
        at = end
    yield at, len(text)


def _cut(text: str, at: int, headings: list[int]) -> int:
    """Where the section that begins `at` ends best: in its second half, at most SECTION later."""
    middle, last = at + SECTION // 2, at + SECTION
    found = bisect_right(headings, last)
    if found and headings[found - 1] > middle:
        return headings[found - 1]
    for mark in ("\n\n", "\n", ". ", "。", " "):
        cut = text.rfind(mark, middle, last)
        if cut >= 0:
            return cut + len(mark)
    for cut in range(last, last - 64, -1):
        if not unicodedata.combining(text[cut]) and not {text[cut - 1], text[cut]} & set(JOINS):
            return cut
    return last
