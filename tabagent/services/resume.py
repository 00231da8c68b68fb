"""Answers that are followed again, after the client that asked for them was lost."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Self, cast

from pydantic import ConfigDict, Field, model_validator

from tabagent.errors import RequestNotFound
from tabagent.operation import Call, Request
from tabagent.parameters import invalid
from tabagent.replays import Kept, Replayed, Replays

NUMBER = re.compile("[0-9]{1,12}")


class ResumeRequest(Request):
    """Which answer, and from which of its events on."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"request_id": "6f9619ff-8b86-4d01-b42d-00cf4fc964ff", "from": 0}]
        }
    )

    request_id: str = Field(
        description="Of the request that began it: its `X-Request-Id`, or the id of its message.",
        max_length=64,
    )
    from_: int = Field(
        0, alias="from", ge=0, le=10**12, description="The first event that is wanted, from 0."
    )
    last_event_id: str | None = Field(
        None,
        max_length=16,
        description="The `id` of the last event that was seen; goes before `from`. Over HTTP the "
        "header `Last-Event-ID` says the same.",
    )
    stream: bool = Field(
        True, description="Send events as they come. Else wait for the whole reply."
    )

    @model_validator(mode="after")
    def _whole_or_part(self) -> Self:
        if not self.stream and (self.from_ or self.last_event_id):
            raise ValueError("`from` goes with `stream`: a whole reply begins at 0")
        return self

    @property
    def start(self) -> int:
        if not self.last_event_id:
            return self.from_
        if not NUMBER.fullmatch(self.last_event_id):
            raise invalid("/last_event_id", "is not the id of an event of an answer")
        return int(self.last_event_id) + 1


class Resume:
    """Answers that can be followed again."""

    def __init__(self, replays: Replays) -> None:
        self._replays = replays

    async def follow(self, request: ResumeRequest, call: Call) -> AsyncGenerator[Kept, None]:
        """Follow an answer whose client was lost, from any of its events on, over any transport.

        A generation that was asked for with `detach` or `resume_ttl`, or over the browser's native
        channel, goes on for a while without its client, and is kept for a while after its end. Its
        events are numbered from 0; the numbers come as the events' ids, and as `seq` of messages.
        What has been forgotten is `gone`: follow from 0 no more, and look into the session.
        """
        replay = self._replays.find(request.request_id, call.caller)
        if replay is None:
            raise RequestNotFound(f"no answer {request.request_id} of yours is kept")
        if not request.stream:
            yield Kept(0, await replay.whole(), numbered=False)
            return
        async with aclosing(replay.follow(request.start)) as events:
            async for kept in events:
                yield kept if kept.numbered else Kept(kept.seq, kept.event, numbered=True)


async def fold_resumed(events: AsyncIterator[Kept]) -> Replayed:
    """The reply as it would have been: that of the operation that began the answer."""
    whole = [kept async for kept in events]
    return cast(Replayed, whole[0].event)
