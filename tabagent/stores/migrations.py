"""Every change of the database's shape, in order. What was released is never edited.

A migration is the statements that lead from the version before to its own, in SQL that SQLite and
PostgreSQL both understand. A database's version, in its table
`schema_version`, is how many of them it has been through.
"""

from __future__ import annotations

from typing import Final

Migrations = tuple[tuple[str, ...], ...]

MIGRATIONS: Final[Migrations] = (
    (
        "CREATE TABLE settings ("
        " key TEXT PRIMARY KEY,"
        " value TEXT NOT NULL,"  # JSON
        " updated_at DOUBLE PRECISION NOT NULL)",  # unix seconds
    ),
)
