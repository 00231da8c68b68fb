"""Messages in the database: saved, changed, paged through, found by their words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import time
from typing import Any

from sqlalchemy import ColumnElement, and_, insert, select, update

from tabagent.errors import NotFound
from tabagent.stores import tables as t
from tabagent.stores import words
from tabagent.stores.connection import Connection
from tabagent.stores.cursors import cursor, position
from tabagent.stores.database import Database
from tabagent.stores.durable import durably
from tabagent.stores.ids import new_id
from tabagent.stores.lineage import Stretch, branches_of, fork, known, path
from tabagent.stores.session_rows import (
    MESSAGE,
    insert_messages,
    length,
    locked,
    message_of,
    session_of,
)
from tabagent.stores.shapes import Message, Response, Session, beginning
from tabagent.stores.unread import note_messages


class MessageStore:
    """`writer` is this installation, whose unfinished messages are ended when it starts again."""

    def __init__(self, database: Database, writer: str) -> None:
        self._database, self._writer = database, writer

    async def append(
        self,
        session_id: str,
        new: Sequence[Message],
        *,
        branch: str | None = None,
        replaces: str | None = None,
        after: str | None = None,
    ) -> list[Message]:
        """Save messages at the end of a branch, in the place of a message, or after one.

        Where that is not the end, it forks.
        `branch` is the session's current one when left out, and current from now on. Returns them
        as they lie. Raises SessionNotFound, NotFound for a message that is not in it, Conflict for
        an id that is taken.
        """
        return await durably(self._append(session_id, new, branch, replaces, after))

    async def _append(
        self,
        session_id: str,
        new: Sequence[Message],
        branch: str | None,
        replaces: str | None,
        after: str | None,
    ) -> list[Message]:
        async with self._database.writing() as connection:
            return await self.append_within(
                connection, session_id, new, branch=branch, replaces=replaces, after=after
            )

    async def append_within(
        self,
        connection: Connection,
        session_id: str,
        new: Sequence[Message],
        *,
        branch: str | None = None,
        replaces: str | None = None,
        after: str | None = None,
    ) -> list[Message]:
        """The same as a part of a transaction."""
        now = time()
        session = await locked(connection, session_id)
        branch_id, depth = await self._place(connection, session, branch, replaces, after)
        placed = [
            replace(message, id=message.id or new_id("msg"), session_id=session_id,
                  branch_id=branch_id, depth=depth + index, writer=self._writer,
                  created_at=message.created_at or now,
                  pinned=message.pinned or message.role == "system")
            for index, message in enumerate(new)
        ]  # fmt: skip
        await insert_messages(connection, self._database.dialect, placed)
        c = t.sessions.c
        change: dict[str, Any] = {
            "branch_id": branch_id,
            "message_count": c.message_count + len(placed),
            "updated_at": now,
        }
        asked = next((m.text for m in placed if m.role == "user" and m.text.strip()), None)
        if session.title is None and asked:
            change |= {"title": beginning(asked.replace("\0", " ")), "title_by": "words"}
        await connection.execute(update(t.sessions).where(c.id == session_id).values(**change))
        return placed

    async def settle(self, messages: Sequence[Message], response: Response | None = None) -> None:
        """Write what has become of messages that were saved before; their places stay.

        With `response` the last of them is found by its id. A message whose session is gone by now
        is gone too.
        """
        if messages:
            await durably(self._settle(messages, response))

    async def _settle(self, messages: Sequence[Message], response: Response | None) -> None:
        c = t.messages.c
        now = time()
        async with self._database.writing() as connection:
            there: list[Message] = []
            for m in messages:
                values = {
                    "content": m.content, "extra": m.extra, "status": m.status, "model": m.model,
                    "finish_reason": m.finish_reason, "usage": m.usage,
                }  # fmt: skip
                done = await connection.execute(
                    update(t.messages).where(c.number == m.number).values(**values)
                )
                if done.rowcount:
                    there.append(m)
            ended = [m for m in there if m.status != "pending"]
            await words.put(
                connection, self._database.dialect, [(m.number, m.text) for m in there], again=True
            )
            await note_messages(connection, ended)
            for m in ended:
                await connection.execute(
                    update(t.sessions).where(t.sessions.c.id == m.session_id).values(updated_at=now)
                )
            if response and there:
                await connection.execute(insert(t.responses).values(**response.row(there[-1], now)))

    async def change(self, session_id: str, message_id: str, changes: dict[str, Any]) -> Message:
        """Set `pinned` or `metadata`. Raises SessionNotFound, or NotFound for the message."""

        async def write() -> Message:
            async with self._database.writing() as connection:
                await session_of(connection, session_id)
                c = t.messages.c
                here = and_(c.session_id == session_id, c.id == message_id)
                if changes:
                    await connection.execute(update(t.messages).where(here).values(**changes))
                return await message_of(connection, session_id, message_id)

        return await durably(write())

    async def page(
        self,
        session_id: str,
        *,
        branch: str | None = None,
        after: str | None = None,
        limit: int,
        newest_first: bool,
    ) -> tuple[str, list[Message], str | None, int]:
        """(branch, a page of its messages, the cursor of the next, how many it has)."""
        async with self._database.reading() as connection:
            session = await session_of(connection, session_id)
            branches = await branches_of(connection, session_id)
            branch_id = branch or session.branch_id
            stretches = path(branches, branch_id)
            edge: int | None = None
            if after is not None:
                (edge,) = position(after, int)
            rows = await self._walk(connection, stretches, edge, limit + 1, newest_first)
            end = await length(connection, branches, branch_id)
        page = rows[:limit]
        return branch_id, page, cursor(page[-1].depth) if len(rows) > limit else None, end

    async def before(
        self, session_id: str, branch_id: str, depth: int, limit: int
    ) -> list[Message]:
        """Up to `limit` messages of a branch before this depth, the newest first."""
        async with self._database.reading() as connection:
            stretches = path(await branches_of(connection, session_id), branch_id)
            return await self._walk(connection, stretches, depth, limit, newest_first=True)

    async def pinned(self, session_id: str, branch_id: str, depth: int) -> list[Message]:
        """The pinned messages of a branch before this depth, the oldest first."""
        return await self._those(session_id, branch_id, depth, t.messages.c.pinned == True)  # noqa: E712  # SQL

    async def pending(self, session_id: str, branch_id: str, depth: int) -> list[Message]:
        """The answers of a branch before this depth that go on, the oldest first."""
        return await self._those(session_id, branch_id, depth, t.messages.c.status == "pending")

    async def _those(
        self, session_id: str, branch_id: str, depth: int, such: ColumnElement[bool]
    ) -> list[Message]:
        c = t.messages.c
        async with self._database.reading() as connection:
            stretches = path(await branches_of(connection, session_id), branch_id)
            found: list[Message] = []
            for stretch in reversed(stretches):
                rows = await connection.execute(
                    select(*MESSAGE)
                    .where(c.branch_id == stretch.branch_id, such)
                    .where(c.depth >= stretch.first, c.depth <= min(stretch.last, depth - 1))
                    .order_by(c.depth)
                )
                found += [Message(*row) for row in rows]
            return found

    async def message(self, session_id: str, message_id: str) -> Message:
        """Raises NotFound."""
        async with self._database.reading() as connection:
            return await message_of(connection, session_id, message_id)

    async def by_id(self, message_id: str) -> Message:
        """Of any session. Raises NotFound."""
        found = await self.find(message_id)
        if found is None:
            raise NotFound(f"there is no message {message_id}")
        return found[0]

    async def find(self, message_id: str) -> tuple[Message, str | None] | None:
        """A message with its session's title."""
        query = (
            select(*MESSAGE, t.sessions.c.title)
            .join(t.sessions, t.sessions.c.id == t.messages.c.session_id)
            .where(t.messages.c.id == message_id)
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).first()
            return (Message(*tuple(row)[:-1]), row[-1]) if row else None

    async def lies_on(self, session_id: str, branch: str, number: int) -> bool:
        """Whether a message is a part of this branch."""
        c = t.messages.c
        async with self._database.reading() as connection:
            row = (
                await connection.execute(select(c.branch_id, c.depth).where(c.number == number))
            ).first()
            stretches = path(await branches_of(connection, session_id), branch)
        return row is not None and any(
            s.branch_id == row.branch_id and s.first <= row.depth <= s.last for s in stretches
        )

    async def by_numbers(self, numbers: Sequence[int]) -> dict[int, tuple[Message, str | None]]:
        """Messages with their sessions' titles, those that are there."""
        query = (
            select(*MESSAGE, t.sessions.c.title)
            .join(t.sessions, t.sessions.c.id == t.messages.c.session_id)
            .where(t.messages.c.number.in_(numbers))
        )
        async with self._database.reading() as connection:
            rows = await connection.execute(query)
            return {row.number: (Message(*row[:-1]), row[-1]) for row in rows}

    async def find_words(
        self, query: str, most: int, session_id: str | None = None
    ) -> list[tuple[int, float]]:
        """(number, score) of the messages that say this, the best first."""
        async with self._database.reading() as connection:
            dialect = self._database.dialect
            found = await words.find(connection, dialect, query, most, every=True)
            if not found:
                found = await words.find(connection, dialect, query, most, every=False)
        if session_id is None:
            return found
        there = await self.by_numbers([number for number, _ in found])
        return [
            (number, score)
            for number, score in found
            if number in there and there[number][0].session_id == session_id
        ]

    async def _place(
        self,
        connection: Connection,
        session: Session,
        branch: str | None,
        replaces: str | None,
        after: str | None,
    ) -> tuple[str, int]:
        """(branch, depth) of the next message; the branch is made where it is new."""
        branches = await branches_of(connection, session.id)
        if replaces is None and after is None:
            found = known(branches, branch or session.branch_id)
            return found.id, await length(connection, branches, found.id)
        old = await message_of(connection, session.id, replaces or after or "")
        depth = old.depth + (replaces is None)
        if replaces is None and depth == await length(connection, branches, old.branch_id):
            return old.branch_id, depth
        parent, fork_depth = fork(branches, old.branch_id, depth)
        made = new_id("br")
        await connection.execute(
            insert(t.branches).values(
                id=made, session_id=session.id, parent_id=parent, fork_depth=fork_depth,
                created_at=time(),
            )
        )  # fmt: skip
        return made, depth

    async def _walk(
        self,
        connection: Connection,
        stretches: Sequence[Stretch],
        edge: int | None,
        limit: int,
        newest_first: bool,
    ) -> list[Message]:
        """Messages beyond `edge`, a depth, in the direction that is asked for."""
        c = t.messages.c
        found: list[Message] = []
        for stretch in stretches if newest_first else reversed(stretches):
            first, last = stretch.first, stretch.last
            if edge is not None:
                first, last = (first, min(last, edge - 1)) if newest_first else (
                    max(first, edge + 1), last
                )  # fmt: skip
            if first > last:
                continue
            rows = await connection.execute(
                select(*MESSAGE)
                .where(c.branch_id == stretch.branch_id, c.depth >= first, c.depth <= last)
                .order_by(c.depth.desc() if newest_first else c.depth)
                .limit(limit - len(found))
            )
            found += [Message(*row) for row in rows]
            if len(found) == limit:
                break
        return found
