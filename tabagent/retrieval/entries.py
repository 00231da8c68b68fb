"""What of a chunk is embedded, what its words are, and how it stands in the index."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from tabagent.stores.papers import Chunk, Document
from tabagent.stores.spacing import spaced
from tabagent.stores.vectors import Entry


def reading(document: Document, chunk: Chunk) -> str:
    """The text that a model embeds: a chunk says more beside where it stands."""
    return placed(document.title, chunk.headings, chunk.text)


def placed(title: str, headings: Sequence[str], text: str) -> str:
    """A text behind the path of headings that leads to it."""
    place = " > ".join(part for part in dict.fromkeys([title, *headings]) if part)
    return f"{place}\n\n{text}" if place else text


def host_of(source: str) -> str:
    """Of a URL, in lower case; nothing of other sources."""
    try:
        return (urlsplit(source).hostname or "") if "://" in source else ""
    except ValueError:
        return ""


def entry(document: Document, chunk: Chunk, vector: bytes) -> Entry:
    return Entry(
        number=chunk.number,
        vector=vector,
        words=spaced(reading(document, chunk)),
        owner=document.id,
        kind=document.kind,
        host=host_of(document.source),
        tags=document.tags,
        created_at=document.created_at,
        updated_at=document.updated_at,
    )
