"""Documents: pages, files and folders in collections, taken in by jobs that survive a kill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path

from tabagent.errors import DocumentNotFound, from_slug
from tabagent.operation import Call, NoParameters
from tabagent.parameters import invalid
from tabagent.replies.jobs import JobInfo
from tabagent.retrieval.jobs import LiveJob
from tabagent.retrieval.library import Library
from tabagent.services.documents.shapes import (
    AddDocuments,
    AddFolder,
    CollectionInfo,
    CollectionList,
    CollectionRef,
    CreateCollection,
    DeletedCollection,
    DeletedDocument,
    DeletedFolder,
    DocumentChunk,
    DocumentId,
    DocumentInfo,
    DocumentLink,
    DocumentList,
    DocumentText,
    FolderId,
    FolderInfo,
    FolderList,
    FollowJob,
    GetDocument,
    JobId,
    JobList,
    ListDocuments,
    ListJobs,
    ScanFolder,
    UpdateCollection,
    moment,
)
from tabagent.stores.papers import Collection, Document, Folder


class Documents:
    """What the library is asked by callers."""

    def __init__(self, library: Library) -> None:
        self._library, self._records = library, library.records

    # ---- collections ----------------------------------------------------------------------------
    async def collections(self, request: NoParameters, call: Call) -> CollectionList:
        """List the collections with what is in them."""
        found = await self._records.collections.all()
        counts = await self._records.collections.counts() if found else {}
        return CollectionList(data=[_collection(c, counts.get(c.name, (0, 0))) for c in found])

    async def create_collection(self, request: CreateCollection, call: Call) -> CollectionInfo:
        """Make a collection, for one embedding model."""
        made = await self._library.create(
            request.name,
            description=request.description,
            model=request.model,
            tokens=request.chunk_tokens,
            overlap=request.chunk_overlap,
        )
        return _collection(made, (0, 0))

    async def update_collection(self, request: UpdateCollection, call: Call) -> CollectionInfo:
        """Change a collection. Another model embeds everything behind, and is then searched."""
        if "description" in request.model_fields_set:
            await self._records.collections.update(
                request.name, {"description": request.description}
            )
        live = None
        if request.model is not None:
            live = await self._library.change_model(request.name, request.model)
        found = await self._records.collections.get(request.name)
        counts = await self._records.collections.counts()
        info = _collection(found, counts.get(found.name, (0, 0)))
        info.job = JobInfo.of(live.job) if live else None
        return info

    async def delete_collection(self, request: CollectionRef, call: Call) -> DeletedCollection:
        """Delete a collection with all its documents."""
        await self._library.delete_collection(request.name)
        return DeletedCollection(name=request.name)

    async def rebuild_index(self, request: CollectionRef, call: Call) -> JobInfo:
        """Make a collection's search index anew, from the database."""
        return JobInfo.of((await self._library.rebuild(request.name)).job)

    # ---- documents ------------------------------------------------------------------------------
    async def add(self, request: AddDocuments, call: Call) -> AsyncGenerator[JobInfo, None]:
        """Take documents in: text, Markdown, pages, PDF and DOCX files.

        They are kept before this answers its first word; reading and embedding them is a job of the
        server, which goes on when the caller leaves. The same content again is nothing to do, other
        content under the same name is a new version.
        """
        documents = [
            document.incoming(f"/documents/{index}")
            for index, document in enumerate(request.documents)
        ]
        collection = await self._library.collection(request.collection, make=True)
        live = await self._library.add(collection.name, documents)
        async with aclosing(self._follow(live, wait=request.wait)) as states:
            async for state in states:
                yield state

    async def list(self, request: ListDocuments, call: Call) -> DocumentList:
        """List documents, the last changed first."""
        if request.collection is not None:
            await self._records.collections.get(request.collection)
        page, next_ = await self._records.documents.page(
            request.collection, request.search, request.cursor, request.limit
        )
        return DocumentList(data=[DocumentInfo(**_document(d)) for d in page], next_cursor=next_)

    async def get(self, request: GetDocument, call: Call) -> DocumentText:
        """A document with its text, or a part of it, its links, and where its chunks lie."""
        found = await self._records.documents.get(request.document_id)
        end = request.start + request.length
        chunks = await self._records.documents.chunks(found.id)
        return DocumentText(
            **_document(found),
            start=request.start,
            text=found.text[request.start : end],
            length=len(found.text),
            links=[DocumentLink(url=url, text=text) for url, text in found.links],
            pages=found.pages,
            parts=[
                DocumentChunk(
                    number=c.ordinal, start=c.begins, end=c.ends, tokens=c.tokens,
                    headings=c.headings,
                )
                for c in chunks
                if request.start <= c.begins < end
            ],
        )  # fmt: skip

    async def delete(self, request: DocumentId, call: Call) -> DeletedDocument:
        """Delete a document with all that was made of it."""
        found = await self._records.documents.get(request.document_id)
        if not await self._library.folders.forget(found.collection, [found.id]):
            raise DocumentNotFound(f"there is no document {request.document_id}")
        return DeletedDocument(id=found.id)

    # ---- folders --------------------------------------------------------------------------------
    async def add_folder(self, request: AddFolder, call: Call) -> AsyncGenerator[JobInfo, None]:
        """Read a folder of the server's machine, and keep watching it when asked to."""
        path = await asyncio.to_thread(_there, request.path)
        if path is None:
            raise invalid("/path", "must be an absolute path of a folder or file that is there")
        collection = await self._library.collection(request.collection, make=True)
        _, live = await self._library.add_folder(
            collection.name,
            str(path),
            request.patterns,
            watch=request.watch,
            every_s=request.every_s,
        )
        async with aclosing(self._follow(live, wait=request.wait)) as states:
            async for state in states:
                yield state

    async def list_folders(self, request: NoParameters, call: Call) -> FolderList:
        """List the folders that documents come from."""
        return FolderList(data=[_folder(f) for f in await self._records.collections.folders()])

    async def scan_folder(self, request: ScanFolder, call: Call) -> AsyncGenerator[JobInfo, None]:
        """Look a folder over now: what changed is read again, what is gone is forgotten."""
        folder = await self._records.collections.folder(request.folder_id)
        live = await self._library.folders.scan(folder)
        async with aclosing(self._follow(live, wait=request.wait)) as states:
            async for state in states:
                yield state

    async def delete_folder(self, request: FolderId, call: Call) -> DeletedFolder:
        """Forget a folder and the documents that came from it. Its files stay as they are."""
        folder = await self._records.collections.folder(request.folder_id)
        jobs = self._library.jobs
        await jobs.cancel_all(
            live for live in jobs.at_work(folder.collection) if live.job.subject == folder.id
        )
        known = await self._records.collections.stats(folder.id)
        gone = await self._library.folders.forget(
            folder.collection, [id_ for id_, _ in known.values()]
        )
        await self._records.collections.forget_folder(folder.id)
        return DeletedFolder(id=folder.id, documents=len(gone))

    # ---- jobs -----------------------------------------------------------------------------------
    async def list_jobs(self, request: ListJobs, call: Call) -> JobList:
        """List jobs, the newest first."""
        page, next_ = await self._records.jobs.page(request.cursor, request.limit)
        live = [self._library.jobs.live(job.id) for job in page]
        return JobList(
            data=[
                JobInfo.of(alive.job if alive else job)
                for job, alive in zip(page, live, strict=True)
            ],
            next_cursor=next_,
        )

    async def get_job(self, request: FollowJob, call: Call) -> AsyncGenerator[JobInfo, None]:
        """How far a job is; with `stream`, every step until its end."""
        live = await self._library.jobs.find(request.job_id)
        async with aclosing(self._library.jobs.follow(live)) as states:
            async for state in states:
                yield JobInfo.of(state.job)
                if not request.stream:
                    return

    async def cancel_job(self, request: JobId, call: Call) -> JobInfo:
        """Stop a job. What it has done stays."""
        return JobInfo.of(await self._library.jobs.cancel(request.job_id))

    async def _follow(self, live: LiveJob, *, wait: bool) -> AsyncGenerator[JobInfo, None]:
        async with aclosing(self._library.jobs.follow(live)) as states:
            async for state in states:
                if state.error is not None:
                    raise state.error
                if not state.running and state.job.total == state.job.counts.get("failed") == 1:
                    # Who sent one hears it as an error.
                    problem = dict(state.job.failures[0]["problem"])
                    raise from_slug(problem.pop("code"), problem.pop("detail"), problem)
                yield JobInfo.of(state.job)
                if not wait:
                    return


async def fold_job(events: AsyncIterator[JobInfo]) -> JobInfo:
    """The plain reply: the job as it was last."""
    last: JobInfo | None = None
    async for event in events:
        last = event
    assert last is not None, "a job tells of itself at least once"
    return last


def _collection(collection: Collection, counts: tuple[int, int]) -> CollectionInfo:
    return CollectionInfo(
        name=collection.name,
        description=collection.description,
        model=collection.model,
        next_model=collection.next_model,
        chunk_tokens=collection.chunk_tokens,
        chunk_overlap=collection.chunk_overlap,
        documents=counts[0],
        chunks=counts[1],
        created_at=moment(collection.created_at),
    )


def _document(document: Document) -> dict[str, object]:
    return {
        "id": document.id,
        "collection": document.collection,
        "source": document.source,
        "title": document.title,
        "kind": document.kind,
        "version": document.version,
        "size_bytes": document.size_bytes,
        "chunks": document.chunk_count,
        "tags": document.tags,
        "metadata": document.metadata,
        "folder_id": document.folder_id,
        "created_at": moment(document.created_at),
        "updated_at": moment(document.updated_at),
    }


def _folder(folder: Folder) -> FolderInfo:
    return FolderInfo(
        id=folder.id,
        collection=folder.collection,
        path=folder.path,
        patterns=folder.patterns,
        watch=folder.watch,
        every_s=folder.every_s,
        scanned_at=moment(folder.scanned_at) if folder.scanned_at else None,
        created_at=moment(folder.created_at),
    )


def _there(named: str) -> Path | None:
    path = Path(named).expanduser()
    return path if path.is_absolute() and path.exists() else None
