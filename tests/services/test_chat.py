"""Chat completions, acted out by the fake engine and read by the real client."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.live import FAKE, LiveServer, eventually
from tests.transports.test_http import start_chat

PARAMETERS = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}


def tool(name: str, **more: Any) -> Any:
    return {"type": "function", "function": {"name": name, "parameters": PARAMETERS, **more}}


ADD, SUB = tool("add", strict=True), tool("sub")


def chat(client: openai.OpenAI, text: str, **more: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=FAKE, messages=messages, **more)


# ---- what comes back -----------------------------------------------------------------------------
def test_reasoning_comes_apart_from_the_answer(client: openai.OpenAI) -> None:
    answer = chat(client, "2 think")
    assert answer.choices[0].message.content == "1 2 "
    assert answer.choices[0].message.reasoning_content == "hm hm hm "
    assert answer.usage.completion_tokens_details.reasoning_tokens == 3
    assert not hasattr(chat(client, "2").choices[0].message, "reasoning_content")
    deltas = [c.choices[0].delta for c in chat(client, "2 think", stream=True)]
    assert [(d.content, getattr(d, "reasoning_content", None)) for d in deltas] == [
        ("", None),
        *[(None, "hm ")] * 3,
        ("1 ", None),
        ("2 ", None),
        (None, None),
    ]


def test_several_answers_are_told_apart(client: openai.OpenAI) -> None:
    texts = ["1 2 ", "1 2 3 ", "1 2 3 4 "]
    plain = chat(client, "2", n=3)
    assert [c.index for c in plain.choices] == [0, 1, 2]
    assert [c.message.content for c in plain.choices] == texts
    assert plain.usage.completion_tokens == 2 + 3 + 4
    told, roles, ends = ["", "", ""], [0, 0, 0], [0, 0, 0]
    for chunk in chat(client, "2", n=3, stream=True):
        (choice,) = chunk.choices
        assert not ends[choice.index], "something after the end"
        told[choice.index] += choice.delta.content or ""
        roles[choice.index] += choice.delta.role == "assistant"
        if choice.finish_reason:
            ends[choice.index] += 1
            assert choice.delta.to_dict() == {}
    assert (told, roles, ends) == (texts, [1, 1, 1], [1, 1, 1])


def test_a_limit_ends_only_the_choice_that_reaches_it(client: openai.OpenAI) -> None:
    answer = chat(client, "2", n=2, max_tokens=2)
    assert [(c.finish_reason, c.stop_reason) for c in answer.choices] == [
        ("stop", "eos"),
        ("length", "length"),
    ]


def test_tools_are_called_and_answered_over_a_stream(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "7 both"}]
    calls: dict[int, dict[str, str]] = {}
    finish = None
    for chunk in client.chat.completions.create(
        model=FAKE, messages=messages, tools=[ADD, SUB], stream=True
    ):
        for part in chunk.choices[0].delta.tool_calls or []:
            assert part.function is not None
            if part.index not in calls:
                assert part.type == "function" and part.id and part.function.name
                calls[part.index] = {"id": part.id, "name": part.function.name, "arguments": ""}
            else:
                assert part.id is None and part.function.name is None
            calls[part.index]["arguments"] += part.function.arguments or ""
        finish = chunk.choices[0].finish_reason or finish
    assert finish == "tool_calls"
    assert [c["name"] for c in calls.values()] == ["add", "sub"]
    assert [json.loads(c["arguments"]) for c in calls.values()] == [{"n": 7}, {"n": 7}]
    messages.append(
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": call["arguments"]},
                }
                for call in calls.values()
            ],
        }
    )
    messages += [
        {"role": "tool", "tool_call_id": call["id"], "content": "42"} for call in calls.values()
    ]
    end = client.chat.completions.create(model=FAKE, messages=messages, tools=[ADD, SUB])
    assert end.choices[0].message.content == "it is 42"
    assert end.choices[0].finish_reason == "stop"


def test_an_answer_goes_back_as_the_client_holds_it(
    client: openai.OpenAI, counter: LiveServer
) -> None:
    answer = chat(client, "3 think say call", tools=[ADD]).choices[0].message
    messages: Any = [
        {"role": "user", "content": "3"},
        answer,
        {"role": "tool", "tool_call_id": answer.tool_calls[0].id, "content": "x"},
        {"role": "user", "content": "report"},
    ]
    end = client.chat.completions.create(model=FAKE, messages=messages, tools=[ADD])
    seen = json.loads(end.choices[0].message.content or "")["messages"]
    assert seen[1] == {
        "role": "assistant",
        "content": "1 2 3 ",
        "reasoning_content": "hm hm hm ",
        "tool_calls": [
            {
                "id": "call_0",
                "type": "function",
                "function": {"name": "add", "arguments": '{"n": 3}'},
            }
        ],
    }
    assert seen[2] == {"role": "tool", "content": "x", "tool_call_id": "call_0"}


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ("none", []),
        ("auto", []),
        ("required", ["add"]),
        ({"type": "function", "function": {"name": "sub"}}, ["sub"]),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "sub"}}],
                },
            },
            ["sub"],
        ),
    ],
)
def test_a_tool_choice_is_kept_to(client: openai.OpenAI, choice: Any, called: list[str]) -> None:
    message = chat(client, "3", tools=[ADD, SUB], tool_choice=choice).choices[0].message
    assert [call.function.name for call in message.tool_calls or []] == called
    assert (message.content is None) == bool(called)


def test_calls_come_one_at_a_time_when_asked_to(client: openai.OpenAI) -> None:
    for parallel, count in ((True, 2), (False, 1)):
        answer = chat(client, "1 both", tools=[ADD, SUB], parallel_tool_calls=parallel)
        assert len(answer.choices[0].message.tool_calls) == count


class Count(BaseModel):
    """What is counted."""

    count: int
    names: list[str]


class Add(BaseModel):
    """Adds."""

    n: int


def test_the_client_parses_formats_and_calls(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "6"}]
    answer = client.chat.completions.parse(model=FAKE, messages=messages, response_format=Count)
    assert answer.choices[0].message.parsed == Count(count=6, names=["6"])
    with client.chat.completions.stream(
        model=FAKE, messages=messages, response_format=Count
    ) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == Count(
            count=6, names=["6"]
        )
    call: Any = [{"role": "user", "content": "6 call"}]
    tools: Any = [openai.pydantic_function_tool(Add)]
    with client.chat.completions.stream(model=FAKE, messages=call, tools=tools, n=2) as stream:
        choices = stream.get_final_completion().choices
    parsed = [c.message.tool_calls[0].function.parsed_arguments for c in choices if c.message.tool_calls]  # fmt: skip
    assert parsed == [Add(n=6), Add(n=7)]
    loose = chat(client, "6", response_format={"type": "json_object"})
    assert json.loads(loose.choices[0].message.content) == {"count": 6}


def test_probabilities_are_told_of_every_token(client: openai.OpenAI) -> None:
    choice = chat(client, "2", logprobs=True, top_logprobs=2).choices[0]
    assert [(t.token, t.logprob, t.bytes) for t in choice.logprobs.content] == [
        ("1 ", -0.5, [49, 32]),
        ("2 ", -0.5, [50, 32]),
    ]
    assert [t.token for t in choice.logprobs.content[0].top_logprobs] == ["1 ", "or-1"]
    streamed = [
        token
        for chunk in chat(client, "2", logprobs=True, top_logprobs=2, stream=True)
        for token in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else [])
    ]
    assert streamed == choice.logprobs.content
    alone = chat(client, "2", logprobs=True).choices[0].logprobs.content
    assert [t.top_logprobs for t in alone] == [[], []]
    assert chat(client, "2").choices[0].logprobs is None


def test_a_character_in_two_tokens_has_all_its_bytes(client: openai.OpenAI) -> None:
    choice = chat(client, "accent", logprobs=True).choices[0]
    assert choice.message.content == "é"
    assert [t.bytes for t in choice.logprobs.content] == [[0xC3], [0xA9]]
    assert b"".join(bytes(t.bytes) for t in choice.logprobs.content).decode() == "é"


def test_usage_and_timings_tell_where_tokens_came_from(counter: LiveServer) -> None:
    body = counter.chat("4 cached draft think").json()
    assert body["usage"] == {
        "prompt_tokens": 4,
        "completion_tokens": 7,
        "total_tokens": 11,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {
            "reasoning_tokens": 3,
            "accepted_prediction_tokens": 5,
            "rejected_prediction_tokens": 3,
        },
    }
    assert (body["timings"]["draft_n"], body["timings"]["draft_n_accepted"]) == (8, 5)
    assert "draft_n" not in counter.chat("4").json()["timings"]


# ---- how it ends early ---------------------------------------------------------------------------
def test_stopping_ends_every_choice_in_order(client: openai.OpenAI, counter: LiveServer) -> None:
    told, ends, stopped = ["", ""], dict[int, str](), False
    for chunk in chat(client, "1000 sleep", n=2, stream=True):
        (choice,) = chunk.choices
        told[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            ends[choice.index] = choice.stop_reason
        if all(told) and not stopped:
            reply = counter.client.post("/v1/halt", json={"request_id": chunk.id})
            stopped = reply.status_code == 200
    assert ends == {0: "halted", 1: "halted"}
    eventually(lambda: counter.idle())


def test_hanging_up_frees_the_slots_of_all_choices(counter: LiveServer) -> None:
    with start_chat(counter, "1000 sleep", n=3, stream=True) as connection:
        assert b"data: " in connection.recv(65536)
        eventually(lambda: counter.loaded()["slots_used"] == 3)
    eventually(lambda: counter.idle())


def test_a_crash_says_how_many_tokens_of_all_choices_had_come(counter: LiveServer) -> None:
    problem = counter.chat("9 crash", n=2).json()
    assert (problem["code"], problem["tokens_sent"]) == ("worker-crashed", 4)
