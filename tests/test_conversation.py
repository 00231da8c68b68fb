"""One connection's requests, without a connection."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tabagent.config import Settings
from tabagent.conversation import Conversation
from tabagent.dispatcher import LOCAL, Dispatcher
from tabagent.operation import Access, Caller, Operation
from tests.test_dispatcher import say, whole


@pytest.mark.parametrize("stream", [True, False])
async def test_a_cancel_that_comes_while_the_last_message_goes_out_adds_none(stream: bool) -> None:
    said: list[dict[str, Any]] = []
    read = asyncio.Event()

    async def send(message: bytes) -> None:
        said.append(json.loads(message))
        if said[-1].get("event") != "chunk":
            await read.wait()

    talk = Conversation(
        Dispatcher([Operation("say", "POST /say", say, collect=whole)]),
        Settings.model_construct(),
        lambda: Caller(LOCAL, Access.USER),
        send,
        transport="test",
        most=4096,
    )
    request = {"request_id": "r", "route": "say", "payload": {"stream": stream}}
    await talk.receive(json.dumps(request).encode())
    async with asyncio.timeout(5):
        while not said or said[-1].get("event") == "chunk":
            await asyncio.sleep(0.001)
        await talk.receive(b'{"request_id":"r","route":"cancel"}')
        read.set()
        while talk.running:
            await asyncio.sleep(0.001)
    assert len(said) == (3 if stream else 1)
    assert said[-1].get("event") == ("done" if stream else None)
