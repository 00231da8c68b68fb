"""Offers, answers and candidates of WebRTC, in the database: several servers may share them."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from time import time
from typing import Any, Final, Literal

from sqlalchemy import delete, func, insert, or_, select, update

from tabagent.errors import Conflict, PeerNotFound, QueueFull
from tabagent.stores import tables as t
from tabagent.stores.connection import Connection
from tabagent.stores.database import Database
from tabagent.stores.durable import durably

Side = Literal["offer", "answer"]

LIVES_S: Final = 300
PER_CALLER: Final = 16
IN_ALL: Final = 256
OVER: Final = ("closed", "failed")  # what nobody can go on with
CANDIDATES: Final = 64  # that come one by one, of each side


@dataclass(frozen=True, slots=True)
class Signal:
    """An offer and what came of it. Times are unix seconds."""

    id: str
    caller: str
    peer: str
    answerer: str | None
    state: str
    offer: str
    answer: str | None
    seq: int
    expires_at: float


@dataclass(frozen=True, slots=True)
class SignalCandidate:
    """What a side says of where it is. `candidate` is None when it has said all."""

    seq: int
    side: Side
    candidate: dict[str, Any] | None


SIGNAL: Final = [getattr(t.signals.c, name) for name in Signal.__dataclass_fields__]  # in its order
CANDIDATE: Final = [getattr(t.signal_candidates.c, n) for n in ("seq", "side", "candidate")]


class SignalStore:
    """A signal is its two callers': for others, and when its time is over, there is none.

    Who the second one is, is open until somebody who knows its id answers.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time) -> None:
        self._database, self.clock = database, clock

    async def create(self, caller: str, peer: str, offer: str) -> Signal:
        """Raises QueueFull."""
        now = self.clock()
        signal = Signal(
            f"rtc_{secrets.token_hex(16)}", caller, peer, None, "offered", offer, None, 1,
            now + LIVES_S,
        )  # fmt: skip

        async def write() -> Signal:
            async with self._database.writing() as connection:
                await connection.execute(delete(t.signals).where(t.signals.c.expires_at <= now))
                count = select(func.count()).select_from(t.signals)
                c = t.signals.c
                if await connection.scalar(count.where(c.caller == caller)) >= PER_CALLER:
                    over = (c.caller == caller) & c.state.in_(OVER)
                    if not (await connection.execute(delete(t.signals).where(over))).rowcount:
                        raise _full(PER_CALLER, "sessions of this caller")
                if int(await connection.scalar(count) or 0) >= IN_ALL:
                    raise _full(IN_ALL, "sessions of all callers")
                values = {name: getattr(signal, name) for name in Signal.__dataclass_fields__}
                await connection.execute(insert(t.signals).values(**values, created_at=now))
            return signal

        return await durably(write())

    async def read(self, id_: str, caller: str, since: int) -> tuple[Signal, list[SignalCandidate]]:
        """The signal, and the candidates that came after number `since`. Raises PeerNotFound."""
        if not self._database.made:
            raise _none()
        async with self._database.reading() as connection:
            signal = await self._find(connection, id_, caller)
            candidates: list[SignalCandidate] = []
            if signal.seq > since:
                c = t.signal_candidates.c
                rows = await connection.execute(
                    select(*CANDIDATE).where(c.signal_id == id_, c.seq > since).order_by(c.number)
                )
                # Read later than the signal, so it may be newer: it is for the next time.
                found = [SignalCandidate(*row) for row in rows]
                candidates = [one for one in found if one.seq <= signal.seq]
            return signal, candidates

    async def answer(self, id_: str, caller: str, answer: str) -> Signal:
        """Raises PeerNotFound, and Conflict when there is an answer already."""

        async def write() -> Signal:
            async with self._database.writing() as connection:
                signal = await self._changed(connection, id_, caller)
                if signal.answer is not None:
                    raise Conflict("this offer is answered already")
                values = {"answer": answer, "answerer": caller, "state": "answered"}
                await _write(connection, id_, values)
                return await self._find(connection, id_, caller)

        return await durably(write())

    async def add_candidate(
        self, id_: str, caller: str, side: Side | None, candidate: dict[str, Any] | None
    ) -> Signal:
        """Whose it is follows from the caller, where one caller is not both.

        Raises PeerNotFound, Conflict when a side that is another caller's is named, QueueFull.
        """

        async def write() -> Signal:
            async with self._database.writing() as connection:
                signal = await self._changed(connection, id_, caller)
                whose = _side(signal, caller, side)
                if whose == "answer" and signal.answerer is None:
                    await _write(connection, id_, {"answerer": caller})
                c = t.signal_candidates.c
                count = select(func.count()).select_from(t.signal_candidates)
                before = await connection.scalar(count.where(c.signal_id == id_, c.side == whose))
                if int(before or 0) >= CANDIDATES:
                    raise _full(CANDIDATES, "candidates of one side")
                kept = candidate if signal.peer == "relay" else None  # the server wants none
                await connection.execute(
                    insert(t.signal_candidates).values(
                        signal_id=id_, seq=signal.seq, side=whose, candidate=kept
                    )
                )
                return await self._find(connection, id_, caller)

        return await durably(write())

    async def note(self, id_: str, state: str) -> None:
        """What became of the connection, where the signal is still there."""

        async def write() -> None:
            async with self._database.writing() as connection:
                seq = t.signals.c.seq + 1
                await _write(connection, id_, {"state": state, "seq": seq})

        await durably(write())

    async def forget(self, id_: str) -> None:
        async def write() -> None:
            async with self._database.writing() as connection:
                await connection.execute(delete(t.signals).where(t.signals.c.id == id_))

        await durably(write())

    async def _changed(self, connection: Connection, id_: str, caller: str) -> Signal:
        """The signal with its next number, which nobody else changes until this is written."""
        await connection.execute(delete(t.signals).where(t.signals.c.expires_at <= self.clock()))
        await _write(connection, id_, {"seq": t.signals.c.seq + 1})
        return await self._find(connection, id_, caller)

    async def _find(self, connection: Connection, id_: str, caller: str) -> Signal:
        c = t.signals.c
        asks = or_(c.caller == caller, c.answerer == caller, c.answerer.is_(None))
        query = select(*SIGNAL).where(c.id == id_, c.expires_at > self.clock(), asks)
        row = (await connection.execute(query)).first()
        if row is None or (row.peer == "server" and row.caller != caller):
            raise _none()
        return Signal(*row)


def _side(signal: Signal, caller: str, side: Side | None) -> Side:
    if signal.caller != caller:
        if side == "offer":
            raise Conflict("the offer is another caller's")
        return "answer"
    if side == "answer" and (
        signal.peer == "server" or signal.answerer not in (None, signal.caller)
    ):
        raise Conflict("the answer is another's")
    return side or "offer"


async def _write(connection: Connection, id_: str, values: dict[str, Any]) -> None:
    await connection.execute(update(t.signals).where(t.signals.c.id == id_).values(**values))


def _none() -> PeerNotFound:
    return PeerNotFound("there is no such signalling session, or not any more")


def _full(most: int, whose: str) -> QueueFull:
    return QueueFull(
        f"there are {most} {whose} already: one goes within minutes", queue_length=most,
        retry_after=60,
    )  # fmt: skip
