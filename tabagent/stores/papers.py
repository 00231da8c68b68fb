"""Collections, documents, chunks and jobs, as those who work with them have them."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import time
from typing import Any, Literal

from tabagent.stores.ids import new_id

JobKind = Literal["documents", "folder", "embed", "index"]
JobState = Literal["running", "done", "cancelled", "failed"]
FAILURES = 100  # of a job that are told one by one


@dataclass(slots=True)
class Collection:
    """A row of `collections`."""

    name: str
    description: str | None
    model: str  # whose vectors are searched
    next_model: str | None  # whose vectors are being made
    chunk_tokens: int
    chunk_overlap: int
    created_at: float

    @property
    def models(self) -> list[str]:
        """Whose vectors every chunk must have."""
        return [self.model, *([self.next_model] if self.next_model else [])]


@dataclass(slots=True)
class Document:
    """A row of `documents`. Of a list `text`, `links` and `pages` are left out."""

    id: str
    collection: str
    source: str
    folder_id: str | None
    title: str
    kind: str
    hash: str
    stat: str
    version: int
    size_bytes: int
    tags: list[str]
    metadata: dict[str, Any]
    chunk_count: int
    created_at: float
    updated_at: float
    text: str = ""
    links: list[list[str]] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Chunk:
    """A row of `chunks`; `begins` and `ends` count characters of the document's text."""

    document_id: str
    collection: str
    ordinal: int
    begins: int
    ends: int
    tokens: int
    headings: list[str]
    text: str
    number: int = 0


@dataclass(slots=True)
class Incoming:
    """A row of `incoming`: what has been taken on and is to be read."""

    job_id: str
    collection: str
    source: str
    folder_id: str | None = None
    path: str | None = None
    stat: str = ""
    kind: str | None = None
    title: str | None = None
    tags: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    data: bytes | None = None
    number: int = 0


@dataclass(slots=True)
class Job:
    """A row of `jobs`."""

    id: str
    kind: JobKind
    collection: str
    subject: str
    state: JobState
    writer: str
    total: int
    counts: dict[str, int]
    failures: list[dict[str, Any]]
    created_at: float
    ended_at: float | None

    @classmethod
    def new(
        cls, kind: JobKind, collection: str, writer: str, total: int = 0, subject: str = ""
    ) -> Job:
        return cls(
            new_id("job"), kind, collection, subject, "running", writer, total, {}, [], time(), None
        )

    @property
    def done(self) -> int:
        return sum(self.counts.values())

    def count(self, outcome: str, number: int = 1) -> None:
        self.counts[outcome] = self.counts.get(outcome, 0) + number

    def fail(self, source: str, problem: dict[str, Any]) -> None:
        """Note why a document could not be taken in; the first hundred are told one by one."""
        if len(self.failures) < FAILURES:
            self.failures.append({"source": source, "problem": problem})


@dataclass(frozen=True, slots=True)
class Folder:
    """A row of `folders`."""

    id: str
    collection: str
    path: str
    patterns: list[str]
    watch: bool
    every_s: float
    scanned_at: float | None
    created_at: float


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk with the document that it is from."""

    chunk: Chunk
    document: Document  # without its text


@dataclass(slots=True)
class Fresh:
    """A document as it was just read: its chunks, and their vectors by the model that made them."""

    document: Document
    chunks: list[Chunk]
    vectors: dict[str, list[bytes]]
    incoming: int
    new: bool
