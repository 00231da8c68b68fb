"""LanceDB: an index of vectors and words. It can be lost: the database has all that is in it.

One table for each collection and model. What LanceDB writes it does not wait for (it never calls
fsync), so after a crash a table is compared with the database before it is trusted.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

if TYPE_CHECKING:
    import numpy as np
    from lancedb import AsyncConnection, AsyncTable
    from lancedb.expr import Expr
    from numpy.typing import NDArray

log = structlog.get_logger(__name__)

EXACT_BELOW: Final = 10_000  # rows; so many are compared one by one in a few milliseconds
GROWN: Final = 4  # times as many rows as when an index was made: it is made anew
PIECES: Final = 3  # parts of an index, which grow by what is added, until it is made anew when idle
PARTITION: Final = 200_000  # rows of one graph of neighbours
PROBES: Final = 8  # graphs that are looked into
EFFORT: Final = 200  # candidates in each: finds 96 of the nearest hundred in 100,000
WRITES: Final = 32  # after so many a table's files are joined
KEPT_S: Final = 60  # old versions, which somebody may be reading
INDEX_CACHE: Final = 512 * 2**20  # bytes; an index of 100,000 vectors has a fifth of it
METADATA_CACHE: Final = 64 * 2**20
SEPARATOR: Final = "\x1f"  # around each tag


class IndexLost(Exception):
    """The table is not there, or cannot be read."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row: what is searched, and what filters look at."""

    number: int
    vector: bytes  # little-endian 32-bit floats
    words: str
    owner: str  # a document's or a session's id
    kind: str
    host: str
    tags: Sequence[str]
    created_at: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class Filter:
    """What a row must have. Values are compared, never read as SQL."""

    owners: Sequence[str] = ()
    kinds: Sequence[str] = ()
    hosts: Sequence[str] = ()
    tags: Sequence[str] = ()  # all of them
    created_after: float | None = None
    created_before: float | None = None
    updated_after: float | None = None
    updated_before: float | None = None

    def expression(self) -> Expr | None:
        from lancedb.expr import col, lit

        found: list[Expr] = []
        for name, values in (("owner", self.owners), ("kind", self.kinds), ("host", self.hosts)):
            if values:
                found.append(col(name).isin([lit(value) for value in values]))
        found += [col("tags").contains(lit(SEPARATOR + tag + SEPARATOR)) for tag in self.tags]
        for name, after, before in (
            ("created_at", self.created_after, self.created_before),
            ("updated_at", self.updated_after, self.updated_before),
        ):
            if after is not None:
                found.append(col(name) >= lit(after))
            if before is not None:
                found.append(col(name) < lit(before))
        whole: Expr | None = None
        for part in found:
            whole = part if whole is None else whole & part
        return whole


@dataclass(slots=True)
class _Open:
    table: AsyncTable
    writes: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # of whoever changes it
    said: bool = False  # whether its words have an index
    near: int = 0  # rows when the index of its vectors was made; 0: it has none
    tended: bool = False  # whether somebody is at it


class VectorStore:
    """Tables under `uri`: a folder, or an object store such as s3://bucket/place."""

    def __init__(self, uri: str, options: dict[str, str] | None = None) -> None:
        self._uri, self._options = uri, options or {}
        self._connection: AsyncConnection | None = None
        self._connecting = asyncio.Lock()
        self._tables: dict[str, _Open] = {}

    # ---- tables ---------------------------------------------------------------------------------
    async def open(self, name: str) -> bool:
        """Whether the table is there and can be used."""
        if name in self._tables:
            return True
        try:
            table = await (await self._connected()).open_table(name)
            opened = _Open(table)
            await table.count_rows()
            for index in await table.list_indices():
                stats = await table.index_stats(index.name)
                if stats and stats.num_unindexed_rows:
                    opened.writes = 1  # somebody died before tending it
                if index.columns == ["words"]:
                    opened.said = True
                elif index.columns == ["vector"] and stats:
                    opened.near = stats.num_indexed_rows
        except Exception as error:  # whatever is wrong with it, it is made anew
            log.info("index_not_opened", table=name, why=_words(error))
            return False
        self._tables.setdefault(name, opened)
        return True

    async def make(self, name: str, dimensions: int) -> None:
        """An empty table; what was there goes. Raises IndexLost."""
        import pyarrow as pa

        self._tables.pop(name, None)
        schema = pa.schema(
            [
                ("number", pa.int64()),
                ("owner", pa.string()),
                ("kind", pa.string()),
                ("host", pa.string()),
                ("tags", pa.string()),
                ("created_at", pa.float64()),
                ("updated_at", pa.float64()),
                ("words", pa.string()),
                ("vector", pa.list_(pa.float32(), dimensions)),
            ]
        )
        connection = await _lost(self._connected())
        # The remains of a damaged table are in the way even of what overwrites it.
        await self.drop(name)
        table = await _lost(connection.create_table(name, schema=schema, mode="overwrite"))
        self._tables[name] = _Open(table)

    async def drop(self, name: str) -> None:
        found = self._tables.pop(name, None)
        # Whoever is writing into it would make its folder anew.
        async with found.turn if found else nullcontext():
            try:
                await (await self._connected()).drop_table(name, ignore_missing=True)
            except Exception as error:
                log.info("index_not_dropped", table=name, why=_words(error))
            if "://" not in self._uri:
                await asyncio.to_thread(shutil.rmtree, Path(self._uri) / f"{name}.lance", True)

    # ---- rows -----------------------------------------------------------------------------------
    async def add(self, name: str, entries: Sequence[Entry]) -> None:
        """Raises IndexLost."""
        import pyarrow as pa

        if not entries:
            return
        found = self._table(name)

        def columns() -> pa.Table:
            import numpy as np

            vectors = np.frombuffer(b"".join(e.vector for e in entries), np.dtype("<f4"))
            width = len(vectors) // len(entries)
            return pa.table(
                {
                    "number": [e.number for e in entries],
                    "owner": [e.owner for e in entries],
                    "kind": [e.kind for e in entries],
                    "host": [e.host for e in entries],
                    "tags": [SEPARATOR.join(["", *e.tags, ""]) for e in entries],
                    "created_at": [e.created_at for e in entries],
                    "updated_at": [e.updated_at for e in entries],
                    "words": [e.words for e in entries],
                    "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors), width),
                }
            )

        rows = await asyncio.to_thread(columns)
        async with found.turn:
            await _lost(found.table.add(rows))
            found.writes += 1
            if not found.said:
                await _lost(found.table.create_index("words", config=_full_text()))
                found.said = True

    async def remove(self, name: str, numbers: Sequence[int]) -> None:
        """Raises IndexLost."""
        found = self._table(name)
        async with found.turn:
            for start in range(0, len(numbers), 1000):
                await _lost(found.table.delete(_among(numbers[start : start + 1000])))
                found.writes += 1

    async def remove_owner(self, name: str, owner: str) -> None:
        """All rows of one. Raises IndexLost."""
        from lancedb.expr import col, lit

        found = self._table(name)
        async with found.turn:
            await _lost(found.table.delete(col("owner") == lit(owner)))
            found.writes += 1

    async def numbers(self, name: str) -> list[int]:
        """Of all rows. Raises IndexLost."""
        rows = await _lost(self._table(name).table.query().select(["number"]).to_arrow())
        numbers: list[int] = rows["number"].to_pylist()
        return numbers

    async def nearest(
        self, name: str, vector: NDArray[np.float32], most: int, where: Filter
    ) -> list[tuple[int, float]]:
        """(number, cosine) of the rows with the most similar vectors. Raises IndexLost."""
        found = self._table(name)
        query = found.table.query().nearest_to(vector).distance_type("cosine")
        if found.near:
            query = query.nprobes(PROBES).ef(EFFORT)
        if (condition := where.expression()) is not None:
            query = query.where(condition)
        rows = await _lost(query.select(["number", "_distance"]).limit(most).to_arrow())
        distances = rows["_distance"].to_pylist()
        return [
            (number, 1.0 - distance)
            for number, distance in zip(rows["number"].to_pylist(), distances, strict=True)
        ]

    async def saying(
        self, name: str, query: str, most: int, where: Filter
    ) -> list[tuple[int, float]]:
        """(number, BM25 score) of the rows that say some of this. Raises IndexLost."""
        found = self._table(name)
        if not found.said or not query.strip():
            return []
        asked = found.table.query().nearest_to_text(query, columns="words")
        if (condition := where.expression()) is not None:
            asked = asked.where(condition)
        rows = await _lost(asked.select(["number", "_score"]).limit(most).to_arrow())
        scores = rows["_score"].to_pylist()
        return list(zip(rows["number"].to_pylist(), scores, strict=True))

    # ---- upkeep ---------------------------------------------------------------------------------
    async def tend(self, name: str, *, now: bool = False) -> None:
        """Join small files and bring the indexes up to date where enough was written.

        Answers go on meanwhile. Raises IndexLost.
        """
        found = self._tables.get(name)
        due = found and not found.tended and (found.writes >= WRITES or (now and found.writes))
        if found is None or not due:
            return
        found.tended = True
        try:
            rows = await _lost(found.table.count_rows())
            if rows >= EXACT_BELOW and (
                rows >= GROWN * found.near or (now and await self._pieces(found) > PIECES)
            ):
                # Seconds to a minute of work: what is written meanwhile is put in afterwards.
                await _lost(found.table.create_index("vector", config=_near(rows), replace=True))
                found.near = rows
            await self.join(name)
        finally:
            found.tended = False

    async def join(self, name: str) -> None:
        """Put what is new into the indexes: until then it has BM25 scores of its own, which compare
        with no others. Raises IndexLost.
        """
        found = self._tables.get(name)
        if found is None:
            return
        async with found.turn:
            if found.writes:
                await _lost(found.table.optimize(cleanup_older_than=timedelta(seconds=KEPT_S)))
                found.writes = 0

    async def _pieces(self, found: _Open) -> int:
        """Of how many parts the index of vectors is; each one is searched."""
        for index in await _lost(found.table.list_indices()):
            if index.columns == ["vector"]:
                stats = await _lost(found.table.index_stats(index.name))
                return stats.num_indices or 1 if stats else 1
        return 1

    def forget(self, name: str) -> None:
        """Let go of a table that turned out to be damaged."""
        self._tables.pop(name, None)

    def _table(self, name: str) -> _Open:
        found = self._tables.get(name)
        if found is None:
            raise IndexLost(f"{name} is not open")
        return found

    async def _connected(self) -> AsyncConnection:
        async with self._connecting:
            if self._connection is None:
                # It has words for every query; only what it cannot do is of interest here.
                os.environ.setdefault("LANCEDB_LOG", "error")
                lancedb = await asyncio.to_thread(_lancedb)
                self._connection = await lancedb.connect_async(
                    self._uri,
                    storage_options=self._options or None,
                    session=lancedb.Session(
                        index_cache_size_bytes=INDEX_CACHE,
                        metadata_cache_size_bytes=METADATA_CACHE,
                    ),
                )
            return self._connection


def _lancedb() -> Any:
    import lancedb

    return lancedb


def _full_text() -> Any:
    from lancedb.index import FTS

    return FTS(with_position=False, stem=True, remove_stop_words=True, ascii_folding=True)


def _near(rows: int) -> Any:
    from lancedb.index import IvfHnswSq

    return IvfHnswSq(distance_type="cosine", num_partitions=-(-rows // PARTITION))


def _among(numbers: Sequence[int]) -> Any:
    from lancedb.expr import col, lit

    return col("number").isin([lit(number) for number in numbers])


async def _lost(work: Any) -> Any:
    """What LanceDB says, with every failure of it as an IndexLost."""
    try:
        return await work
    except Exception as error:
        raise IndexLost(_words(error)) from error


def _words(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]
