"""Vectors beside what they are of: of chunks and of messages, by the model that made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy import Column, Table, delete, insert, select

from tabagent.stores.connection import Connection

AT_ONCE: Final = 500  # values of one statement


class KeptVectors:
    """A table of vectors, whose first column is the number of a row of `of`."""

    def __init__(self, table: Table, of: Table) -> None:
        self._table, self._of = table, of
        self._row: Column[int] = next(iter(table.columns))

    async def get(
        self, connection: Connection, numbers: Sequence[int], model: str
    ) -> dict[int, bytes]:
        """Those that there are, by the numbers of their rows."""
        c = self._table.c
        found: dict[int, bytes] = {}
        for start in range(0, len(numbers), AT_ONCE):
            part = numbers[start : start + AT_ONCE]
            rows = await connection.execute(
                select(self._row, c.vector).where(self._row.in_(part), c.model == model)
            )
            found |= {number: bytes(vector) for number, vector in rows}
        return found

    async def put(self, connection: Connection, model: str, vectors: Mapping[int, bytes]) -> None:
        """Of rows that are there and have none of this model yet."""
        rows = [
            {self._row.name: number, "model": model, "vector": vector}
            for number, vector in vectors.items()
        ]
        if rows:
            await connection.execute(insert(self._table), rows)

    async def replace(
        self, connection: Connection, model: str, vectors: Mapping[int, bytes]
    ) -> None:
        """The same, of rows that may have gone, or may have older ones."""
        rows = await connection.execute(
            select(self._of.c.number).where(self._of.c.number.in_(vectors))
        )
        there = {number for (number,) in rows}
        await connection.execute(
            delete(self._table).where(self._row.in_(there), self._table.c.model == model)
        )
        await self.put(connection, model, {number: vectors[number] for number in there})
