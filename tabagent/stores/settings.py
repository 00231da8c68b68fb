"""Settings that callers save: in memory for whoever reads, in the database before that."""

from __future__ import annotations

import asyncio
import json
from time import time
from typing import Any

import structlog

from tabagent.stores.database import Database
from tabagent.stores.durable import durably

log = structlog.get_logger(__name__)


class SavedSettings:
    """JSON values by key."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._values: dict[str, tuple[Any, float]] = {}
        self._turn = asyncio.Lock()  # what is written last is what is read

    def read(self) -> None:
        """Read all. Blocks. Raises DatabaseUnusable."""
        rows = self._database.run("SELECT key, value, updated_at FROM settings")
        for key, value, updated_at in rows:
            try:
                self._values[key] = json.loads(value), updated_at
            except ValueError:
                log.warning("setting_unreadable", key=key)

    def get(self, key: str) -> Any:
        """The value, or None."""
        return self._values.get(key, (None, 0.0))[0]

    def after(self, prefix: str) -> list[str]:
        """What follows the prefix in each key that begins with it."""
        return [key.removeprefix(prefix) for key in self._values if key.startswith(prefix)]

    def updated_at(self, key: str) -> float | None:
        """When it was saved, in unix seconds."""
        found = self._values.get(key)
        return found[1] if found else None

    async def set(self, key: str, value: Any) -> None:
        """Save a value; None forgets it. On the disk when this returns. Raises as `writing`.

        What has begun is done, also when the caller leaves: disk and memory say the same.
        """
        await durably(self._set(key, value))

    async def _set(self, key: str, value: Any) -> None:
        async with self._turn:
            from sqlalchemy import text

            now = time()
            forget = text("DELETE FROM settings WHERE key = :key")
            keep = text("INSERT INTO settings VALUES (:key, :value, :now)")
            async with self._database.writing() as connection:
                await connection.execute(forget, {"key": key})
                if value is not None:
                    row = {"key": key, "value": json.dumps(value), "now": now}
                    await connection.execute(keep, row)
            self._values.pop(key, None)
            if value is not None:
                self._values[key] = value, now
