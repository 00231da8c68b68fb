"""Everything that is kept in the database, by what it is about.

What stores need is imported when one is first asked for: a start does without.
"""

from __future__ import annotations

import asyncio
import hashlib
import platform
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tabagent.stores.database import Database

if TYPE_CHECKING:
    from tabagent.stores.collections import CollectionStore
    from tabagent.stores.documents import DocumentStore
    from tabagent.stores.jobs import JobStore
    from tabagent.stores.memory import MemoryStore
    from tabagent.stores.messages import MessageStore
    from tabagent.stores.responses import ResponseStore
    from tabagent.stores.sessions import SessionStore
    from tabagent.stores.signals import SignalStore

ABANDONED = (
    "UPDATE messages SET status = 'partial', finish_reason = 'interrupted'"
    " WHERE status = 'pending' AND writer = '{writer}'"
)


class Records:
    """`place` is this installation's data directory: several may share one database."""

    def __init__(self, database: Database, place: Path) -> None:
        self.database = database
        name = f"{platform.node()}:{place.absolute()}"
        self.writer = hashlib.sha256(name.encode()).hexdigest()[:16]

    def recover(self) -> None:
        """End the answers that were being written when the server died. Blocks."""
        self.database.run(ABANDONED.format(writer=self.writer))

    async def warm(self) -> None:
        """Import what the stores need, while nobody waits for it."""
        await asyncio.to_thread(lambda: (self.sessions, self.messages))

    @cached_property
    def sessions(self) -> SessionStore:
        from tabagent.stores.sessions import SessionStore

        return SessionStore(self.database, self.writer)

    @cached_property
    def messages(self) -> MessageStore:
        from tabagent.stores.messages import MessageStore

        return MessageStore(self.database, self.writer)

    @cached_property
    def collections(self) -> CollectionStore:
        from tabagent.stores.collections import CollectionStore

        return CollectionStore(self.database)

    @cached_property
    def documents(self) -> DocumentStore:
        from tabagent.stores.documents import DocumentStore

        return DocumentStore(self.database)

    @cached_property
    def jobs(self) -> JobStore:
        from tabagent.stores.jobs import JobStore

        return JobStore(self.database, self.writer)

    @cached_property
    def memory(self) -> MemoryStore:
        from tabagent.stores.memory import MemoryStore

        return MemoryStore(self.database)

    @cached_property
    def responses(self) -> ResponseStore:
        from tabagent.stores.responses import ResponseStore

        return ResponseStore(self.database, self.messages)

    @cached_property
    def signals(self) -> SignalStore:
        from tabagent.stores.signals import SignalStore

        return SignalStore(self.database)
