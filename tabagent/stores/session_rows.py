"""Sessions and messages as rows, and what reads and writes them inside a transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, Final

from sqlalchemy import Row, delete, func, insert, select

from tabagent.errors import Conflict, NotFound, SessionNotFound
from tabagent.stores import tables as t
from tabagent.stores import words
from tabagent.stores.connection import Connection
from tabagent.stores.migrations import Dialect
from tabagent.stores.shapes import Branch, Message, Session
from tabagent.stores.unread import note_messages

AT_ONCE: Final = 500  # values of one statement


SESSION: Final = [getattr(t.sessions.c, f.name) for f in fields(Session) if f.name != "tags"]
MESSAGE: Final = [getattr(t.messages.c, f.name) for f in fields(Message)]


async def session_of(connection: Connection, session_id: str) -> Session:
    row = (await connection.execute(select(*SESSION).where(t.sessions.c.id == session_id))).first()
    return await _one(connection, row, session_id)


async def locked(connection: Connection, session_id: str) -> Session:
    """The same, and nobody else writes into it until this transaction has ended."""
    query = select(*SESSION).where(t.sessions.c.id == session_id).with_for_update()
    return await _one(connection, (await connection.execute(query)).first(), session_id)


async def _one(connection: Connection, row: Row[Any] | None, session_id: str) -> Session:
    if row is None:
        raise SessionNotFound(f"there is no session {session_id}", param="session_id")
    session = Session(*tuple(row))
    await add_tags(connection, [session])
    return session


async def add_tags(connection: Connection, sessions: Sequence[Session]) -> None:
    by_id = {session.id: session for session in sessions}
    tags = t.session_tags.c
    rows = await connection.execute(
        select(tags.session_id, tags.tag).where(tags.session_id.in_(by_id)).order_by(tags.tag)
    )
    for id_, tag in rows:
        by_id[id_].tags.append(tag)


async def set_tags(connection: Connection, session_id: str, tags: Iterable[str]) -> None:
    c = t.session_tags.c
    await connection.execute(delete(t.session_tags).where(c.session_id == session_id))
    if rows := [{"session_id": session_id, "tag": tag} for tag in sorted(set(tags))]:
        await connection.execute(insert(t.session_tags), rows)


async def message_of(connection: Connection, session_id: str, message_id: str) -> Message:
    c = t.messages.c
    query = select(*MESSAGE).where(c.id == message_id, c.session_id == session_id)
    row = (await connection.execute(query)).first()
    if row is None:
        raise NotFound(f"the session has no message {message_id}")
    return Message(*row)


async def length(connection: Connection, branches: dict[str, Branch], branch_id: str) -> int:
    """How many messages a branch has, with those before its fork."""
    c = t.messages.c
    deepest = await connection.scalar(select(func.max(c.depth)).where(c.branch_id == branch_id))
    return (branches[branch_id].fork_depth if deepest is None else int(deepest)) + 1


async def insert_session(connection: Connection, session: Session) -> None:
    """Save it as it is, with its tags. Raises Conflict when its id is taken."""
    c = t.sessions.c
    if await connection.scalar(select(c.id).where(c.id == session.id)):
        raise Conflict(f"there is a session {session.id} already")
    values = {column.name: getattr(session, column.name) for column in SESSION}
    await connection.execute(insert(t.sessions).values(**values))
    await set_tags(connection, session.id, session.tags)


async def insert_branches(
    connection: Connection, session_id: str, branches: Sequence[Branch]
) -> None:
    """Save them as they are, parents before children."""
    c = t.branches.c
    ids = [branch.id for branch in branches]
    for start in range(0, len(ids), AT_ONCE):
        part = ids[start : start + AT_ONCE]
        if taken := await connection.scalar(select(c.id).where(c.id.in_(part)).limit(1)):
            raise Conflict(f"there is a branch {taken} already")
    rows = [
        {
            "id": branch.id, "session_id": session_id, "parent_id": branch.parent_id,
            "fork_depth": branch.fork_depth, "created_at": branch.created_at,
        }
        for branch in branches
    ]  # fmt: skip
    await connection.execute(insert(t.branches), rows)


async def insert_messages(
    connection: Connection, dialect: Dialect, placed: Sequence[Message]
) -> None:
    """Save rows as they are, and note their numbers in them."""
    columns = [column.name for column in MESSAGE if column.name != "number"]
    for start in range(0, len(placed), AT_ONCE):
        part = placed[start : start + AT_ONCE]
        ids = [m.id for m in part]
        taken = await connection.scalar(
            select(t.messages.c.id).where(t.messages.c.id.in_(ids)).limit(1)
        )
        if taken or len(set(ids)) < len(ids):
            raise Conflict(f"there is a message {taken or 'of one of these ids'} already")
        await connection.execute(
            insert(t.messages), [{name: getattr(m, name) for name in columns} for m in part]
        )
        rows = await connection.execute(
            select(t.messages.c.id, t.messages.c.number).where(t.messages.c.id.in_(ids))
        )
        numbers = {row.id: row.number for row in rows}
        for m in part:
            m.number = numbers[m.id]
        said = [(m.number, m.text) for m in part if m.status != "pending"]
        await words.put(connection, dialect, said, again=False)
        await note_messages(connection, part)
