"""Responses that may be gone on from: each is a message of a session, found by its own id."""

from __future__ import annotations

from collections.abc import Sequence
from time import time

from sqlalchemy import and_, delete, exists, func, insert, select, update

from tabagent.errors import ResponseNotFound
from tabagent.stores import tables as t
from tabagent.stores.connection import Connection
from tabagent.stores.database import Database
from tabagent.stores.durable import durably
from tabagent.stores.lineage import branches_of, path
from tabagent.stores.messages import MessageStore
from tabagent.stores.session_rows import MESSAGE, insert_branches, insert_session, message_of
from tabagent.stores.shapes import Branch, Message, Response, Session

KIND = "responses"
"""Sessions that are made for responses alone; they go with the last of them."""


class ResponseStore:
    """Keeps the last used of each caller: `most` of them, `most_bytes` of what was new in each."""

    def __init__(self, database: Database, messages: MessageStore) -> None:
        self._database, self._messages = database, messages

    async def find(self, caller: str, id_: str) -> tuple[str, list[Message]]:
        """(session, the conversation up to that response). Raises ResponseNotFound."""

        async def read() -> tuple[str, list[Message]]:
            async with self._database.writing() as connection:
                c = t.responses.c
                here = and_(c.id == id_, c.caller == caller)
                await connection.execute(update(t.responses).where(here).values(used_at=time()))
                row = (
                    await connection.execute(select(c.session_id, c.message_id).where(here))
                ).first()
                if row is None:
                    raise ResponseNotFound(
                        f"the response {id_} is not kept, or not any more: "
                        "send the conversation as input",
                        param="previous_response_id",
                    )
                last = await message_of(connection, row.session_id, row.message_id)
                return row.session_id, await self._up_to(connection, last)

        return await durably(read())

    async def keep(
        self, response: Response, new: Sequence[Message], after: tuple[str, Message] | None
    ) -> None:
        """Save what was said in a response: after a message of a session, or in one of its own.

        Raises SessionNotFound when that session is gone.
        """

        async def write() -> None:
            # One transaction: who forgets responses meanwhile must find no session without one.
            async with self._database.writing() as connection:
                if after is None:
                    made = Session.new(kind=KIND)
                    root = Branch(made.branch_id, None, -1, made.created_at)
                    await insert_session(connection, made)
                    await insert_branches(connection, made.id, [root])
                    session_id, last = made.id, None
                else:
                    session_id, last = after[0], after[1].id
                placed = await self._messages.append_within(connection, session_id, new, after=last)
                row = response.row(placed[-1], time())
                await connection.execute(insert(t.responses).values(**row))

        await durably(write())

    async def prune(self, caller: str, most: int, most_bytes: int) -> None:
        """Forget the longest unused of a caller, and the sessions of which nothing is left."""
        c = t.responses.c

        async def write() -> None:
            async with self._database.writing() as connection:
                newer = func.row_number().over(order_by=[c.used_at.desc(), c.id.desc()])
                size = func.sum(c.size_bytes).over(order_by=[c.used_at.desc(), c.id.desc()])
                ranked = select(c.id, newer.label("place"), size.label("size")).where(
                    c.caller == caller
                ).subquery()  # fmt: skip
                old = select(ranked.c.id).where(
                    (ranked.c.place > most) | (ranked.c.size > most_bytes)
                )
                gone = await connection.execute(delete(t.responses).where(c.id.in_(old)))
                if gone.rowcount:
                    s = t.sessions.c
                    left = exists().where(c.session_id == s.id)
                    await connection.execute(delete(t.sessions).where(s.kind == KIND, ~left))

        await durably(write())

    async def _up_to(self, connection: Connection, last: Message) -> list[Message]:
        c = t.messages.c
        found: list[Message] = []
        branches = await branches_of(connection, last.session_id)
        for stretch in reversed(path(branches, last.branch_id)):
            rows = await connection.execute(
                select(*MESSAGE)
                .where(c.branch_id == stretch.branch_id, c.depth >= stretch.first)
                .where(c.depth <= min(stretch.last, last.depth))
                .order_by(c.depth)
            )
            found += [Message(*row) for row in rows]
        return found
