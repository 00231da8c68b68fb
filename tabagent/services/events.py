"""What changes while the server runs: models, pulls, settings, clients."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Final, Literal

from pydantic import ConfigDict, Field

from tabagent.journal import Change, Journal, Kind, Lost
from tabagent.operation import Call, Event, Reply, Request
from tabagent.parameters import invalid
from tabagent.replies.changes import (
    ClientChange,
    DocumentChange,
    ModelChange,
    SessionChange,
    SettingChange,
)
from tabagent.replies.jobs import JobInfo
from tabagent.replies.pulls import Pull

POSITION: Final = re.compile("([0-9a-f]{12}):([0-9]{1,15})")


class EventsRequest(Request):
    """Where to begin: with what happens from now on, when nothing is said."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"from": 1, "last_event_id": "", "stream": False}]}
    )

    from_: int | None = Field(
        None, alias="from", ge=1, le=10**15, description="The first number that is wanted."
    )
    last_event_id: str | None = Field(
        None,
        max_length=64,
        description="The `id` of the last event that was seen; goes before `from`. Over HTTP the "
        "header `Last-Event-ID`, which browsers send by themselves, says the same.",
    )
    stream: bool = Field(
        True, description="Send events as they come. Else those that are kept are the answer."
    )


class Started(Reply):
    """The stream begins; `last` is the number of the newest change so far."""

    last: int


class Gap(Reply):
    """Changes that are not known any more: read again what you need to know.

    `first` and `last` are their numbers, null when they were an earlier server's.
    """

    first: int | None
    last: int | None


class Happening(Reply):
    """One event. Numbers grow; some are skipped, where progress was followed by more progress."""

    seq: int
    epoch: str = Field(description="Of this start of the server, whose numbers begin at 1.")
    type: Literal["start", "gap", Kind]
    at: datetime
    data: (
        Started
        | Gap
        | ModelChange
        | Pull
        | SettingChange
        | SessionChange
        | DocumentChange
        | JobInfo
        | ClientChange
    )


class Happened(Reply):
    """The events that are kept from the asked number on. Ask again from `next`."""

    object: Literal["list"] = "list"
    epoch: str
    next: int
    data: list[Happening]


class HappeningEvent(Event):
    """An event that can be resumed from."""

    __slots__ = ("told",)
    documented_as = Happening

    def __init__(self, told: Happening) -> None:
        self.told = told

    @property
    def name(self) -> str:
        return self.told.type

    @property
    def id(self) -> str:
        return f"{self.told.epoch}:{self.told.seq}"

    def encode(self) -> bytes:
        return self.told.encode()


class Events:
    """Tells what the journal holds and gets."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def follow(
        self, request: EventsRequest, call: Call
    ) -> AsyncGenerator[HappeningEvent, None]:
        """Follow what changes: models that load, sleep, go or fail, pulls, settings, clients.

        Each event's `id` is the server's epoch and a number; who comes back with the last one that
        it saw misses nothing that is still kept, and is told of a `gap` where something is not.
        Progress comes at most once a second, and only the newest of it is kept.
        """
        journal = self._journal
        after, foreign = self._position(request)
        yield self._event("start", after, Started(last=journal.last))
        if foreign:
            yield self._event("gap", after, Gap(first=None, last=None))
        if not request.stream:
            for kept in journal.since(after):
                yield self._told(kept)
            return
        async with aclosing(journal.follow(after)) as changes:
            async for change in changes:
                yield self._told(change)

    def stop(self) -> None:
        """End every stream, so that none of them holds up the end of the server."""
        self._journal.close()

    def _position(self, request: EventsRequest) -> tuple[int, bool]:
        """After which number to begin, and whether what came before was another server's."""
        journal = self._journal
        if request.last_event_id:
            found = POSITION.fullmatch(request.last_event_id)
            if not found:
                raise invalid("/last_event_id", "is not the id of an event of this server")
            if found[1] != journal.epoch:
                return 0, True
            return self._reached("/last_event_id", int(found[2])), False
        if request.from_ is not None:
            return self._reached("/from", request.from_ - 1), False
        return journal.last, False

    def _reached(self, pointer: str, number: int) -> int:
        if number > self._journal.last:
            raise invalid(pointer, f"the newest event is number {self._journal.last}")
        return number

    def _told(self, change: Change | Lost) -> HappeningEvent:
        if isinstance(change, Lost):
            return self._event("gap", change.last, Gap(first=change.first, last=change.last))
        return self._event(change.kind, change.number, change.data, change.at)

    def _event(
        self, type: Literal["start", "gap", Kind], number: int, data: Any, at: float | None = None
    ) -> HappeningEvent:
        when = datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
        return HappeningEvent(
            Happening.model_construct(
                seq=number, epoch=self._journal.epoch, type=type, at=when, data=data
            )
        )


async def fold_events(events: AsyncIterator[HappeningEvent]) -> Happened:
    """The plain reply: what is kept, and where to go on."""
    first, *rest = [event.told async for event in events]
    assert isinstance(first.data, Started), "a stream begins with its start"
    return Happened(epoch=first.epoch, next=first.data.last + 1, data=rest)
