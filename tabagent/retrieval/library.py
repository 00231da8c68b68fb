"""Everything that retrieval is made of, built and stopped as one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import time
from typing import Any, Final

import structlog

from tabagent.catalog.models import Model
from tabagent.config import Settings
from tabagent.errors import CollectionNotFound, Conflict, IndexRebuilding, TabAgentError
from tabagent.journal import Journal
from tabagent.replies.changes import DocumentChange
from tabagent.replies.jobs import JobInfo
from tabagent.replies.vectors import Embedder
from tabagent.retrieval.embedding import PatientEmbedder
from tabagent.retrieval.folders import Folders
from tabagent.retrieval.index import Index
from tabagent.retrieval.ingest import Ingest
from tabagent.retrieval.jobs import Jobs, LiveJob, Work
from tabagent.retrieval.reader import Reader
from tabagent.retrieval.reembed import ChunkRecord, Reembed
from tabagent.retrieval.search import Search
from tabagent.retrieval.splitting import CHUNK_OVERLAP, chunk_tokens
from tabagent.retrieval.tally import Tally
from tabagent.stores.ids import new_id
from tabagent.stores.papers import Collection, Document, Folder, Incoming, Job, JobKind
from tabagent.stores.records import Records
from tabagent.stores.vectors import VectorStore

log = structlog.get_logger(__name__)

DEFAULT: Final = "default"
"""The collection where none is named; made when it is first put into."""

ResolveEmbedder = Callable[[str | None], Awaitable[Model]]
"""The embedding model with this name; the chosen one when none is named."""


class Library:
    """Collections with their documents. Belongs to one event loop."""

    def __init__(
        self,
        settings: Settings,
        records: Records,
        journal: Journal,
        embedder: Embedder,
        *,
        resolve: ResolveEmbedder,
        busy: Callable[[], bool],
    ) -> None:
        self.records, self._journal, self._resolve = records, journal, resolve
        place = settings.index_uri or str(settings.data_dir / "index")
        self.vectors = VectorStore(place, settings.index_options)
        self.embedder = PatientEmbedder(embedder, busy)
        self._reader = Reader(upload=settings.upload_limit)
        self.tally = Tally()
        self.index = Index(self.vectors, ChunkRecord(records), self.tally)
        self.jobs = Jobs(records, self._tell_job, self.tally)
        self.ingest = Ingest(
            records, self.jobs, self._reader, self.embedder, self.index,
            resolve=resolve, tell=self._tell_came,
        )  # fmt: skip
        self.folders = Folders(records, self.jobs, self.ingest, self.index, self._tell_gone)
        self._reembed = Reembed(records, self.jobs, self.embedder, self.index, self.ingest)
        self.search = Search(records, self.embedder, self.index, self.tally)
        self.on_document: Callable[[Document], None] | None = None
        self._work: dict[JobKind, Work] = {
            "documents": self.ingest.work,
            "folder": self.folders.work,
            "embed": self._reembed.work,
            "index": self._rebuild,
        }
        self._starting: asyncio.Task[None] | None = None

    # ---- the server -----------------------------------------------------------------------------
    def start(self) -> None:
        """Go on with what the last server left, behind the first requests."""
        self._starting = asyncio.get_running_loop().create_task(self._start())

    async def _start(self) -> None:
        if not self.records.database.made:
            return
        try:
            for job in await self.records.jobs.unfinished():
                self.jobs.begin(job, self._work[job.kind])
            for collection in await self.records.collections.all():
                for model in collection.models:
                    with suppress(IndexRebuilding):  # it goes on
                        await self.index.ready(collection.name, model)
            self.folders.watch()
        except TabAgentError as error:
            log.warning("library_not_started", code=error.slug)
        except Exception as error:
            log.error("library_not_started", exc_info=error)

    async def stop(self) -> None:
        if self._starting:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        await self.folders.stop()
        await self.jobs.stop()
        await self._reader.close()
        await self.index.stop()

    # ---- collections ----------------------------------------------------------------------------
    async def create(
        self,
        name: str,
        *,
        description: str | None = None,
        model: str | None = None,
        tokens: int | None = None,
        overlap: int | None = None,
    ) -> Collection:
        """A collection. Raises Conflict, or what finding an embedding model raises."""
        found = await self._resolve(model)
        size = chunk_tokens(found, tokens)
        made = Collection(
            name=name, description=description, model=found.id, next_model=None, chunk_tokens=size,
            chunk_overlap=min(CHUNK_OVERLAP if overlap is None else overlap, size // 2),
            created_at=time(),
        )  # fmt: skip
        await self.records.collections.create(made)
        return made

    async def collection(self, name: str, *, make: bool = False) -> Collection:
        """Raises CollectionNotFound; the default one is made when there is something to put in."""
        if make and name == DEFAULT and await self.records.collections.find(name) is None:
            try:
                return await self.create(name)
            except Conflict:
                pass  # somebody else made it just now
        return await self.records.collections.get(name)

    async def named(self, names: Sequence[str]) -> list[Collection]:
        """Collections to look in; the default one need not have been made yet.

        Raises CollectionNotFound.
        """
        found = await self.records.collections.named(names)
        for name in names:
            if name not in found and name != DEFAULT:
                raise CollectionNotFound(f"there is no collection {name}", param="collections")
        return list(found.values())

    async def delete_collection(self, name: str) -> None:
        """With everything in it. Raises CollectionNotFound."""
        collection = await self.records.collections.get(name)
        await self.jobs.cancel_all(self.jobs.at_work(name))
        async with self.ingest.turns[name]:
            await self.records.collections.delete(name)
            for model in collection.models:
                await self.index.drop(name, model)

    async def change_model(self, name: str, model: str) -> LiveJob | None:
        """Have another model's vectors be made; None where it is this one's already."""
        collection = await self.records.collections.get(name)
        wanted, next_ = (await self._resolve(model)).id, collection.next_model
        if any(live.job.kind == "embed" for live in self.jobs.at_work(name)):
            if wanted == next_:
                return None
            raise Conflict(f"{next_} is on its way: cancel that job first")
        if next_ not in (None, wanted):  # what a job left that failed
            await self._reembed.abandon(name, next_)
        if wanted == collection.model:
            return None
        await self.records.collections.update(name, {"next_model": wanted})
        return await self.begin("embed", name)

    async def rebuild(self, name: str) -> LiveJob:
        """Make the index of a collection anew."""
        await self.records.collections.get(name)
        return await self.begin("index", name)

    async def _rebuild(self, live: LiveJob) -> None:
        collection = await self.records.collections.get(live.job.collection)
        live.job.total = len(collection.models)
        for model in collection.models:
            await self.index.rebuild(collection.name, model)
            live.job.count("rebuilt")
            self.jobs.told(live)

    # ---- documents ------------------------------------------------------------------------------
    async def begin(self, kind: JobKind, collection: str) -> LiveJob:
        """A job without documents of its own."""
        job = Job.new(kind, collection, self.records.writer)
        await self.records.jobs.create(job)
        return self.jobs.begin(job, self._work[kind])

    async def add(self, collection: str, documents: Sequence[Incoming]) -> LiveJob:
        """Take documents on: they are on the disk when this returns."""
        job = Job.new("documents", collection, self.records.writer, len(documents))
        last = {document.source: document for document in documents}  # it counts
        kept = [document for document in documents if last[document.source] is document]
        if len(kept) < len(documents):
            job.count("replaced", len(documents) - len(kept))
        for document in kept:
            document.job_id, document.collection = job.id, collection
        await self.records.jobs.create(job, kept)
        return self.jobs.begin(job, self.ingest.work)

    async def add_folder(
        self, collection: str, path: str, patterns: list[str], *, watch: bool, every_s: float
    ) -> tuple[Folder, LiveJob]:
        """Read a folder, now and, with `watch`, whenever its files change."""
        folder = Folder(new_id("dir"), collection, path, patterns, watch, every_s, None, time())
        kept = await self.records.collections.put_folder(folder)
        live = await self.folders.scan(kept)
        if watch:
            self.folders.watch()
        return kept, live

    # ---- telling --------------------------------------------------------------------------------
    def _tell_job(self, job: Job) -> None:
        self._journal.note("job", job.id, JobInfo.of(job), passing=job.state == "running")

    def _tell_came(self, document: Document, new: bool) -> None:
        self._note(document, "added" if new else "updated")
        if self.on_document:
            self.on_document(document)

    def _tell_gone(self, document: Document) -> None:
        self._note(document, "deleted")

    def _note(self, document: Document, state: Any) -> None:
        change = DocumentChange(
            document=document.id, collection=document.collection, state=state,
            title=document.title, source=document.source,
        )  # fmt: skip
        self.tally.documents[state] += 1
        self._journal.note("document", document.id, change)
