"""A model's tokenizer and template, with conversations as rich as a chat's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.live import FAKE, LiveServer

TOOL = {"type": "function", "function": {"name": "add"}}
CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}
MESSAGES = [
    {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
    {"role": "user", "content": "1+1"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "2"},
]


def post(server: LiveServer, path: str, **body: Any) -> Any:
    return server.client.post(f"/v1/{path}", json={"model": FAKE, **body}).json()


def test_a_template_is_shown_what_a_chat_would_show_it(counter: LiveServer) -> None:
    reply = post(counter, "apply-template", messages=MESSAGES, tools=[TOOL])
    assert reply["prompt"] == "[add]\nBe kind.\n1+1\n\n2"
    assert reply["count"] == len(reply["tokens"]) == len(reply["prompt"])


def test_tools_count_too(counter: LiveServer) -> None:
    without = post(counter, "count-tokens", messages=MESSAGES)["count"]
    assert post(counter, "count-tokens", messages=MESSAGES, tools=[TOOL])["count"] == without + 6
    assert post(counter, "count-tokens", text="abc")["count"] == 3


@pytest.mark.parametrize(
    ("path", "wrong", "pointer"),
    [
        ("count-tokens", {"text": "a", "tools": [TOOL]}, "/tools"),
        ("count-tokens", {"text": "a", "messages": MESSAGES}, ""),
        ("count-tokens", {}, ""),
        ("apply-template", {"messages": MESSAGES, "tool_choice": "required"}, "/tool_choice"),
        ("apply-template", {"messages": [{"role": "user"}]}, "/messages/0/content"),
        ("apply-template", {"messages": MESSAGES, "temperature": 1}, "/temperature"),
    ],
)
def test_what_is_wrong_is_pointed_at(
    counter: LiveServer, path: str, wrong: dict[str, Any], pointer: str
) -> None:
    problem = post(counter, path, **wrong)
    assert problem["code"] == "invalid-request"
    assert pointer in [error["pointer"] for error in problem["errors"]]
