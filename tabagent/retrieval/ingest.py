"""Documents on their way into a collection: read, embedded, saved, indexed.

While one group is embedded the next is read by the child and the one before is saved. A document is
replaced in one transaction, which also says how far the job is: whatever ends the server, each
document is wholly there as it was or as it is.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any, Final

import msgspec

from tabagent import errors
from tabagent.catalog.models import Model
from tabagent.errors import TabAgentError
from tabagent.paper import Kind, Paper, Splitting
from tabagent.retrieval.embedding import PatientEmbedder
from tabagent.retrieval.entries import entry, reading
from tabagent.retrieval.index import Index
from tabagent.retrieval.jobs import Jobs, LiveJob
from tabagent.retrieval.kinds import kind_of
from tabagent.retrieval.reader import Reader
from tabagent.retrieval.splitting import splitting_of
from tabagent.stores.ids import new_id
from tabagent.stores.papers import Chunk, Collection, Document, Fresh, Incoming
from tabagent.stores.records import Records

PAGE: Final = 64  # rows of `incoming` that are looked at together
AHEAD: Final = 8  # documents that are read before they are embedded
GROUP: Final = 256  # chunks that are embedded together
FLIGHTS: Final = 1  # groups that are embedded beside one: the worker never waits for the next
LISTED: Final = 64  # documents of one transaction
OURS: Final = (
    errors.NotFound, errors.Unavailable, errors.OutOfResources, errors.InternalError,
    errors.WrongModelTask, errors.ModelCorrupt, errors.UnsupportedModel,
)  # fmt: skip
"""What is no document's fault: the job fails, and says why."""

Resolve = Callable[[str], Awaitable[Model]]
Problem = dict[str, Any]
Tell = Callable[[Document, bool], None]


@dataclass(slots=True)
class _Read:
    """A document that was read, and how it came in."""

    incoming: Incoming
    hash: str
    kind: Kind
    size: int
    paper: Paper


class Ingest:
    """`resolve` finds the model of a collection; `tell` hears of every document that came in."""

    def __init__(
        self,
        records: Records,
        jobs: Jobs,
        reader: Reader,
        embedder: PatientEmbedder,
        index: Index,
        *,
        resolve: Resolve,
        tell: Tell,
    ) -> None:
        self._records, self._jobs, self._reader = records, jobs, reader
        self._embedder, self._index = embedder, index
        self._resolve, self._tell = resolve, tell
        # Files that cannot be read as they are: (their stat, why; None for what is not read at all).
        self.refused: dict[tuple[str, str], tuple[str, Problem | None]] = {}
        self.turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # by collection

    async def work(self, live: LiveJob) -> None:
        """Take in all that a job has waiting, in its order."""
        collection = await self._records.collections.get(live.job.collection)
        model = await self._resolve(collection.model)
        splitting = splitting_of(collection, model)
        queue: asyncio.Queue[_Read | None] = asyncio.Queue(AHEAD)
        reading = asyncio.create_task(self._read_all(live, splitting, queue))
        embedding: deque[asyncio.Task[list[Fresh]]] = deque()
        saving: asyncio.Task[None] | None = None

        async def save_first() -> None:
            nonlocal saving
            fresh = await embedding.popleft()
            if saving:
                await saving
            saving = asyncio.create_task(self._save(live, fresh))

        try:
            ended = False
            while not ended:
                group, ended = await _gather(queue)
                embedding.append(asyncio.create_task(self._embed(live, group)))
                if len(embedding) > FLIGHTS:
                    await save_first()
            while embedding:
                await save_first()
            if saving:
                await saving
            await reading  # raises what it died of
            for name in (await self._records.collections.get(collection.name)).models:
                await self._index.settle(collection.name, name)
        finally:
            for task in (reading, *embedding, saving):
                if task and task is not saving:
                    task.cancel()
            for task in (reading, *embedding, saving):
                if task:
                    with suppress(asyncio.CancelledError, Exception):
                        await task

    # ---- reading --------------------------------------------------------------------------------
    async def _read_all(
        self, live: LiveJob, splitting: Splitting, queue: asyncio.Queue[_Read | None]
    ) -> None:
        try:
            await self._read_rows(live, splitting, queue)
        except asyncio.CancelledError:
            raise  # nobody takes from the queue any more
        except BaseException:
            await queue.put(None)
            raise
        await queue.put(None)

    async def _read_rows(
        self, live: LiveJob, splitting: Splitting, queue: asyncio.Queue[_Read | None]
    ) -> None:
        after = 0
        while rows := await self._records.jobs.waiting(live.job.id, after, PAGE):
            for row in rows:
                after = row.number
                try:
                    found = await self._read(live, row, splitting)
                except TabAgentError as error:
                    if isinstance(error, OURS):
                        raise
                    live.job.fail(row.source, told(error))
                    await self._pass(live, row, "failed")
                    continue
                if found is not None:
                    await queue.put(found)

    async def _read(self, live: LiveJob, row: Incoming, splitting: Splitting) -> _Read | None:
        """None where nothing is to be done."""
        if row.path is not None:
            data = await asyncio.to_thread(_file, Path(row.path), self._reader.upload)
        else:
            data = await self._records.jobs.data(row.number)
        kind = row.kind or kind_of(row.source, "", data)
        if kind is None:
            self._refuse(row, None)
            await self._pass(live, row, "skipped")
            return None
        digest = _digest(data, row, kind, splitting)
        known = await self._records.documents.by_source(row.collection, row.source)
        if known and known.hash == digest:
            if known.stat != row.stat:
                await self._records.documents.touch(known.id, row.stat)
            await self._pass(live, row, "unchanged")
            return None
        url = row.source if "://" in row.source else ""
        try:
            paper = await self._reader.read(data, _kind(kind), splitting, url=url)
        except (errors.DocumentUnreadable, errors.PayloadTooLarge) as error:
            self._refuse(row, told(error))
            raise
        return _Read(row, digest, _kind(kind), len(data), paper)

    def _refuse(self, row: Incoming, problem: Problem | None) -> None:
        if row.path is not None:
            self.refused[row.collection, row.source] = row.stat, problem

    async def _pass(self, live: LiveJob, row: Incoming, outcome: str) -> None:
        await self._records.jobs.passed(live.job, row.number, outcome)
        self._jobs.tally.documents[outcome] += 1
        self._jobs.told(live)

    # ---- embedding ------------------------------------------------------------------------------
    async def _embed(self, live: LiveJob, group: Sequence[_Read]) -> list[Fresh]:
        if not group:
            return []
        collection = await self._records.collections.get(live.job.collection)
        try:
            return await self._embedded(collection, group)
        except TabAgentError as error:
            if isinstance(error, OURS) and not isinstance(error, errors.WorkerCrashed):
                raise
            if len(group) == 1:
                live.job.fail(group[0].incoming.source, told(error))
                await self._pass(live, group[0].incoming, "failed")
                return []
        return [f for one in group for f in await self._embed(live, [one])]

    async def _embedded(self, collection: Collection, group: Sequence[_Read]) -> list[Fresh]:
        fresh = [await self._fresh(collection, one) for one in group]
        for model in collection.models:
            try:
                await self._complete(fresh, model)
            except TabAgentError:
                if model == collection.model:
                    raise
                for f in fresh:  # the job that makes this model's vectors comes to them
                    del f.vectors[model]
        return fresh

    async def _complete(self, fresh: Sequence[Fresh], model: str) -> None:
        """Have a vector by this model for every chunk."""
        for f in fresh:
            f.vectors.setdefault(model, [b""] * len(f.chunks))
        wanted = [(f, i) for f in fresh for i, v in enumerate(f.vectors[model]) if not v]
        texts = [reading(f.document, f.chunks[i]) for f, i in wanted]
        made = await self._embedder.passages(model, texts)
        for (f, i), vector in zip(wanted, made, strict=True):
            f.vectors[model][i] = vector

    async def _fresh(self, collection: Collection, read: _Read) -> Fresh:
        """The document as it will be; chunks that it had before keep their vectors."""
        row, paper, now = read.incoming, read.paper, time()
        known = await self._records.documents.by_source(collection.name, row.source)
        document = Document(
            id=known.id if known else new_id("doc"),
            collection=collection.name,
            source=row.source,
            folder_id=row.folder_id,
            title=row.title or paper.title or _name(row.source),
            kind=read.kind,
            hash=read.hash,
            stat=row.stat,
            version=known.version + 1 if known else 1,
            size_bytes=read.size,
            tags=row.tags,
            metadata=row.metadata,
            chunk_count=len(paper.chunks),
            created_at=known.created_at if known else now,
            updated_at=now,
            text=paper.text,
            links=[[link.url, link.text] for link in paper.links],
            pages=paper.pages,
        )
        chunks = [
            Chunk(document.id, collection.name, ordinal, c.start, c.end, c.tokens, c.headings,
                  paper.text[c.start : c.end])
            for ordinal, c in enumerate(paper.chunks)
        ]  # fmt: skip
        old = await self._records.documents.chunks(document.id) if known else []
        vectors: dict[str, list[bytes]] = {}
        for model in collection.models:
            made = await self._records.documents.vectors([c.number for c in old], model)
            by_text = {reading(known, c): made[c.number] for c in old if known and c.number in made}
            vectors[model] = [by_text.get(reading(document, c), b"") for c in chunks]
        return Fresh(document, chunks, vectors, row.number, known is None)

    # ---- saving ---------------------------------------------------------------------------------
    async def _save(self, live: LiveJob, fresh: Sequence[Fresh]) -> None:
        for start in range(0, len(fresh), LISTED):
            await self._save_some(live, fresh[start : start + LISTED])

    async def _save_some(self, live: LiveJob, fresh: Sequence[Fresh]) -> None:
        job, documents = live.job, self._records.documents
        async with self.turns[job.collection]:
            collection = await self._records.collections.get(job.collection)
            # While it was embedded another model may have taken the place of the one that did.
            await self._complete(fresh, collection.model)
            for f in fresh:
                f.vectors = {m: v for m, v in f.vectors.items() if m in collection.models}
                known = await documents.by_source(job.collection, f.document.source)
                if known and known.id != f.document.id:  # another job was faster
                    f.document.id, f.new = known.id, False
                    for chunk in f.chunks:
                        chunk.document_id = known.id
                f.new = known is None
                f.document.version = known.version + 1 if known else 1
            gone = await documents.replace(fresh, job)
            for model in collection.models:
                entries = [
                    entry(f.document, chunk, vector)
                    for f in fresh
                    for chunk, vector in zip(f.chunks, f.vectors.get(model, []), strict=False)
                ]
                await self._index.change(collection.name, model, entries, gone)
        for f in fresh:
            self._tell(f.document, f.new)
        self._jobs.told(live)


async def _gather(queue: asyncio.Queue[_Read | None]) -> tuple[list[_Read], bool]:
    """(what has been read by now, about as much as is embedded at once; whether it was the last)."""
    group: list[_Read] = []
    chunks = 0
    while chunks < GROUP:
        if group and queue.empty():
            return group, False
        found = await queue.get()
        if found is None:
            return group, True
        group.append(found)
        chunks += len(found.paper.chunks)
    return group, False


def _digest(data: bytes, row: Incoming, kind: str, splitting: Splitting) -> str:
    about = [kind, row.title, row.tags, row.metadata, msgspec.to_builtins(splitting)]
    return hashlib.sha256(msgspec.json.encode(about, order="sorted") + b"\0" + data).hexdigest()


def _file(path: Path, most: int) -> bytes:
    """Raises DocumentUnreadable, PayloadTooLarge."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise errors.DocumentUnreadable(f"the file cannot be read: {error.strerror}") from error
    if len(data) > most:
        raise errors.PayloadTooLarge(f"the file is over {most:,} bytes", limit_bytes=most)
    return data


def _kind(kind: str) -> Kind:
    return kind  # type: ignore[return-value]  # checked when it came in


def _name(source: str) -> str:
    return source.rstrip("/").replace("\\", "/").rpartition("/")[2] or source


def told(error: TabAgentError) -> Problem:
    """A problem as a job keeps it."""
    return {"code": error.slug, "detail": error.detail, **error.members}
