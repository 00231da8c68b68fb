"""Answers that outlive who asked for them: the last events of each, which can be followed again.

An answer is either driven by its client, whose going ends it, or runs in a task of its own and goes
on for a while without anybody. Both are written down here, event by event, within bounds.
"""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import ClassVar, Final

from pydantic import BaseModel, ConfigDict

from tabagent.errors import Conflict, Gone, InvalidRequest, TabAgentError, UnsupportedParameter
from tabagent.operation import Call, Event, Reply

Events = AsyncGenerator[Reply | Event, None]
Collect = Callable[[AsyncIterator[Reply | Event]], Awaitable[Reply]]
LEAD: Final = 256  # events that an answer may be ahead of the quickest of those who follow it
EVENT_BYTES: Final = 256  # what keeping one costs beside what it says
ANSWER_BYTES: Final = 2048  # what keeping an answer costs beside its events


class Replayed(Reply):
    """What the operation that began it says: one of its events, or its whole reply."""

    model_config = ConfigDict(extra="allow")


class Kept(Event):
    """One numbered event of an answer. Its number is its SSE id where it can be resumed from."""

    __slots__ = ("data", "event", "numbered", "seq")
    documented_as: ClassVar[type[BaseModel]] = Replayed

    def __init__(self, seq: int, event: Reply | Event, *, numbered: bool) -> None:
        self.seq, self.event, self.numbered = seq, event, numbered
        self.data = event.encode()

    @property
    def name(self) -> str:
        return self.event.name if isinstance(self.event, Event) else ""

    @property
    def id(self) -> str:
        return str(self.seq) if self.numbered else ""

    def encode(self) -> bytes:
        return self.data


class _Follower:
    __slots__ = ("at", "woken")

    def __init__(self, at: int) -> None:
        self.at, self.woken = at, asyncio.Event()


class Replay:
    """One answer: its events from `first` on, numbered from 0, and how it ended, if it has."""

    def __init__(
        self, call: Call, collect: Collect, keep_s: float, room: int, *, streamed: bool
    ) -> None:
        self.call, self.collect, self.streamed = call, collect, streamed
        self.keep_s = keep_s
        self.first = self.next = self.size = 0
        self.ended = False
        self.error: TabAgentError | None = None
        self.on_end: Callable[[Replay], None] = lambda _: None
        self._room = room
        self._kept: list[Kept] = []
        self._followers: set[_Follower] = set()
        self._caught_up = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._patience_s = math.inf
        self._timer: asyncio.TimerHandle | None = None

    # ---- written -------------------------------------------------------------------------------
    def add(self, event: Reply | Event, *, numbered: bool) -> Kept:
        kept = Kept(self.next, event, numbered=numbered)
        self._kept.append(kept)
        self.next += 1
        self.size += len(kept.data) + EVENT_BYTES
        if self.size > self._room:
            self._trim()
        for follower in self._followers:
            follower.woken.set()
        return kept

    def _trim(self) -> None:
        """Forget the oldest, an eighth at once; of what waits for its followers, nothing that the
        quickest of them has not had.
        """
        most = len(self._kept)
        if self._task and self._followers:
            most = self._quickest() - self.first
        goes = 0
        while self.size > self._room * 7 // 8 and goes < most:
            self.size -= len(self._kept[goes].data) + EVENT_BYTES
            goes += 1
        del self._kept[:goes]
        self.first += goes

    def end(self, error: TabAgentError | None = None) -> None:
        if self.ended:
            return
        # A copy: the traceback of the one that was raised holds on to all of the request.
        self.ended, self.error = True, copy.copy(error)
        if self._timer:
            self._timer.cancel()
        for follower in self._followers:
            follower.woken.set()
        self.on_end(self)

    async def driven(self, events: Events) -> Events:
        """The events, for the client that drives them: when it goes, they end."""
        try:
            async with aclosing(events):
                async for event in events:
                    yield self.add(event, numbered=False)
        except TabAgentError as error:
            self.end(error)
            raise
        else:
            self.end()
        finally:
            self.end(_cancelled())

    def run(self, events: Events, patience_s: float) -> None:
        """Go on without a client, for `patience_s` after the last one has gone."""
        self._patience_s = patience_s
        self._task = asyncio.create_task(self._write(events))
        # One that is cancelled before it begins never gets to its own end.
        self._task.add_done_callback(lambda _: self.end(_cancelled()))
        self._left()

    async def _write(self, events: Events) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    self.add(event, numbered=True)
                    while self._too_far():
                        self._caught_up.clear()
                        await self._caught_up.wait()
        except TabAgentError as error:
            self.end(error)
        except asyncio.CancelledError:
            self.end(_cancelled())
        else:
            self.end()

    def _too_far(self) -> bool:
        """Whether the next event has to wait for those who follow."""
        if not self._followers:
            return False
        if self.size > self._room:
            self._trim()
        return self.next - self._quickest() > LEAD or self.size > self._room

    def _quickest(self) -> int:
        return max(follower.at for follower in self._followers)

    def cancel(self) -> None:
        if self._task and not self.ended:
            self._task.cancel()

    # ---- followed ------------------------------------------------------------------------------
    async def follow(self, seq: int) -> AsyncGenerator[Kept, None]:
        """The events from `seq` on, until the answer ends. Raises what the answer ended with,
        Gone when they are not kept any more, InvalidRequest when there are not so many.
        """
        if seq > self.next:
            raise InvalidRequest(
                f"from: the next event is number {self.next}",
                param="from",
                errors=[{"pointer": "/from", "detail": f"the next event is number {self.next}"}],
            )
        me = _Follower(seq)
        self._followers.add(me)
        self._came()
        try:
            while True:
                me.woken.clear()
                while me.at < self.next:
                    if me.at < self.first:
                        raise Gone(f"events before number {self.first} are not kept any more")
                    kept = self._kept[me.at - self.first]
                    me.at += 1
                    yield kept
                    self._caught_up.set()
                if self.ended:
                    if self.error:
                        raise copy.copy(self.error)  # each raising adds to what one holds on to
                    return
                await me.woken.wait()
        finally:
            self._followers.discard(me)
            self._caught_up.set()
            if not self._followers:
                self._left()

    async def whole(self) -> Reply:
        """The plain reply that the events fold into. Raises UnsupportedParameter where a stream was
        asked for, whose events need not hold all that a reply says.
        """
        if self.streamed:
            raise UnsupportedParameter(
                "stream: this answer was asked for as a stream; follow it as one", param="stream"
            )
        if self.first:
            raise Gone(f"events before number {self.first} are not kept any more")
        async with aclosing(self.follow(0)) as kept:
            return await self.collect(_bare(kept))

    def _came(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _left(self) -> None:
        if self.ended or math.isinf(self._patience_s):
            return
        self._came()
        self._timer = asyncio.get_running_loop().call_later(self._patience_s, self.cancel)


async def _bare(kept: AsyncGenerator[Kept, None]) -> AsyncGenerator[Reply | Event, None]:
    async for one in kept:
        yield one.event


def _cancelled() -> Gone:
    return Gone("this answer was cancelled")


class Replays:
    """The answers that can be followed again, by request id; used on one event loop."""

    def __init__(self, *, keep_s: float, detached_keep_s: float, room: int, total: int) -> None:
        self._keep_s, self._detached_keep_s = keep_s, detached_keep_s
        self._room, self._total = room, total
        self._replays: dict[tuple[str, str], Replay] = {}  # by caller and request id
        self._written: set[Replay] = set()  # that have not ended
        self._over: dict[Replay, asyncio.TimerHandle] = {}  # that have, the first one first
        self._over_bytes = 0

    def begin(
        self, call: Call, collect: Collect, *, streamed: bool, detach: bool, ttl_s: float
    ) -> Replay:
        """One more answer. Raises Conflict while another one of this id is written."""
        key = call.caller, call.request_id
        if before := self._replays.get(key):
            if not before.ended:
                raise Conflict("a request with this id is running")
            self._forget(before)
        keep_s = max(self._keep_s, ttl_s, self._detached_keep_s if detach else 0)
        replay = Replay(call, collect, keep_s, self._room, streamed=streamed)
        self._replays[key] = replay
        self._written.add(replay)
        replay.on_end = self._ended
        return replay

    @property
    def count(self) -> int:
        return len(self._replays)

    @property
    def size(self) -> int:
        """Bytes of them all."""
        return sum(replay.size for replay in self._replays.values())

    def find(self, request_id: str, caller: str) -> Replay | None:
        """The answer, when it is this caller's."""
        return self._replays.get((caller, request_id))

    def cancel(self, call: Call) -> None:
        """Who made this call does not want the answer any more that the call began."""
        found = self._replays.get((call.caller, call.request_id))
        if found and found.call is call:
            found.cancel()

    def _ended(self, replay: Replay) -> None:
        """Keep it for a while. For those that ended before it there may be no room any more."""
        self._written.discard(replay)
        loop = asyncio.get_running_loop()
        self._over[replay] = loop.call_later(replay.keep_s, self._forget, replay)
        self._over_bytes += replay.size + ANSWER_BYTES
        room = self._total - sum(one.size for one in self._written)
        while self._over_bytes > room and len(self._over) > 1:
            self._forget(next(iter(self._over)))

    def _forget(self, replay: Replay) -> None:
        self._over.pop(replay).cancel()  # or the timer would hold on to it until its time
        self._over_bytes -= replay.size + ANSWER_BYTES
        del self._replays[replay.call.caller, replay.call.request_id]
