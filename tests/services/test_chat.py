"""Chat completions, acted out by the fake engine and read by the real client."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tabagent import wire
from tests.live import FAKE, LiveServer, chat_body, eventually, fake_model
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


def asked(server: LiveServer, **more: Any) -> dict[str, Any]:
    """What the worker was asked, as it reports it."""
    said: dict[str, Any] = json.loads(server.answer("report", **more))
    del said["id"]
    return said


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


# ---- what the worker is told ---------------------------------------------------------------------
SAMPLING: dict[str, Any] = {
    "temperature": 0.5, "dynatemp_range": 0.25, "dynatemp_exponent": 1.5, "top_k": 7, "top_p": 0.5,
    "min_p": 0.25, "typical_p": 0.5, "top_n_sigma": 1.5, "xtc_probability": 0.5,
    "xtc_threshold": 0.125, "dry_multiplier": 0.75, "dry_base": 1.75, "dry_allowed_length": 3,
    "dry_penalty_last_n": -1, "dry_sequence_breakers": ["\n", "é"], "mirostat": 2,
    "mirostat_tau": 4.5, "mirostat_eta": 0.25, "repeat_penalty": 1.25, "repeat_last_n": 32,
    "presence_penalty": -1.5, "frequency_penalty": 1.5, "seed": 7, "ignore_eos": True,
}  # fmt: skip


def test_every_sampling_parameter_reaches_the_worker(counter: LiveServer) -> None:
    assert SAMPLING.keys() | {"logit_bias"} == set(wire.Sampling.__struct_fields__)
    bias = {"15": 2, " word": -7.5, "16": -100}
    sampling = asked(counter, **SAMPLING, logit_bias=bias)["sampling"]
    assert sampling.pop("logit_bias") == [[15, 2.0], [" word", -7.5], [16, -math.inf]]
    assert sampling == SAMPLING


def test_what_is_left_out_is_left_to_the_model(counter: LiveServer) -> None:
    command = asked(counter)
    assert command.keys() == {"type", "sampling", "messages", "dialogue"}
    assert command["sampling"] == command["dialogue"] == {}


def test_tools_and_format_say_where_the_request_has_them(counter: LiveServer) -> None:
    schema = {"type": "object", "properties": {}}
    named = {"name": "x", "schema": schema, "strict": True}
    command = asked(
        counter,
        tools=[ADD, {"type": "function", "function": {"name": "bare"}}],
        tool_choice="none",
        response_format={"type": "json_schema", "json_schema": named},
        stop=["a", "b"],
        n=1,
        max_completion_tokens=99,
    )
    assert command["dialogue"] == {
        "tools": [
            {
                "name": "add",
                "parameters": PARAMETERS,
                "strict": True,
                "pointer": "/tools/0/function/parameters",
            },
            {"name": "bare", "pointer": "/tools/1/function/parameters"},
        ],
        "tool_choice": "none",
    }
    assert command["format"] == {
        "kind": "json_schema",
        "pointer": "/response_format/json_schema/schema",
        "schema": schema,
    }
    assert (command["stop"], command["max_tokens"]) == (["a", "b"], 99)


@pytest.mark.parametrize(
    ("more", "dialogue", "budget"),
    [
        ({"reasoning_effort": "none"}, {"thinking": False, "effort": "none"}, None),
        ({"reasoning_effort": "xhigh"}, {"thinking": True, "effort": "xhigh"}, None),
        ({"enable_thinking": False}, {"thinking": False}, None),
        (
            {"chat_template_kwargs": {"enable_thinking": True, "thinking_style": "terse"}},
            {"thinking": True, "variables": {"thinking_style": "terse"}},
            None,
        ),
        (
            {"chat_template_kwargs": {"reasoning_effort": "low"}, "enable_thinking": True},
            {"thinking": True, "effort": "low"},
            None,
        ),
        ({"thinking_budget_tokens": 0}, {}, 0),
        ({"reasoning_budget": 5}, {}, 5),
        ({"reasoning_budget": -1, "thinking_budget_tokens": -1}, {}, None),
    ],
)
def test_thinking_is_told_in_every_way_that_clients_have(
    counter: LiveServer, more: dict[str, Any], dialogue: dict[str, Any], budget: int | None
) -> None:
    command = asked(counter, **more)
    assert (command["dialogue"], command.get("thinking_budget")) == (dialogue, budget)


def test_messages_reach_the_template_in_one_form(counter: LiveServer) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": parts},
        {"role": "user", "content": parts, "name": "Ada"},
        {"role": "assistant", "content": None, "tool_calls": [{**call, "index": 0}]},
        {"role": "tool", "content": parts, "tool_call_id": "c", "name": "f"},
        {"role": "assistant", "reasoning": "hm", "content": None, "refusal": None, "audio": None},
        {"role": "assistant", "content": "yes", "annotations": [], "function_call": None},
        {"role": "user", "content": "report"},
    ]
    body = {"model": FAKE, "messages": messages}
    reply = counter.client.post("/v1/chat/completions", json=body).json()
    assert json.loads(reply["choices"][0]["message"]["content"])["messages"] == [
        {"role": "system", "content": "ab"},
        {"role": "user", "content": "ab", "name": "Ada"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "ab", "tool_call_id": "c", "name": "f"},
        {"role": "assistant", "content": "", "reasoning_content": "hm"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "report"},
    ]


def test_what_means_nothing_here_is_accepted(counter: LiveServer) -> None:
    nothing = {
        "user": "me", "metadata": {"a": "b"}, "service_tier": "auto", "safety_identifier": "x",
        "prompt_cache_key": "k", "store": True, "verbosity": "medium", "modalities": ["text"],
        "functions": None, "tools": None, "tool_choice": None, "stream": None, "stop": None, "n": 1,
        "logprobs": False, "logit_bias": {}, "response_format": {"type": "text"}, "audio": None,
    }  # fmt: skip
    assert asked(counter, **nothing) == asked(counter)


# ---- what is refused -----------------------------------------------------------------------------
def message(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "1"}, more]}


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
WRONG: list[tuple[dict[str, Any], str]] = [
    (message(role="robot", content="x"), "/messages/1"),
    (message(role="user", content=None), "/messages/1/content"),
    (message(role="user", content=[]), "/messages/1/content"),
    (message(role="assistant"), "/messages/1"),
    (message(role="assistant", content=None, tool_calls=[]), "/messages/1"),
    (message(role="tool", content="x"), "/messages/1/tool_call_id"),
    (message(role="user", content="x", mood="gay"), "/messages/1/mood"),
    (message(role="assistant", tool_calls=[{**CALL, "id": ""}]), "/messages/1/tool_calls/0/id"),
    (message(role="assistant", content="", reasoning="a", reasoning_content="b"), "/messages/1"),
    ({"messages": [{"role": "user", "content": "1"}] * 513}, "/messages"),
    ({"tools": [tool(f"t{n}") for n in range(65)]}, "/tools"),
    ({"tools": [ADD, tool("add")]}, "/tools"),
    ({"tools": [tool("no spaces")]}, "/tools/0/function/name"),
    ({"tools": [{"type": "function", "function": {}}]}, "/tools/0/function/name"),
    ({"tool_choice": "required"}, "/tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "/tool_choice"),
    ({"tool_choice": "sometimes"}, "/tool_choice"),
    ({"response_format": {"type": "yaml"}}, "/response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 1}}},
     "/response_format/json_schema/schema"),
    ({"n": 0}, "/n"),
    ({"n": 5}, "/n"),
    ({"n": True}, "/n"),
    ({"top_logprobs": 2}, "/top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "/top_logprobs"),
    ({"logprobs": 3}, "/logprobs"),
    ({"logit_bias": {"5": 101}}, "/logit_bias/5"),
    ({"logit_bias": {str(n): 1 for n in range(301)}}, "/logit_bias"),
    ({"mirostat": 3}, "/mirostat"),
    ({"xtc_probability": 1.5}, "/xtc_probability"),
    ({"typical_p": 0}, "/typical_p"),
    ({"dry_base": 0.5}, "/dry_base"),
    ({"reasoning_effort": "extreme"}, "/reasoning_effort"),
    ({"reasoning_effort": "none", "enable_thinking": True}, "/enable_thinking"),
    ({"chat_template_kwargs": {"enable_thinking": "no"}}, "/chat_template_kwargs/enable_thinking"),
    ({"chat_template_kwargs": {"reasoning_effort": 3}}, "/chat_template_kwargs/reasoning_effort"),
    ({"chat_template_kwargs": {"enable_thinking": True}, "enable_thinking": False},
     "/chat_template_kwargs/enable_thinking"),
    ({"chat_template_kwargs": {"thinking": {"deep": 1}}}, "/chat_template_kwargs/thinking"),
    ({"thinking_budget_tokens": -2}, "/thinking_budget_tokens"),
    ({"thinking_budget_tokens": 1, "reasoning_budget": 2}, "/reasoning_budget"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "/max_completion_tokens"),
    ({"stop": ["x"] * 17}, "/stop"),
    ({"lora": [{"id": 0, "scale": "much"}]}, "/lora/0/scale"),
    ({"no_such": 1}, "/no_such"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "pointer"), WRONG)
def test_what_is_wrong_is_pointed_at(
    counter: LiveServer, wrong: dict[str, Any], pointer: str
) -> None:
    response = counter.client.post("/v1/chat/completions", json={**chat_body("1"), **wrong})
    assert (response.status_code, response.json()["code"]) == (400, "invalid-request")
    pointers = [error["pointer"] for error in response.json()["errors"]]
    assert pointer in pointers, pointers


UNSUPPORTED: list[tuple[dict[str, Any], str, str]] = [
    (message(role="user", content=[IMAGE]), "messages", "image_url"),
    (message(role="assistant", content="x", function_call={"name": "f"}), "messages", "function_call"),
    (message(role="assistant", content="", refusal="no"), "messages", "refusal"),
    ({"tools": [{"type": "web_search"}]}, "tools", "web_search"),
    ({"functions": [{"name": "f"}]}, "functions", "use `tools`"),
    ({"function_call": {"name": "f"}}, "function_call", "use `tools`"),
    ({"chat_template_kwargs": {"messages": "x"}}, "chat_template_kwargs", "messages"),
    ({"modalities": ["text", "audio"]}, "modalities", "cannot honour"),
    ({"prediction": {"type": "content", "content": "x"}}, "prediction", "cannot honour"),
    ({"web_search_options": {"a": 1}}, "web_search_options", "cannot honour"),
    ({"verbosity": "high"}, "verbosity", "in words"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "param", "says"), UNSUPPORTED)
def test_what_cannot_be_honoured_is_refused_by_its_name(
    counter: LiveServer, wrong: dict[str, Any], param: str, says: str
) -> None:
    response = counter.client.post("/v1/chat/completions", json={**chat_body("1"), **wrong})
    body = response.json()
    assert (body["code"], body["param"]) == ("unsupported-parameter", param)
    assert says in body["detail"]


def test_a_grammar_is_taken_only_where_the_owner_allows_it(
    counter: LiveServer, tmp_path: Path
) -> None:
    grammar = 'root ::= "yes" | "no"'
    refused = counter.chat("1", grammar=grammar).json()
    assert (refused["code"], refused["setting"]) == ("feature-disabled", "raw_grammar")
    with LiveServer(tmp_path, extra=[fake_model()], raw_grammar=True) as server:
        assert server.answer("1", grammar=grammar) == grammar
        format_ = asked(server, grammar=grammar)["format"]
        assert format_ == {"kind": "gbnf", "pointer": "/grammar", "grammar": grammar}
        both = server.chat("1", grammar=grammar, response_format={"type": "json_object"}).json()
        assert both["errors"][0]["pointer"] == "/grammar"
        long = server.chat("1", grammar="x" * 65537).json()
        assert long["errors"][0]["pointer"] == "/grammar"


def test_an_unknown_adapter_is_not_found(counter: LiveServer) -> None:
    problem = counter.chat("1", lora=[{"id": "no/such", "scale": 0.5}]).json()
    assert (problem["code"], problem["param"]) == ("model-not-found", "lora")


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
