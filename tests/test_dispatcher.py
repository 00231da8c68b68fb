"""The only door to a handler."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from pydantic import Field
from structlog.testing import capture_logs

from tabagent.dispatcher import LOCAL, Dispatcher
from tabagent.errors import (
    AccessDenied,
    InternalError,
    InvalidRequest,
    NotFound,
    ShuttingDown,
    Unauthorized,
    UnsupportedParameter,
)
from tabagent.operation import Access, Call, Operation, Reply, Request
from tabagent.parameters import NotYet
from tabagent.presence import Presence


class Item(Request):
    """An item."""

    name: str
    size: int = Field(1, ge=1)


class Ask(Request):
    """A request."""

    stream: bool = False
    items: list[Item | str] = []
    tools: NotYet = None
    fail: str = ""


class Said(Reply):
    """A reply."""

    text: str


closed: list[str] = []


async def say(request: Ask, call: Call) -> AsyncGenerator[Said, None]:
    """Say two things."""
    try:
        yield Said(text="a")
        if request.fail:
            raise RuntimeError("secret: " + request.fail)
        yield Said(text="b")
    finally:
        closed.append(call.request_id)


async def whole(parts: AsyncIterator[Said]) -> Said:
    return Said(text="".join([part.text async for part in parts]))


async def rule(request: Ask, call: Call) -> Said:
    """Rule."""
    return Said(text=call.caller)


def call(access: Access = Access.USER, caller: str = LOCAL) -> Call:
    return Call(str(uuid.uuid4()), access, caller, "test")


@pytest.fixture
def door() -> Dispatcher:
    return Dispatcher(
        [
            Operation("say", "POST /say", say, collect=whole),
            Operation("rule", "POST /rule", rule, access=Access.ADMIN),
        ]
    )


async def test_the_stream_field_chooses_the_form(door: Dispatcher) -> None:
    folded = await door.call("say", {}, call())
    assert isinstance(folded, Said) and folded.text == "ab"
    events = await door.call("say", {"stream": True}, call())
    assert not isinstance(events, Reply)
    assert [event.encode() async for event in events] == [b'{"text":"a"}', b'{"text":"b"}']


async def test_closing_a_stream_closes_the_handler(door: Dispatcher) -> None:
    mine = call()
    events: Any = await door.call("say", {"stream": True}, mine)
    await anext(events)
    assert door.active == 1
    await events.aclose()
    assert mine.request_id in closed
    assert door.active == 0


async def test_who_is_revoked_while_an_event_is_sent_is_told_so_and_not_cut_off() -> None:
    presence = Presence()
    door = Dispatcher([Operation("say", "POST /say", say, collect=whole)], presence=presence)
    mine = Call(str(uuid.uuid4()), Access.USER, "cl_1", "test", "chrome-extension://a")
    events: Any = await door.call("say", {"stream": True}, mine)
    await anext(events)
    presence.expel("cl_1")
    with pytest.raises(Unauthorized):
        await anext(events)
    await asyncio.sleep(0)  # as a transport waits: nothing is left that would cancel it
    assert door.active == presence.count("cl_1") == 0


async def test_an_unknown_operation_is_not_found(door: Dispatcher) -> None:
    with pytest.raises(NotFound):
        await door.call("sing", {}, call())


async def test_access_is_compared_before_anything_else(door: Dispatcher) -> None:
    with pytest.raises(Unauthorized):
        await door.call("rule", {"nonsense": 1}, call(Access.PUBLIC, ""))
    with pytest.raises(Unauthorized):
        await door.call("rule", {}, call())
    with pytest.raises(AccessDenied):
        await door.call("rule", {}, call(Access.USER, "an-extension"))
    reply = await door.call("rule", {}, call(Access.ADMIN, "owner"))
    assert reply.text == "owner"  # type: ignore[union-attr]  # not a stream


async def test_pointers_name_the_value_not_the_validator(door: Dispatcher) -> None:
    payload = {
        "items": ["x", {"name": "n", "size": 0}, {"a/b~c": 1, "name": "m"}, {}, 7],
        "other": 1,
    }
    with pytest.raises(InvalidRequest) as caught:
        await door.call("say", payload, call())
    pointers = {entry["pointer"] for entry in caught.value.members["errors"]}
    assert pointers == {
        "/items/1",  # it is no string either
        "/items/1/size",
        "/items/2",
        "/items/2/a~1b~0c",
        "/items/3",
        "/items/3/name",
        "/items/4",
        "/other",
    }
    assert {e["detail"] for e in caught.value.members["errors"] if e["pointer"] == "/other"} == {
        "unknown field"
    }


async def test_a_known_parameter_that_cannot_be_honoured_is_refused_by_name(
    door: Dispatcher,
) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        await door.call("say", {"tools": [{"type": "function"}]}, call())
    assert caught.value.param == "tools"
    await door.call("say", {"tools": []}, call())


@pytest.mark.parametrize("stream", [False, True])
async def test_an_internal_error_shows_its_id_and_nothing_else(
    door: Dispatcher, stream: bool
) -> None:
    mine = call()

    async def ask() -> None:
        events: Any = await door.call("say", {"stream": stream, "fail": "42"}, mine)
        async for _ in events:
            pass

    with capture_logs() as lines, pytest.raises(InternalError) as caught:
        await ask()
    assert "secret" not in caught.value.detail
    assert mine.request_id in caught.value.detail
    assert [line["request_id"] for line in lines] == [mine.request_id]


async def test_a_draining_server_takes_nothing_new(door: Dispatcher) -> None:
    door.draining = True
    with pytest.raises(ShuttingDown):
        await door.call("say", {}, call())
