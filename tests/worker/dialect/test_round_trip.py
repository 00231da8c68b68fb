"""Tools into a prompt, a held answer out of it, its calls and their results into the next prompt."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from tabagent import wire
from tests.worker.dialect.conftest import NAMES, MakeTemplate
from tests.worker.dialect.test_grammar import as_written, ends_of, grammar_of
from tests.worker.dialect.test_parser import TALK, Heard
from tests.worker.dialect.tokens import Tokens

TOOL = wire.Tool(
    "book",
    "Book a table.",
    {
        "type": "object",
        "properties": {
            "guest": {"type": "string", "minLength": 1, "maxLength": 40},
            "seats": {"type": "integer"},
            "window": {"type": "boolean"},
            "dishes": {"type": "array", "items": {"type": "integer"}, "maxItems": 4},
        },
        "required": ["guest", "seats"],
        "additionalProperties": False,
    },
)


SHOW_IDS = ("mistral-nemo", "mistral-small", "kimi-k2")


@pytest.mark.parametrize("name", NAMES)
def test_a_call_goes_all_the_way_round(template: MakeTemplate, qwen: Tokens, name: str) -> None:
    made = template(name)
    reasons = made.dialect.reasoning is not None and name != "gpt-oss"
    asked = wire.Dialogue(
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        thinking=False if reasons else None,
    )
    for seed in "abc":
        prompt = made.prompt(TALK, asked)
        assert "Book a table." in prompt
        answer = qwen.walk(grammar_of(made, asked), random.Random(seed), ends_of(made), soon=25)
        heard = Heard(made.dialect.parser(asked, prompt), answer)
        ((called, arguments),) = heard.calls
        assert called == "book"
        call: dict[str, Any] = {
            "id": heard.deltas[0].id,
            "type": "function",
            "function": {"name": called, "arguments": arguments},
        }
        talk: list[dict[str, Any]] = [
            *TALK,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": "It is booked."},
        ]
        again = made.prompt(talk, wire.Dialogue(tools=[TOOL]))
        assert "It is booked." in again
        assert call["id"] in again or name not in SHOW_IDS
        shown = as_written(made, [{"name": called, "arguments": json.loads(arguments)}])
        if name == "gpt-oss":  # whose header begins before what marks a call
            shown = f" to=functions.book{shown}"
        read = Heard(made.dialect.parser(wire.Dialogue(tools=[TOOL]), ""), shown)
        assert [(n, json.loads(a)) for n, a in read.calls] == [(called, json.loads(arguments))]
