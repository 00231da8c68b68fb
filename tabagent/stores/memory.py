"""What is known beside what was said: vectors of messages, names in texts, summaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy import and_, delete, func, insert, or_, select, update

from tabagent.stores import tables as t
from tabagent.stores.database import Database
from tabagent.stores.durable import durably
from tabagent.stores.kept_vectors import KeptVectors
from tabagent.stores.session_rows import MESSAGE
from tabagent.stores.shapes import Message
from tabagent.stores.unread import READ

VECTORS: Final = KeptVectors(t.message_vectors, t.messages)
COMMON: Final = 50  # what so many name links nothing
Name = tuple[str, str]
"""(label, name)."""


class MemoryStore:
    """Of all sessions and documents."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ---- messages -------------------------------------------------------------------------------
    async def unread(self, most: int) -> list[Message]:
        """Messages that have not been looked at, in order."""
        query = (
            select(*MESSAGE)
            .join(t.unread_messages, t.unread_messages.c.message == t.messages.c.number)
            .order_by(t.messages.c.number)
            .limit(most)
        )
        async with self._database.reading() as connection:
            return [Message(*tuple(row)) for row in await connection.execute(query)]

    async def waiting(self) -> int:
        """How many they are."""
        async with self._database.reading() as connection:
            count = select(func.count()).select_from(t.unread_messages)
            return int(await connection.scalar(count) or 0)

    async def save_vectors(
        self, messages: Sequence[Message], model: str, vectors: Sequence[bytes]
    ) -> None:
        """Of messages that are still there."""

        async def write() -> None:
            made = {m.number: vector for m, vector in zip(messages, vectors, strict=True)}
            async with self._database.writing() as connection:
                await VECTORS.replace(connection, model, made)

        await durably(write())

    async def read_messages(self, messages: Sequence[Message]) -> None:
        """They have been looked at."""

        async def write() -> None:
            numbers = [m.number for m in messages]
            async with self._database.writing() as connection:
                await connection.execute(
                    delete(t.unread_messages).where(t.unread_messages.c.message.in_(numbers))
                )

        await durably(write())

    async def read_anew(self) -> None:
        """Look at all messages again, as with another model."""

        async def write() -> None:
            async with self._database.writing() as connection:
                await connection.execute(delete(t.unread_messages))
                c = t.messages.c
                every = select(c.number).where(c.role.in_(READ), c.status != "pending")
                await connection.execute(insert(t.unread_messages).from_select(["message"], every))
                await connection.execute(delete(t.message_vectors))

        await durably(write())

    async def numbers(self, model: str) -> list[int]:
        """Messages that have this model's vectors, in order."""
        v = t.message_vectors.c
        async with self._database.reading() as connection:
            rows = await connection.execute(
                select(v.message).where(v.model == model).order_by(v.message)
            )
            return [number for (number,) in rows]

    async def vectors(self, numbers: Sequence[int], model: str) -> dict[int, bytes]:
        """Vectors of messages, by their numbers."""
        async with self._database.reading() as connection:
            return await VECTORS.get(connection, numbers, model)

    async def summarise(self, session_id: str, summary: str, until: int) -> None:
        """Keep what a session's messages up to a number amount to."""

        async def write() -> None:
            async with self._database.writing() as connection:
                await connection.execute(
                    update(t.sessions)
                    .where(t.sessions.c.id == session_id)
                    .values(summary=summary, summary_until=until)
                )

        await durably(write())

    # ---- documents ------------------------------------------------------------------------------
    async def unread_documents(self, most: int) -> list[str]:
        async with self._database.reading() as connection:
            rows = await connection.execute(select(t.unread_documents.c.document).limit(most))
            return [document for (document,) in rows]

    async def read_document(self, document_id: str) -> None:
        async def write() -> None:
            async with self._database.writing() as connection:
                c = t.unread_documents.c
                await connection.execute(
                    delete(t.unread_documents).where(c.document == document_id)
                )

        await durably(write())

    # ---- names ----------------------------------------------------------------------------------
    async def name(self, about: str, item: str, names: Mapping[Name, int]) -> None:
        """What a text names, and how often; what was noted of it before goes."""

        async def write() -> None:
            async with self._database.writing() as connection:
                c = t.entities.c
                await connection.execute(delete(t.entities).where(c.about == about, c.item == item))
                rows = [
                    {"about": about, "item": item, "label": label, "name": name, "times": times}
                    for (label, name), times in names.items()
                ]
                if rows:
                    await connection.execute(insert(t.entities), rows)

        await durably(write())

    async def names(self, about: str, item: str) -> list[Name]:
        c = t.entities.c
        async with self._database.reading() as connection:
            rows = await connection.execute(
                select(c.label, c.name).where(c.about == about, c.item == item)
            )
            return [(label, name) for label, name in rows]

    async def sharing(
        self, about: str, item: str, most: int
    ) -> list[tuple[str, str, str, str, int]]:
        """(kind, id, label, name, how many name it) of others that name what this names.

        What very many name says nothing, and is left out. The rarest first.
        """
        names = await self.names(about, item)
        if not names:
            return []
        c = t.entities.c
        async with self._database.reading() as connection:
            counted = (
                select(c.label, c.name, func.count().label("shared"))
                .where(or_(*(and_(c.label == la, c.name == n) for la, n in names[:100])))
                .group_by(c.label, c.name)
                .having(func.count() <= COMMON)
                .subquery()
            )
            rows = await connection.execute(
                select(c.about, c.item, c.label, c.name, counted.c.shared)
                .join(counted, and_(counted.c.label == c.label, counted.c.name == c.name))
                .where(or_(c.about != about, c.item != item))
                .order_by(counted.c.shared, c.name)
                .limit(most)
            )
            return [(row[0], row[1], row[2], row[3], int(row[4])) for row in rows]
