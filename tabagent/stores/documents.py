"""Documents and their chunks in the database: replaced as a whole, never half."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Final

from sqlalchemy import and_, delete, insert, or_, select, update

from tabagent.errors import DocumentNotFound
from tabagent.stores import tables as t
from tabagent.stores.connection import Connection
from tabagent.stores.cursors import before, cursor
from tabagent.stores.database import Database
from tabagent.stores.durable import durably
from tabagent.stores.jobs import counted, note
from tabagent.stores.kept_vectors import AT_ONCE, KeptVectors
from tabagent.stores.papers import Chunk, Document, Fresh, Job, Passage
from tabagent.stores.sessions import escaped
from tabagent.stores.unread import note_document

LISTED: Final = [
    getattr(t.documents.c, f.name)
    for f in fields(Document)
    if f.name not in ("text", "links", "pages")
]
WHOLE: Final = [*LISTED, t.documents.c.text, t.documents.c.links, t.documents.c.pages]
VECTORS: Final = KeptVectors(t.vectors, t.chunks)
CHUNK: Final = [getattr(t.chunks.c, f.name) for f in fields(Chunk)]


class DocumentStore:
    """Documents of all collections."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ---- reading --------------------------------------------------------------------------------
    async def get(self, document_id: str) -> Document:
        """With its text. Raises DocumentNotFound."""
        async with self._database.reading() as connection:
            query = select(*WHOLE).where(t.documents.c.id == document_id)
            row = (await connection.execute(query)).first()
        if row is None:
            raise DocumentNotFound(f"there is no document {document_id}")
        return Document(*tuple(row))

    async def find(self, document_id: str) -> Document | None:
        """Without its text."""
        async with self._database.reading() as connection:
            query = select(*LISTED).where(t.documents.c.id == document_id)
            row = (await connection.execute(query)).first()
            return Document(*tuple(row)) if row else None

    async def by_source(self, collection: str, source: str) -> Document | None:
        """Without its text."""
        c = t.documents.c
        async with self._database.reading() as connection:
            query = select(*LISTED).where(c.collection == collection, c.source == source)
            row = (await connection.execute(query)).first()
            return Document(*tuple(row)) if row else None

    async def page(
        self, collection: str | None, search: str | None, after: str | None, limit: int
    ) -> tuple[list[Document], str | None]:
        """(documents without their texts, the last changed first; the cursor of the next page)."""
        c = t.documents.c
        query = select(*LISTED)
        if collection is not None:
            query = query.where(c.collection == collection)
        if search:
            like = f"%{escaped(search)}%"
            query = query.where(
                or_(c.title.ilike(like, escape="\\"), c.source.ilike(like, escape="\\"))
            )
        query = query.where(*before(after, c.updated_at, c.id))
        query = query.order_by(c.updated_at.desc(), c.id.desc()).limit(limit + 1)
        async with self._database.reading() as connection:
            rows = [Document(*tuple(row)) for row in await connection.execute(query)]
        page = rows[:limit]
        more = len(rows) > limit
        return page, cursor(page[-1].updated_at, page[-1].id) if more else None

    async def chunks(self, document_id: str) -> list[Chunk]:
        """In the order of the text."""
        c = t.chunks.c
        query = select(*CHUNK).where(c.document_id == document_id).order_by(c.ordinal)
        async with self._database.reading() as connection:
            return [Chunk(*tuple(row)) for row in await connection.execute(query)]

    async def passages(self, numbers: Sequence[int]) -> dict[int, Passage]:
        """Chunks with their documents, by their numbers: those that are there."""
        c, d = t.chunks.c, t.documents.c
        query = (
            select(*CHUNK, *LISTED)
            .join(t.documents, d.id == c.document_id)
            .where(c.number.in_(numbers))
        )
        width = len(CHUNK)
        async with self._database.reading() as connection:
            found = {}
            for row in await connection.execute(query):
                values = tuple(row)
                chunk = Chunk(*values[:width])
                found[chunk.number] = Passage(chunk, Document(*values[width:]))
            return found

    # ---- writing --------------------------------------------------------------------------------
    async def replace(self, fresh: Sequence[Fresh], job: Job) -> list[int]:
        """Put documents in the place of what they were, in one transaction with the job's progress.

        Their chunks get their numbers. Returns the numbers of the chunks that went.
        """

        async def write() -> list[int]:
            async with self._database.writing() as connection:
                gone: list[int] = []
                for one in fresh:
                    gone += await self._replace(connection, one)
                with counted(job, ["added" if one.new else "updated" for one in fresh]):
                    await note(connection, job, [one.incoming for one in fresh])
                return gone

        return await durably(write())

    async def _replace(self, connection: Connection, one: Fresh) -> list[int]:
        document, c = one.document, t.documents.c
        gone = await _numbers(connection, [document.id])
        await connection.execute(delete(t.chunks).where(t.chunks.c.document_id == document.id))
        values = {column.name: getattr(document, column.name) for column in WHOLE}
        if one.new:
            await connection.execute(insert(t.documents).values(**values))
        else:
            await connection.execute(
                update(t.documents).where(c.id == document.id).values(**values)
            )
        await note_document(connection, document.id)
        rows = [
            {f.name: getattr(chunk, f.name) for f in fields(Chunk) if f.name != "number"}
            for chunk in one.chunks
        ]
        if rows:
            await connection.execute(insert(t.chunks), rows)
        query = select(t.chunks.c.number).where(t.chunks.c.document_id == document.id)
        found = await connection.execute(query.order_by(t.chunks.c.ordinal))
        for chunk, (number,) in zip(one.chunks, found, strict=True):
            chunk.number = number
        for model, vectors in one.vectors.items():
            await VECTORS.put(
                connection,
                model,
                {c.number: v for c, v in zip(one.chunks, vectors, strict=True)},
            )
        return gone

    async def touch(self, document_id: str, stat: str) -> None:
        """The file was looked at again and says the same."""

        async def write() -> None:
            async with self._database.writing() as connection:
                await connection.execute(
                    update(t.documents).where(t.documents.c.id == document_id).values(stat=stat)
                )

        await durably(write())

    async def delete(self, document_ids: Sequence[str]) -> tuple[list[Document], list[int]]:
        """(what was there, the numbers of its chunks)."""

        async def write() -> tuple[list[Document], list[int]]:
            async with self._database.writing() as connection:
                there: list[Document] = []
                gone: list[int] = []
                for start in range(0, len(document_ids), AT_ONCE):
                    ids = document_ids[start : start + AT_ONCE]
                    rows = await connection.execute(
                        select(*LISTED).where(t.documents.c.id.in_(ids))
                    )
                    there += [Document(*tuple(row)) for row in rows]
                    gone += await _numbers(connection, ids)
                    await connection.execute(delete(t.documents).where(t.documents.c.id.in_(ids)))
                return there, gone

        return await durably(write())

    # ---- for the index --------------------------------------------------------------------------
    async def numbers(self, collection: str, model: str) -> list[int]:
        """The chunks of a collection that have this model's vectors, in order."""
        c, v = t.chunks.c, t.vectors.c
        query = (
            select(c.number)
            .join(t.vectors, and_(v.chunk == c.number, v.model == model))
            .where(c.collection == collection)
            .order_by(c.number)
        )
        async with self._database.reading() as connection:
            return [number for (number,) in await connection.execute(query)]

    async def without_vectors(
        self, collection: str, model: str, after: int, most: int
    ) -> list[int]:
        """Chunks that this model has not read, in order."""
        c, v = t.chunks.c, t.vectors.c
        query = (
            select(c.number)
            .outerjoin(t.vectors, and_(v.chunk == c.number, v.model == model))
            .where(c.collection == collection, v.chunk.is_(None), c.number > after)
            .order_by(c.number)
            .limit(most)
        )
        async with self._database.reading() as connection:
            return [number for (number,) in await connection.execute(query)]

    async def vectors(self, numbers: Sequence[int], model: str) -> dict[int, bytes]:
        """Vectors of chunks, by their numbers."""
        async with self._database.reading() as connection:
            return await VECTORS.get(connection, numbers, model)

    async def save_vectors(self, model: str, vectors: Mapping[int, bytes]) -> None:
        """Of chunks that are still there."""

        async def write() -> None:
            async with self._database.writing() as connection:
                await VECTORS.replace(connection, model, vectors)

        await durably(write())


async def _numbers(connection: Connection, document_ids: Iterable[str]) -> list[int]:
    query = select(t.chunks.c.number).where(t.chunks.c.document_id.in_(document_ids))
    return [number for (number,) in await connection.execute(query)]
