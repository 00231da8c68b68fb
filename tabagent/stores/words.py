"""Full text of messages, where SQLite and PostgreSQL differ: FTS5 there, tsvector here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from sqlalchemy import text

from tabagent.stores.connection import Connection
from tabagent.stores.migrations import Dialect
from tabagent.stores.spacing import spaced

WORD: Final = re.compile(r"\w+")
MOST_WORDS: Final = 32  # of a query; what it says is said by then

PUT: Final[dict[Dialect, str]] = {
    "sqlite": "INSERT INTO message_words (rowid, words) VALUES (:number, :words)",
    "postgresql": "INSERT INTO message_words (number, words)"
    " VALUES (:number, to_tsvector('simple', :words))",
}
REMOVE: Final[dict[Dialect, str]] = {
    "sqlite": "DELETE FROM message_words WHERE rowid = :number",
    "postgresql": "DELETE FROM message_words WHERE number = :number",
}
FIND: Final[dict[Dialect, str]] = {
    "sqlite": "SELECT rowid AS number, -bm25(message_words) AS score FROM message_words"
    " WHERE message_words MATCH :query ORDER BY bm25(message_words) LIMIT :most",
    "postgresql": "SELECT number, ts_rank_cd(words, query) AS score"
    " FROM message_words, to_tsquery('simple', :query) AS query"
    " WHERE words @@ query ORDER BY score DESC LIMIT :most",
}
LARGEST: Final = 500_000  # characters of a message that are found; PostgreSQL takes no more


async def put(
    connection: Connection, dialect: Dialect, rows: Iterable[tuple[int, str]], *, again: bool
) -> None:
    """Have messages be found by their words; `again` when they were before."""
    values = [
        {"number": number, "words": spaced(said)[:LARGEST].replace("\0", " ")}
        for number, said in rows
    ]
    if not values:
        return
    if again:
        await connection.execute(text(REMOVE[dialect]), values)
    await connection.execute(text(PUT[dialect]), values)


async def find(
    connection: Connection, dialect: Dialect, query: str, most: int, *, every: bool
) -> list[tuple[int, float]]:
    """(message's number, score), the best first: those with every word, or with any.

    The last word may be the beginning of one.
    """
    terms = WORD.findall(spaced(query).lower())[:MOST_WORDS]
    if not terms:
        return []
    if dialect == "sqlite":
        quoted = [f'"{term}"' for term in terms]
        asked = (" AND " if every else " OR ").join([*quoted[:-1], quoted[-1] + "*"])
    else:
        asked = (" & " if every else " | ").join([*terms[:-1], terms[-1] + ":*"])
    rows = await connection.execute(text(FIND[dialect]), {"query": asked, "most": most})
    return [(int(number), float(score)) for number, score in rows]
