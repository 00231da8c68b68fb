"""What tools ask of a call's arguments, and when it is held to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tabagent import wire
from tabagent.errors import InvalidRequest
from tests.worker.gguf.conftest import Start
from tests.worker.gguf.driver import Engine

HARD = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 5},
        "days": {"type": "integer", "not": {"const": 3}},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
"""`not` cannot be enforced."""


@pytest.fixture
def engine(start: Start) -> Engine:
    return start(n_ctx=2048)


def asks(**more: Any) -> wire.Dialogue:
    strict = more.pop("strict", False)
    tool = wire.Tool("weather", parameters=HARD, strict=strict, pointer="/tools/0/parameters")
    return wire.Dialogue(tools=[tool], **more)


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("more", [{"strict": True}, {"tool_choice": "required"}], ids=str)
def test_a_call_that_must_be_valid_is_refused_where_it_cannot_be_held(
    engine: Engine, more: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        engine.submit(user("hi"), dialogue=asks(**more))
    assert [e["pointer"] for e in refused.value.members["errors"]] == [
        "/tools/0/parameters/properties/days/not"
    ]


def test_a_call_that_may_be_made_is_held_to_what_can_be(engine: Engine) -> None:
    start = engine.tokens("{")[0]
    told = engine.say(
        user("hi"),
        dialogue=asks(),
        max_tokens=150,
        sampling={"ignore_eos": False, "logit_bias": [(start, 4.0)]},
    )
    assert told.reason in ("stop", "length", "tool_calls")  # it may call or talk


def test_a_forced_call_is_one_call_and_valid(engine: Engine) -> None:
    days = {"type": "integer", "minimum": 1, "maximum": 9}
    schema = HARD | {"properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": days}}
    tool = wire.Tool("weather", parameters=schema)
    dialogue = wire.Dialogue(tools=[tool], tool_choice="required", tool_name="weather")
    told = engine.say(user("hi"), dialogue=dialogue, sampling={"ignore_eos": False})
    assert told.reason == "tool_calls"
    assert {delta.index for delta in told.tools} == {0}
    assert [delta.name for delta in told.tools if delta.name] == ["weather"]
    arguments = json.loads("".join(delta.arguments for delta in told.tools))
    assert arguments["city"] in ("Rome", "Oslo")
    assert arguments["days"] in range(1, 10)
