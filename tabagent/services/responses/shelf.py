"""Responses that may be gone on from: in the database, bounded, each caller's own."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tabagent.errors import NotFound, SessionNotFound
from tabagent.services.responses.transcript import Message
from tabagent.sessions.plain import kept, plain
from tabagent.stores.records import Records
from tabagent.stores.shapes import Message as Row
from tabagent.stores.shapes import Response

After = tuple[str, Row]
"""A session, and its message that is gone on from."""


class Shelf:
    """Keeps the `most` last used of each caller, as long as they take no more than `most_bytes`.

    Of each is counted what was new in it: those that go on from one another share the rest.
    """

    def __init__(self, records: Records, most: int, most_bytes: int) -> None:
        self._records, self._most, self._most_bytes = records, most, most_bytes

    def row(self, caller: str, id_: str, new: Sequence[Message]) -> Response | None:
        """What is kept of it; None when it alone is larger than everything may be."""
        size = len(msgspec.json.encode(new))
        if size > self._most_bytes or not self._most:
            return None
        return Response(id_, caller, size)

    async def keep(self, response: Response, new: Sequence[Message], after: After | None) -> bool:
        """Save it, and forget what is too much then. Raises as a write to the database does.

        False when what it goes on from has been forgotten or deleted meanwhile.
        """
        store = self._records.responses
        try:
            await store.keep(response, [kept(message) for message in new], after)
        except (SessionNotFound, NotFound):
            return False
        await store.prune(response.caller, self._most, self._most_bytes)
        return True

    async def find(self, caller: str, id_: str) -> tuple[After, list[Message]]:
        """(where it is, the conversation up to it). Raises ResponseNotFound."""
        session_id, rows = await self._records.responses.find(caller, id_)
        return (session_id, rows[-1]), [plain(row)[0] for row in rows]
