"""A passage of a document, as searches and answers show it, and what a search may be told."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import Field

from tabagent.operation import Reply, Request
from tabagent.replies.usage import absent
from tabagent.retrieval.search import Hit
from tabagent.stores.vectors import Filter

CollectionName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Tag = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f]+$")]
Values = Annotated[list[Annotated[str, Field(max_length=512)]], Field(max_length=100)]


LINKS: Final = ("http://", "https://", "file://")  # anything else a click might run


class SearchFilter(Request):
    """What documents must have; all of it. Of a list one value is enough, but for `tags`."""

    document_ids: Values = []
    kinds: Values = Field([], description="`text`, `markdown`, `html`, `pdf`, `docx`.")
    hosts: Values = Field([], description="Of the pages' URLs, such as `docs.python.org`.")
    tags: Annotated[list[Tag], Field(max_length=32)] = Field([], description="All of them.")
    created_after: datetime | None = None
    created_before: datetime | None = None
    updated_after: datetime | None = None
    updated_before: datetime | None = None

    def plain(self) -> Filter:
        def seconds(moment: datetime | None) -> float | None:
            return moment.timestamp() if moment else None

        return Filter(
            owners=self.document_ids,
            kinds=self.kinds,
            hosts=[host.lower() for host in self.hosts],
            tags=self.tags,
            created_after=seconds(self.created_after),
            created_before=seconds(self.created_before),
            updated_after=seconds(self.updated_after),
            updated_before=seconds(self.updated_before),
        )


class Source(Reply):
    """A passage, and where it stands."""

    number: int = Field(description="In this reply, from 1; answers cite it so.")
    document_id: str
    collection: str
    title: str
    source: str = Field(description="The document's URL, file or name.")
    url: str | None = Field(description="Of a page, or of a file on the server's machine.")
    chunk: int = Field(description="Of the document, from 0.")
    start: int = Field(description="Its first character (code point) in the document's text.")
    end: int = Field(description="The one after its last.")
    headings: list[str]
    text: str
    score: float = Field(description="What the order is by; of use within one reply alone.")
    similarity: float | None = Field(
        description="Cosine of question and passage; null where only words were searched."
    )
    words_score: float | None = Field(description="BM25; null where the words did not find it.")
    rerank_score: float | None = Field(None, exclude_if=absent)
    tags: list[str]
    metadata: dict[str, Any]


def source(number: int, hit: Hit) -> Source:
    chunk, document = hit.passage.chunk, hit.passage.document
    return Source(
        number=number,
        document_id=document.id,
        collection=document.collection,
        title=document.title,
        source=document.source,
        url=document.source if document.source.lower().startswith(LINKS) else None,
        chunk=chunk.ordinal,
        start=chunk.begins,
        end=chunk.ends,
        headings=chunk.headings,
        text=chunk.text,
        score=round(hit.score, 6),
        similarity=None if hit.similarity is None else round(hit.similarity, 6),
        words_score=None if hit.words_score is None else round(hit.words_score, 6),
        rerank_score=None if hit.rerank_score is None else round(hit.rerank_score, 6),
        tags=document.tags,
        metadata=document.metadata,
    )
