"""Chat completions: what a request means to the worker, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tabagent import wire
from tests.live import FAKE, LiveServer, chat_body, fake_model
from tests.services.test_chat import ADD, PARAMETERS, tool


def asked(server: LiveServer, **more: Any) -> dict[str, Any]:
    """What the worker was asked, as it reports it."""
    said: dict[str, Any] = json.loads(server.answer("report", **more))
    del said["id"]
    return said


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


def test_an_adapter_is_found_by_its_name(counter: LiveServer, tmp_path: Path) -> None:
    models = [fake_model(), fake_model("me/style", "/style", task="adapter")]
    with LiveServer(tmp_path, extra=models) as server:
        loras = asked(server, lora=[{"id": "me/style", "scale": 0.5}, {"id": "style"}])["loras"]
        assert loras == [["/style", 0.5], ["/style", 1.0]]
        model = server.chat("1", lora=[{"id": FAKE}]).json()
        assert (model["code"], model["param"]) == ("wrong-model-task", "lora")
    unknown = counter.chat("1", lora=[{"id": 0, "scale": 0.5}]).json()
    assert (unknown["code"], unknown["param"]) == ("model-not-found", "lora")
