"""Another model for a collection: its vectors are made behind, then searched from one moment on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from tabagent.retrieval.embedding import PatientEmbedder
from tabagent.retrieval.entries import entry, reading
from tabagent.retrieval.index import Index
from tabagent.retrieval.ingest import Ingest
from tabagent.retrieval.jobs import Jobs, LiveJob
from tabagent.stores.records import Records
from tabagent.stores.vectors import Entry

BATCH: Final = 256  # chunks


class ChunkRecord:
    """What the index of documents should hold, as the database has it."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def numbers(self, subject: str, model: str) -> list[int]:
        return await self._records.documents.numbers(subject, model)

    async def entries(self, numbers: Sequence[int], model: str) -> list[Entry]:
        documents = self._records.documents
        passages = await documents.passages(numbers)
        vectors = await documents.vectors(list(passages), model)
        return [
            entry(p.document, p.chunk, vectors[number])
            for number, p in passages.items()
            if number in vectors
        ]


class Reembed:
    """Makes the vectors of a collection's next model, also after a kill."""

    def __init__(
        self,
        records: Records,
        jobs: Jobs,
        embedder: PatientEmbedder,
        index: Index,
        ingest: Ingest,
    ) -> None:
        self._records, self._jobs, self._embedder = records, jobs, embedder
        self._index, self._ingest = index, ingest

    async def work(self, live: LiveJob) -> None:
        name = live.job.collection
        collection = await self._records.collections.get(name)
        model = collection.next_model
        if model is None:
            return
        try:
            await self._work(live, collection.model, model)
        except asyncio.CancelledError:
            if not live.running:  # a caller's wish, not the server's end
                await self.abandon(name, model)
            raise

    async def abandon(self, name: str, next_model: str) -> None:
        """Stay with the model that there is, unless it was left a moment ago."""
        async with self._ingest.turns[name]:
            if await self._records.collections.abandon(name, next_model):
                await self._index.drop(name, next_model)

    async def _work(self, live: LiveJob, now: str, model: str) -> None:
        name = live.job.collection
        _, live.job.total = (await self._records.collections.counts()).get(name, (0, 0))
        while await self._some(live, model):
            pass
        async with self._ingest.turns[name]:  # nothing comes in between
            while await self._some(live, model):
                pass
            await self._index.made(name, model)
            await self._records.collections.switch(name, model)
            await self._index.drop(name, now)

    async def _some(self, live: LiveJob, model: str) -> int:
        documents = self._records.documents
        numbers = await documents.without_vectors(live.job.collection, model, 0, BATCH)
        passages = await documents.passages(numbers)
        texts = [reading(p.document, p.chunk) for p in passages.values()]
        made = await self._embedder.passages(model, texts)
        vectors = dict(zip(passages, made, strict=True))
        await documents.save_vectors(model, vectors)
        entries = [entry(p.document, p.chunk, vectors[n]) for n, p in passages.items()]
        await self._index.change(live.job.collection, model, entries, [])
        live.job.count("embedded", len(numbers))
        self._jobs.told(live)
        return len(numbers)
