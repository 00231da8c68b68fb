"""Vectors of messages, and the messages that are near a question or another message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from tabagent.catalog.models import Model
from tabagent.errors import EmbeddingModelNotAvailable, ModelNotFound, WrongModelTask
from tabagent.retrieval.embedding import PatientEmbedder
from tabagent.retrieval.index import Hits, Index
from tabagent.stores.records import Records
from tabagent.stores.settings import SavedSettings
from tabagent.stores.shapes import Message
from tabagent.stores.vectors import Entry, Filter, VectorStore

SUBJECT: Final = "_messages"
"""Of the index; no collection can have this name."""
MODEL: Final = "memory_model"  # the setting that says whose vectors there are
LONGEST: Final = 20_000  # characters of a message that are embedded


class MessageRecord:
    """What the index of messages should hold, as the database has it."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def numbers(self, subject: str, model: str) -> list[int]:
        return await self._records.memory.numbers(model)

    async def entries(self, numbers: Sequence[int], model: str) -> list[Entry]:
        rows = await self._records.messages.by_numbers(numbers)
        vectors = await self._records.memory.vectors(list(rows), model)
        return [entry(row[0], vectors[n]) for n, row in rows.items() if n in vectors]


def entry(message: Message, vector: bytes) -> Entry:
    """Its words are found in the database, at once; here it is its meaning alone."""
    return Entry(
        number=message.number, vector=vector, words="", owner=message.session_id,
        kind=message.role, host="", tags=(), created_at=message.created_at,
        updated_at=message.created_at,
    )  # fmt: skip


class Meaning:
    """`resolve` finds the embedding model; `on` is whether vectors are made at all."""

    def __init__(
        self,
        records: Records,
        saved: SavedSettings,
        vectors: VectorStore,
        embedder: PatientEmbedder,
        resolve: Callable[[str | None], Awaitable[Model]],
        *,
        on: bool,
    ) -> None:
        self._records, self._saved, self._embedder = records, saved, embedder
        self._resolve, self._on = resolve, on
        self.index = Index(vectors, MessageRecord(records))

    async def model(self) -> str | None:
        """Whose vectors there are; None where none are made."""
        if not self._on:
            return None
        try:
            return (await self._resolve(None)).id
        except (EmbeddingModelNotAvailable, ModelNotFound, WrongModelTask):
            return None

    async def begin(self) -> str | None:
        """The model; where it is another than before, all messages are to be read anew."""
        model = await self.model()
        before = self._saved.get(MODEL)
        if model is None or model == before:
            return model
        if before is not None:
            await self._records.memory.read_anew()
            await self.index.drop(SUBJECT, before)
        await self._saved.set(MODEL, model)
        return model

    async def read(self, model: str, messages: Sequence[Message]) -> list[bytes]:
        """Their vectors."""
        return await self._embedder.passages(model, [m.text[:LONGEST] for m in messages])

    async def put(
        self,
        model: str,
        messages: Sequence[Message],
        vectors: Sequence[bytes],
        known: Sequence[int],
    ) -> None:
        """Into the index; `known` are those that it had before."""
        entries = [entry(m, v) for m, v in zip(messages, vectors, strict=True)]
        await self.index.change(SUBJECT, model, entries, known)

    async def forget(self, session_id: str) -> None:
        if (model := self._saved.get(MODEL)) is not None:
            await self.index.forget_owner(SUBJECT, model, session_id)

    async def near(self, vector: bytes, most: int, session_id: str | None = None) -> Hits:
        """Messages by the cosine of their vectors with this one."""
        import numpy as np

        model = self._saved.get(MODEL)
        if model is None:
            return []
        where = Filter(owners=[session_id] if session_id else [])
        asked = np.frombuffer(vector, np.dtype("<f4"))
        return await self.index.nearest(SUBJECT, model, asked, most, where)

    async def find(self, query: str, most: int, session_id: str | None) -> tuple[Hits, int] | None:
        """(messages that mean something like this, how many have no vector yet).

        None where no vectors are made.
        """
        model = await self.model()
        if model is None:
            return None
        if not self._records.database.made:
            return [], 0
        if self._saved.get(MODEL) != model:
            return [], await self._records.memory.waiting()
        vector = await self._embedder.query(model, query)
        hits = await self.near(vector, most, session_id)
        return hits, await self._records.memory.waiting()
