"""Responses: what a request means to the worker, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tabagent.services.responses.transcript import Transcript
from tests.live import FAKE, LiveServer
from tests.services.test_responses import ADD, LOGPROBS, PARAMETERS, SUB, asked, respond


# ---- what the worker is told ---------------------------------------------------------------------
def test_everything_reaches_the_worker(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {}}
    command = asked(
        client,
        max_output_tokens=99,
        top_p=0.5,
        tools=[SUB, ADD],
        parallel_tool_calls=False,
        reasoning={"effort": "high"},
        text={"format": {"type": "json_schema", "name": "x", "schema": schema}},
        include=LOGPROBS,
        top_logprobs=4,
        extra_body={"min_p": 0.25},
    )
    del command["id"]
    tool = {"parameters": PARAMETERS}
    assert command == {
        "type": "Generate",
        "sampling": {"top_p": 0.5, "min_p": 0.25},
        "messages": [{"role": "user", "content": "report"}],
        "dialogue": {
            "tools": [
                {**tool, "name": "sub", "pointer": "/tools/0/parameters"},
                {**tool, "name": "add", "strict": True, "pointer": "/tools/1/parameters"},
            ],
            "parallel_tool_calls": False,
            "thinking": True,
            "effort": "high",
        },
        "max_tokens": 99,
        "format": {"kind": "json_schema", "pointer": "/text/format/schema", "schema": schema},
        "logprobs": 4,
    }


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ("none", []),
        ("auto", []),
        ("required", ["add"]),
        ({"type": "function", "name": "sub"}, ["sub"]),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "sub"}],
            },
            ["sub"],
        ),
    ],
)
def test_a_tool_choice_is_kept_to(client: openai.OpenAI, choice: Any, called: list[str]) -> None:
    response = respond(client, "3", tools=[ADD, SUB], tool_choice=choice)
    calls = [item.name for item in response.output if item.type == "function_call"]
    assert calls == called
    echoed = response.tool_choice
    assert (echoed if isinstance(choice, str) else echoed.to_dict()) == choice


def test_items_become_messages(client: openai.OpenAI) -> None:
    items = [
        {"role": "developer", "content": "Be kind."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "hm"}],
            "encrypted_content": None,
        },
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "id": "fc_1"},
        {
            "type": "function_call_output",
            "call_id": "c",
            "output": [{"type": "input_text", "text": "1"}],
        },
        {"role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "report"},
    ]
    assert asked(client, items, instructions="Be brief.")["messages"] == [
        {"role": "system", "content": "Be brief.\n\nBe kind."},
        {"role": "user", "content": "a"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "content": "1", "tool_call_id": "c"},
        {"role": "assistant", "content": "b"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "report"},
    ]


def test_a_transcript_leaves_its_history_as_it_was() -> None:
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    before = json.dumps(history)
    transcript = Transcript(history)
    transcript.call("c", "f", "{}")
    assert json.dumps(history) == before
    assert [message["role"] for message in transcript.messages] == [
        "user",
        "assistant",
        "assistant",
    ]


def test_a_turn_ends_when_somebody_else_speaks() -> None:
    transcript = Transcript()
    transcript.answer("a")
    transcript.message("user", "b")
    transcript.call("c", "f", "{}")
    roles = [(message["role"], "tool_calls" in message) for message in transcript.messages]
    assert roles == [("assistant", False), ("user", False), ("assistant", True)]


# ---- what is refused -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"input": []}, "/input"),
        ({"input": 5}, "/input"),
        ({"input": [{"role": "user"}]}, "/input/0/content"),
        ({"input": [{"role": "robot", "content": "x"}]}, "/input/0/role"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": ""}]}, "/input/0/call_id"),
        ({"input": [{"role": "user", "content": "x"}] * 513}, "/input"),
        ({"tools": [ADD, ADD]}, "/tools"),
        ({"tool_choice": "required"}, "/tool_choice"),
        ({"top_logprobs": 2}, "/top_logprobs"),
        ({"metadata": {"a": 1}}, "/metadata/a"),
        ({"metadata": {"a": "x" * 513}}, "/metadata/a"),
        ({"max_output_tokens": 0}, "/max_output_tokens"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": False}}},
         "/text/format/schema"),
        ({"messages": []}, "/messages"),
        ({"n": 2}, "/n"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_pointed_at(
    counter: LiveServer, wrong: dict[str, Any], pointer: str
) -> None:
    body = {"model": FAKE, "input": "1", **wrong}
    response = counter.client.post("/v1/responses", json=body)
    assert (response.status_code, response.json()["code"]) == (400, "invalid-request")
    assert pointer in [error["pointer"] for error in response.json()["errors"]]


def test_what_the_worker_says_of_messages_is_said_of_items(counter: LiveServer) -> None:
    result = {"type": "function_call_output", "call_id": "never", "output": "1"}
    body = {"model": FAKE, "input": [{"role": "user", "content": "1"}, result]}
    problem = counter.client.post("/v1/responses", json=body).json()
    assert (problem["param"], problem["detail"]) == ("input", "input: names no call")
    assert problem["errors"] == [{"pointer": "/input", "detail": "names no call"}]


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input"),
        (
            {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]},
            "input",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning"),
        ({"text": {"verbosity": "low"}}, "text"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "x"}}, "prompt"),
        ({"max_tool_calls": 3}, "max_tool_calls"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name(
    counter: LiveServer, wrong: dict[str, Any], param: str
) -> None:
    body = {"model": FAKE, "input": "1", **wrong}
    problem = counter.client.post("/v1/responses", json=body).json()
    assert (problem["code"], problem["param"]) == ("unsupported-parameter", param)


def test_what_means_nothing_here_is_accepted(client: openai.OpenAI) -> None:
    response = respond(
        client,
        "1",
        include=["reasoning.encrypted_content"],
        user="me",
        service_tier="auto",
        safety_identifier="x",
        prompt_cache_key="k",
        truncation="disabled",
        background=False,
        text={"verbosity": "medium"},
    )
    assert response.output_text == "1 "
