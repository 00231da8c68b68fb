"""What collections, documents, folders and jobs are asked with, and what they look like."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tabagent.errors import UnsupportedMediaType
from tabagent.operation import Reply, Request
from tabagent.paper import Kind
from tabagent.parameters import Flag, Whole, invalid
from tabagent.replies.jobs import JobInfo
from tabagent.retrieval.kinds import kind_of
from tabagent.retrieval.library import DEFAULT
from tabagent.retrieval.passages import CollectionName, Tag
from tabagent.stores.papers import Incoming

MOST_DOCUMENTS = 256
Name = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f\x7f]+$")]
Id = Annotated[str, Field(min_length=1, max_length=128)]
Limit = Annotated[int, Field(ge=1, le=500)]
Cursor = Annotated[
    str | None, Field(max_length=512, description="`next_cursor` of the page before.")
]
Metadata = Annotated[dict[str, Any], Field(max_length=64)]


class CreateCollection(Request):
    """A collection. The name is its id."""

    model_config = {"json_schema_extra": {"examples": [{"name": "recipes"}]}}

    name: CollectionName
    description: str | None = Field(None, max_length=2000)
    model: str | None = Field(
        None, max_length=200, description="The embedding model; the chosen one when left out."
    )
    chunk_tokens: Whole | None = Field(
        None, ge=16, le=8192, description="Most tokens of a chunk; 256, or what the model reads."
    )
    chunk_overlap: Whole | None = Field(
        None, ge=0, le=4096, description="Tokens that a chunk has in common with the next; 32."
    )


class UpdateCollection(Request):
    """What is to be otherwise."""

    model_config = {
        "json_schema_extra": {"examples": [{"name": "recipes", "description": "Soups"}]}
    }

    name: CollectionName
    description: str | None = Field(None, max_length=2000)
    model: str | None = Field(
        None,
        max_length=200,
        description="Embed everything with this model, behind; searches use it from the end on.",
    )


class CollectionRef(Request):
    """A collection by its name."""

    model_config = {"json_schema_extra": {"examples": [{"name": "recipes"}]}}

    name: CollectionName


class CollectionInfo(Reply):
    """A collection."""

    name: str
    object: Literal["collection"] = "collection"
    description: str | None
    model: str = Field(description="Whose vectors are searched.")
    next_model: str | None = Field(description="Whose vectors are being made.")
    chunk_tokens: int
    chunk_overlap: int
    documents: int
    chunks: int
    created_at: datetime
    job: JobInfo | None = Field(None, description="What a change of the model began.")


class CollectionList(Reply):
    """All collections, by name."""

    object: Literal["list"] = "list"
    data: list[CollectionInfo]


class DeletedCollection(Reply):
    """It is gone, with all its documents."""

    name: str
    deleted: Literal[True] = True


class NewDocument(Request):
    """A document: exactly one of `text`, `markdown`, `html` and `data` holds what it says.

    `url`, or else `source`, or else `filename` names it: what comes under the same name again takes
    its place.
    """

    url: Annotated[str, Field(pattern=r"^https?://[^\x00-\x20\x7f]+$", max_length=4096)] | None = (
        None
    )
    source: Name | None = None
    filename: Annotated[Name, Field(max_length=512)] | None = None
    title: str | None = Field(None, max_length=1000, description="Found in it when left out.")
    text: str | None = None
    markdown: str | None = None
    html: str | None = Field(None, description="A page; its main content is kept.")
    data: str | None = Field(None, description="A file in base64: PDF, DOCX or one of text.")
    content_type: str | None = Field(None, max_length=200, description="Of `data`.")
    tags: Annotated[list[Tag], Field(max_length=32)] = []
    metadata: Metadata = {}

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        given = [n for n in ("text", "markdown", "html", "data") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError("exactly one of text, markdown, html and data is needed")
        if not (self.url or self.source or self.filename):
            raise ValueError("a document needs a url, a source or a filename")
        return self

    def incoming(self, pointer: str) -> Incoming:
        """Raises InvalidRequest, UnsupportedMediaType."""
        name = self.url or self.source or self.filename or ""
        kind: Kind | None
        if self.data is not None:
            try:
                content = b64decode(self.data, validate=True)
            except (binascii.Error, ValueError):
                raise invalid(f"{pointer}/data", "is not base64") from None
            kind = kind_of(
                self.filename or PurePosixPath(name).name, self.content_type or "", content
            )
            if kind is None:
                raise UnsupportedMediaType(
                    f"{pointer}/data is no text, Markdown, HTML, PDF or DOCX", param="documents"
                )
        else:
            said = self.text if self.text is not None else self.markdown
            kind = "text" if self.text is not None else "markdown"
            if said is None:
                said, kind = self.html or "", "html"
            content = said.encode(errors="replace")
        return Incoming(
            job_id="", collection="", source=name, kind=kind, title=_line(self.title),
            tags=sorted(set(self.tags)), metadata=self.metadata, data=content,
        )  # fmt: skip


class AddDocuments(Request):
    """Documents to take in."""

    model_config = {
        "json_schema_extra": {
            "examples": [
                {
                    "documents": [
                        {"source": "soup", "markdown": "# Soup\n\nBoil two carrots for an hour."}
                    ]
                }
            ]
        }
    }

    collection: CollectionName = DEFAULT
    documents: list[NewDocument] = Field(min_length=1, max_length=MOST_DOCUMENTS)
    wait: Flag = Field(
        True, description="Answer when they can be found; `false`: as soon as they are kept."
    )
    stream: Flag | None = Field(False, description="Send the progress as server-sent events.")


class AddFolder(Request):
    """A folder, or a file, on the server's machine."""

    model_config = {"json_schema_extra": {"examples": [{"path": "/home/me/notes", "watch": True}]}}

    path: Name = Field(description="Absolute.")
    collection: CollectionName = DEFAULT
    patterns: Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=64)] = Field(
        [], description="Names of files, such as `*.md`; what can be read when left out."
    )
    watch: Flag = Field(False, description="Look it over at every start, and every `every_s`.")
    every_s: Annotated[float, Field(ge=5, le=86400 * 30)] = 300
    wait: Flag = True
    stream: Flag | None = False


class FolderInfo(Reply):
    """A folder that documents come from."""

    id: str
    collection: str
    path: str
    patterns: list[str]
    watch: bool
    every_s: float
    scanned_at: datetime | None
    created_at: datetime


class FolderList(Reply):
    """All of them, the oldest first."""

    object: Literal["list"] = "list"
    data: list[FolderInfo]


class FolderId(Request):
    """A folder by its id."""

    model_config = {"json_schema_extra": {"examples": [{"folder_id": "dir_1"}]}}

    folder_id: Id


class ScanFolder(FolderId):
    """Look a folder over now."""

    wait: Flag = True
    stream: Flag | None = False


class DeletedFolder(Reply):
    """The folder is forgotten, and the documents that came from it. Its files stay."""

    id: str
    documents: int


class ListDocuments(Request):
    """Which documents."""

    model_config = {"json_schema_extra": {"examples": [{"limit": 20}]}}

    collection: CollectionName | None = None
    search: str | None = Field(None, max_length=500, description="In titles and sources.")
    cursor: Cursor = None
    limit: Limit = 50


class DocumentInfo(Reply):
    """A document, without what it says."""

    id: str
    object: Literal["document"] = "document"
    collection: str
    source: str
    title: str
    kind: Kind
    version: int
    size_bytes: int = Field(description="Of what it was read from.")
    chunks: int
    tags: list[str]
    metadata: dict[str, Any]
    folder_id: str | None
    created_at: datetime
    updated_at: datetime


class DocumentList(Reply):
    """The last changed first."""

    object: Literal["list"] = "list"
    data: list[DocumentInfo]
    next_cursor: str | None


class GetDocument(Request):
    """A document by its id, and how much of its text."""

    model_config = {"json_schema_extra": {"examples": [{"document_id": "doc_1"}]}}

    document_id: Id
    start: Annotated[int, Field(ge=0)] = 0
    length: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        100_000, description="Characters of the text, from `start`."
    )


class DocumentLink(Reply):
    """Where a document leads."""

    url: str
    text: str


class DocumentChunk(Reply):
    """A chunk that begins in the part that is shown."""

    number: int
    start: int
    end: int
    tokens: int
    headings: list[str]


class DocumentText(DocumentInfo):
    """A document and a part of its text. Offsets count characters (code points) of all of it."""

    start: int
    text: str
    length: int = Field(description="Characters of the whole text.")
    links: list[DocumentLink]
    pages: list[int] = Field(description="Of a PDF: where each page begins.")
    parts: list[DocumentChunk]


class DocumentId(Request):
    """A document by its id."""

    model_config = {"json_schema_extra": {"examples": [{"document_id": "doc_1"}]}}

    document_id: Id


class DeletedDocument(Reply):
    """It is gone, with all that was made of it."""

    id: str
    deleted: Literal[True] = True


class ListJobs(Request):
    """A page of jobs, the newest first."""

    cursor: Cursor = None
    limit: Limit = 50


class JobList(Reply):
    """Jobs, the newest first."""

    object: Literal["list"] = "list"
    data: list[JobInfo]
    next_cursor: str | None


class JobId(Request):
    """A job by its id."""

    model_config = {"json_schema_extra": {"examples": [{"job_id": "job_1"}]}}

    job_id: Id


class FollowJob(JobId):
    """A job, now or until its end."""

    stream: bool | None = Field(False, description="Follow it until its end.")


def _line(title: str | None) -> str | None:
    return re.sub(r"[\x00-\x20\x7f]+", " ", title).strip() or None if title else None


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
