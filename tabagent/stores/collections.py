"""Collections and the folders that feed them, in the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from time import time
from typing import Any, Final

from sqlalchemy import delete, func, insert, select, update

from tabagent.errors import CollectionNotFound, Conflict, NotFound
from tabagent.stores import tables as t
from tabagent.stores.database import Database
from tabagent.stores.durable import durably
from tabagent.stores.papers import Collection, Folder

COLLECTION: Final = [getattr(t.collections.c, f.name) for f in fields(Collection)]
FOLDER: Final = [getattr(t.folders.c, f.name) for f in fields(Folder)]


class CollectionStore:
    """Collections by their names."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, collection: Collection) -> None:
        """Raises Conflict when the name is taken."""

        async def write() -> None:
            async with self._database.writing() as connection:
                c = t.collections.c
                if await connection.scalar(select(c.name).where(c.name == collection.name)):
                    raise Conflict(f"there is a collection {collection.name} already")
                await connection.execute(insert(t.collections).values(**asdict(collection)))

        await durably(write())

    async def find(self, name: str) -> Collection | None:
        async with self._database.reading() as connection:
            query = select(*COLLECTION).where(t.collections.c.name == name)
            row = (await connection.execute(query)).first()
            return Collection(*tuple(row)) if row else None

    async def named(self, names: Sequence[str]) -> dict[str, Collection]:
        """Those of these that there are."""
        if not self._database.made:
            return {}
        async with self._database.reading() as connection:
            query = select(*COLLECTION).where(t.collections.c.name.in_(names))
            return {row[0]: Collection(*tuple(row)) for row in await connection.execute(query)}

    async def get(self, name: str) -> Collection:
        """Raises CollectionNotFound."""
        found = await self.find(name)
        if found is None:
            raise CollectionNotFound(f"there is no collection {name}", param="collection")
        return found

    async def all(self) -> list[Collection]:
        if not self._database.made:
            return []
        async with self._database.reading() as connection:
            rows = await connection.execute(select(*COLLECTION).order_by(t.collections.c.name))
            return [Collection(*tuple(row)) for row in rows]

    async def counts(self) -> dict[str, tuple[int, int]]:
        """(documents, chunks) by collection, where there are any."""
        c = t.documents.c
        query = select(c.collection, func.count(), func.sum(c.chunk_count)).group_by(c.collection)
        async with self._database.reading() as connection:
            rows = await connection.execute(query)
            return {name: (int(documents), int(chunks or 0)) for name, documents, chunks in rows}

    async def update(self, name: str, changes: dict[str, Any]) -> Collection:
        """Raises CollectionNotFound."""

        async def write() -> None:
            async with self._database.writing() as connection:
                where = t.collections.c.name == name
                if changes:
                    await connection.execute(update(t.collections).where(where).values(**changes))

        await durably(write())
        return await self.get(name)

    async def delete(self, name: str) -> None:
        """With everything in it. Raises CollectionNotFound."""

        async def write() -> None:
            async with self._database.writing() as connection:
                gone = await connection.execute(
                    delete(t.collections).where(t.collections.c.name == name)
                )
                if not gone.rowcount:
                    raise CollectionNotFound(f"there is no collection {name}", param="collection")
                await connection.execute(delete(t.jobs).where(t.jobs.c.collection == name))

        await durably(write())

    async def switch(self, name: str, model: str) -> None:
        """Search this model's vectors from now on, and forget those of others."""

        async def write() -> None:
            async with self._database.writing() as connection:
                await connection.execute(
                    update(t.collections)
                    .where(t.collections.c.name == name)
                    .values(model=model, next_model=None)
                )
                numbers = select(t.chunks.c.number).where(t.chunks.c.collection == name)
                await connection.execute(
                    delete(t.vectors).where(
                        t.vectors.c.chunk.in_(numbers), t.vectors.c.model != model
                    )
                )

        await durably(write())

    async def abandon(self, name: str, next_model: str) -> bool:
        """Make no more vectors of this model. False where it is not the next one (any more)."""

        async def write() -> bool:
            async with self._database.writing() as connection:
                c = t.collections.c
                done = await connection.execute(
                    update(t.collections)
                    .where(c.name == name, c.next_model == next_model, c.model != next_model)
                    .values(next_model=None)
                )
                if not done.rowcount:
                    return False
                numbers = select(t.chunks.c.number).where(t.chunks.c.collection == name)
                await connection.execute(
                    delete(t.vectors).where(
                        t.vectors.c.chunk.in_(numbers), t.vectors.c.model == next_model
                    )
                )
                return True

        return await durably(write())

    # ---- folders --------------------------------------------------------------------------------
    async def put_folder(self, folder: Folder) -> Folder:
        """Save a folder; one that is there for this collection is changed."""

        async def write() -> Folder:
            async with self._database.writing() as connection:
                c = t.folders.c
                here = (c.collection == folder.collection, c.path == folder.path)
                id_ = await connection.scalar(select(c.id).where(*here))
                values = asdict(folder)
                if id_ is None:
                    await connection.execute(insert(t.folders).values(**values))
                else:
                    kept = {"id", "scanned_at", "created_at"}
                    await connection.execute(
                        update(t.folders)
                        .where(*here)
                        .values(**{k: v for k, v in values.items() if k not in kept})
                    )
                query = select(*FOLDER).where(*here)
                return Folder(*tuple((await connection.execute(query)).one()))

        return await durably(write())

    async def folders(self) -> list[Folder]:
        if not self._database.made:
            return []
        async with self._database.reading() as connection:
            rows = await connection.execute(select(*FOLDER).order_by(t.folders.c.created_at))
            return [Folder(*tuple(row)) for row in rows]

    async def folder(self, folder_id: str) -> Folder:
        """Raises NotFound."""
        found = next((f for f in await self.folders() if f.id == folder_id), None)
        if found is None:
            raise NotFound(f"there is no folder {folder_id}")
        return found

    async def scanned(self, folder_id: str) -> None:
        async def write() -> None:
            async with self._database.writing() as connection:
                await connection.execute(
                    update(t.folders).where(t.folders.c.id == folder_id).values(scanned_at=time())
                )

        await durably(write())

    async def forget_folder(self, folder_id: str) -> list[int]:
        """Delete a folder and what was read from it. Returns the numbers of the chunks."""

        async def write() -> list[int]:
            async with self._database.writing() as connection:
                documents = select(t.documents.c.id).where(t.documents.c.folder_id == folder_id)
                rows = await connection.execute(
                    select(t.chunks.c.number).where(t.chunks.c.document_id.in_(documents))
                )
                numbers = [row.number for row in rows]
                await connection.execute(delete(t.folders).where(t.folders.c.id == folder_id))
                return numbers

        return await durably(write())

    async def stats(self, folder_id: str) -> dict[str, tuple[str, str]]:
        """(document's id, size and time) of each file that was read from a folder, by source."""
        c = t.documents.c
        async with self._database.reading() as connection:
            rows: Sequence[Any] = (
                await connection.execute(
                    select(c.source, c.id, c.stat).where(c.folder_id == folder_id)
                )
            ).all()
            return {source: (id_, stat) for source, id_, stat in rows}
