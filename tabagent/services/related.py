"""What belongs to a document or a message: what is like it, and what names the same."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import Field

from tabagent.memory.links import Link, Links
from tabagent.operation import Call, Reply, Request
from tabagent.replies.usage import absent
from tabagent.stores.records import Records

EXCERPT = 300  # characters


class RelatedRequest(Request):
    """A document or a message, and how much of what belongs to it."""

    model_config = {"json_schema_extra": {"examples": [{"kind": "document", "id": "doc_1"}]}}

    kind: Literal["document", "message"]
    id: Annotated[str, Field(min_length=1, max_length=128)]
    limit: Annotated[int, Field(ge=1, le=100)] = 10
    min_similarity: Annotated[float, Field(ge=-1, le=1)] = 0.5


class Reason(Reply):
    """Why it belongs there."""

    type: Literal["similar", "names"]
    similarity: float | None = Field(None, description="Cosine.", exclude_if=absent)
    label: str | None = Field(None, exclude_if=absent)
    name: str | None = Field(None, description="What both name.", exclude_if=absent)
    named_by: int | None = Field(None, description="How many name it.", exclude_if=absent)


class RelatedItem(Reply):
    """A document or a message."""

    kind: Literal["document", "message"]
    id: str
    title: str | None = Field(description="Of the document, or of the message's session.")
    excerpt: str
    source: str | None = Field(None, description="Of a document.", exclude_if=absent)
    collection: str | None = Field(None, exclude_if=absent)
    session_id: str | None = Field(None, exclude_if=absent)
    at: datetime = Field(description="When it was said, or last changed.")
    score: float
    reasons: list[Reason]


class RelatedList(Reply):
    """The closest first."""

    object: Literal["list"] = "list"
    data: list[RelatedItem]


class Related:
    """`links` finds, `records` says what was found."""

    def __init__(self, records: Records, links: Links) -> None:
        self._records, self._links = records, links

    async def list(self, request: RelatedRequest, call: Call) -> RelatedList:
        """List documents and messages that belong to one of them, each with the reason."""
        links = await self._links.of(request.kind, request.id, request.min_similarity)
        items: list[RelatedItem] = []
        for link in links:
            item = await (self._document(link) if link.kind == "document" else self._message(link))
            if item is not None:
                items.append(item)
            if len(items) == request.limit:
                break
        return RelatedList(data=items)

    async def _document(self, link: Link) -> RelatedItem | None:
        document = link.passage.document if link.passage else None
        if document is None:
            document = await self._records.documents.find(link.id)
        if document is None:
            return None
        said = link.passage.chunk.text if link.passage else ""
        return RelatedItem(
            kind="document", id=document.id, title=document.title, excerpt=said[:EXCERPT],
            source=document.source, collection=document.collection,
            at=datetime.fromtimestamp(document.updated_at, UTC), score=round(link.score, 6),
            reasons=_reasons(link),
        )  # fmt: skip

    async def _message(self, link: Link) -> RelatedItem | None:
        found = await self._records.messages.find(link.id)
        if found is None:
            return None
        message, title = found
        return RelatedItem(
            kind="message", id=message.id, title=title, excerpt=message.text[:EXCERPT],
            session_id=message.session_id, at=datetime.fromtimestamp(message.created_at, UTC),
            score=round(link.score, 6), reasons=_reasons(link),
        )  # fmt: skip


def _reasons(link: Link) -> list[Reason]:
    reasons = []
    if link.similarity is not None:
        reasons.append(Reason(type="similar", similarity=round(link.similarity, 6)))
    reasons += [
        Reason(type="names", label=label, name=name, named_by=count)
        for (label, name), count in link.names.items()
    ]
    return reasons
