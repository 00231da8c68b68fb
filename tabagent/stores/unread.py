"""What enrichment has still to look at, noted in the transaction that wrote it."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import insert, select

from tabagent.stores import tables as t
from tabagent.stores.connection import Connection
from tabagent.stores.shapes import Message

READ = ("user", "assistant")


async def note_messages(connection: Connection, messages: Iterable[Message]) -> None:
    """Those that say something, as they will stay."""
    numbers = [
        m.number for m in messages if m.role in READ and m.status != "pending" and m.text.strip()
    ]
    if not numbers:
        return
    c = t.unread_messages.c
    there = await connection.execute(select(c.message).where(c.message.in_(numbers)))
    known = {number for (number,) in there}
    if rows := [{"message": number} for number in numbers if number not in known]:
        await connection.execute(insert(t.unread_messages), rows)


async def note_document(connection: Connection, document_id: str) -> None:
    c = t.unread_documents.c
    if await connection.scalar(select(c.document).where(c.document == document_id)) is None:
        await connection.execute(insert(t.unread_documents).values(document=document_id))
