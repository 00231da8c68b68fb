"""Sessions in the database: made, listed, changed, and saved or restored whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

from sqlalchemy import and_, delete, exists, or_, select, update

from tabagent.errors import SessionNotFound
from tabagent.stores import tables as t
from tabagent.stores import words
from tabagent.stores.connection import Connection
from tabagent.stores.cursors import cursor, position
from tabagent.stores.database import Database
from tabagent.stores.durable import durably
from tabagent.stores.lineage import branches_of, known
from tabagent.stores.session_rows import (
    MESSAGE,
    SESSION,
    add_tags,
    insert_branches,
    insert_messages,
    insert_session,
    length,
    locked,
    session_of,
    set_tags,
)
from tabagent.stores.shapes import Branch, Message, Session, Wanted

MATCHES: Final = 1000  # messages that a search of sessions looks into


class SessionStore:
    """`writer` is this installation."""

    def __init__(self, database: Database, writer: str) -> None:
        self._database, self._writer = database, writer

    async def create(
        self,
        *,
        id_: str | None = None,
        kind: str = "chat",
        title: str | None = None,
        model: str | None = None,
        system: str | None = None,
        tags: Iterable[str] = (),
        pinned: bool = False,
        metadata: dict[str, Any] | None = None,
    ) -> Session:
        """A session without messages. Raises Conflict when its id is taken."""
        made = Session.new(id_, kind)
        made.title, made.title_by = title, "user" if title else None
        made.model, made.system, made.pinned = model, system, pinned
        made.tags, made.metadata = sorted(set(tags)), metadata or {}
        root = Branch(made.branch_id, None, -1, made.created_at)
        await durably(self._insert(made, [root], []))
        return made

    async def get(self, session_id: str) -> Session:
        """Raises SessionNotFound."""
        async with self._database.reading() as connection:
            return await session_of(connection, session_id)

    async def search(
        self, wanted: Wanted, after: str | None, limit: int
    ) -> tuple[list[Session], str | None]:
        """(a page, the cursor of the next): pinned ones first, then the last used."""
        c = t.sessions.c
        query = select(*SESSION).where(c.kind == wanted.kind)
        for column, value in ((c.pinned, wanted.pinned), (c.archived, wanted.archived)):
            if value is not None:
                query = query.where(column == value)
        if wanted.tag is not None:
            tags = t.session_tags.c
            query = query.where(exists().where(tags.session_id == c.id, tags.tag == wanted.tag))
        if after is not None:
            pinned, updated, id_ = position(after, bool, (float, int), str)
            older = or_(c.updated_at < updated, and_(c.updated_at == updated, c.id < id_))
            # Flags are numbers: what is not pinned comes after what is.
            query = query.where(or_(c.pinned < pinned, and_(c.pinned == pinned, older)))
        query = query.order_by(c.pinned.desc(), c.updated_at.desc(), c.id.desc()).limit(limit + 1)
        async with self._database.reading() as connection:
            if wanted.search:
                said = await self._sessions_that_say(connection, wanted.search)
                like = f"%{escaped(wanted.search)}%"
                query = query.where(or_(c.title.ilike(like, escape="\\"), c.id.in_(said)))
            rows = [Session(*row) for row in await connection.execute(query)]
            await add_tags(connection, rows)
        page = rows[:limit]
        more = len(rows) > limit
        return page, cursor(page[-1].pinned, page[-1].updated_at, page[-1].id) if more else None

    async def update(self, session_id: str, changes: dict[str, Any]) -> Session:
        """Set columns, `tags` and `branch_id` among them. Raises SessionNotFound."""
        return await durably(self._update(session_id, changes))

    async def _update(self, session_id: str, changes: dict[str, Any]) -> Session:
        changes = dict(changes)
        async with self._database.writing() as connection:
            await locked(connection, session_id)
            tags: Iterable[str] | None = changes.pop("tags", None)
            if branch_id := changes.get("branch_id"):
                known(await branches_of(connection, session_id), branch_id)
            if tags is not None:
                await set_tags(connection, session_id, tags)
            if changes:
                await connection.execute(
                    update(t.sessions).where(t.sessions.c.id == session_id).values(**changes)
                )
            return await session_of(connection, session_id)

    async def retitle(self, session_id: str, title: str, by: Literal["words", "model"]) -> bool:
        """Give a title where nobody who goes before has given one. Whether it was taken."""
        c = t.sessions.c
        weaker = [c.title_by.is_(None), *([c.title_by == "words"] if by == "model" else [])]
        change = update(t.sessions).where(c.id == session_id, or_(*weaker))

        async def write() -> bool:
            async with self._database.writing() as connection:
                done = await connection.execute(change.values(title=title, title_by=by))
                return bool(done.rowcount)

        return await durably(write())

    async def delete(self, session_id: str) -> None:
        """With all its messages. Raises SessionNotFound."""

        async def write() -> None:
            async with self._database.writing() as connection:
                gone = await connection.execute(
                    delete(t.sessions).where(t.sessions.c.id == session_id)
                )
                if not gone.rowcount:
                    raise SessionNotFound(f"there is no session {session_id}")

        await durably(write())

    async def branches(self, session_id: str) -> tuple[Session, list[tuple[Branch, int]]]:
        """The session and its branches, each with how many messages it has."""
        async with self._database.reading() as connection:
            session = await session_of(connection, session_id)
            found = await branches_of(connection, session_id)
            return session, [
                (branch, await length(connection, found, branch.id)) for branch in found.values()
            ]

    async def whole(self, session_id: str) -> tuple[Session, list[Branch], list[Message]]:
        """Everything there is of a session, its messages in the order in which they were saved."""
        async with self._database.reading() as connection:
            session = await session_of(connection, session_id)
            branches = await branches_of(connection, session_id)
            rows = await connection.execute(
                select(*MESSAGE)
                .where(t.messages.c.session_id == session_id)
                .order_by(t.messages.c.number)
            )
            return session, list(branches.values()), [Message(*row) for row in rows]

    async def restore(
        self, session: Session, branches: Sequence[Branch], messages: Sequence[Message]
    ) -> None:
        """Save a whole session with the ids that it has. Raises Conflict when one is taken."""
        await durably(self._insert(session, branches, messages))

    async def _insert(
        self, session: Session, branches: Sequence[Branch], messages: Sequence[Message]
    ) -> None:
        async with self._database.writing() as connection:
            c = t.sessions.c
            await insert_session(connection, session)
            await insert_branches(connection, session.id, branches)
            placed = [replace(m, session_id=session.id, writer=self._writer) for m in messages]
            await insert_messages(connection, self._database.dialect, placed)
            until = [
                new.number
                for old, new in zip(messages, placed, strict=True)
                if old.number <= session.summary_until
            ]
            if session.summary_until:  # a message's number, which is another one here
                change = update(t.sessions).where(c.id == session.id)
                await connection.execute(change.values(summary_until=max(until, default=0)))

    async def _sessions_that_say(self, connection: Connection, query: str) -> list[str]:
        found = await words.find(connection, self._database.dialect, query, MATCHES, every=True)
        numbers = [number for number, _ in found]
        rows = await connection.execute(
            select(t.messages.c.session_id).where(t.messages.c.number.in_(numbers)).distinct()
        )
        return [row.session_id for row in rows]


def escaped(said: str) -> str:
    r"""As a part of a LIKE pattern whose escape is `\`."""
    return said.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
