"""Tools from end to end: told of, called, answered, and the conversation goes on."""

from __future__ import annotations

import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has none
import openai
import pytest

from tabagent.catalog.models import BUILTIN
from tests.engine_proof.models import CALLER, PLAIN, SPELLER, THINKER
from tests.live import LiveServer

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"enum": ["celsius", "kelvin"]},
    },
    "required": ["city", "days", "unit"],
    "additionalProperties": False,
}
REMIND = {
    "type": "object",
    "properties": {
        "at": {"type": "string", "pattern": "^[0-2][0-9]:[0-5][0-9]$"},
        "tags": {"type": "array", "items": {"enum": ["home", "work"]}, "maxItems": 2},
    },
    "required": ["at"],
}
SCHEMAS: dict[str, Any] = {"weather": WEATHER, "remind": REMIND, "now": {"maxProperties": 0}}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "remind", "parameters": REMIND}},
    {"type": "function", "function": {"name": "now", "description": "The time."}},
]
ASKED: Any = [{"role": "user", "content": "What will the weather be?"}]
CALLERS = [CALLER, THINKER, SPELLER, PLAIN, BUILTIN]
BUDGET = {"thinking_budget_tokens": 6}


def named(name: str) -> Any:
    return {"type": "function", "function": {"name": name}}


def extra(model: str) -> dict[str, Any]:
    """The thinkers would never come to the point by themselves."""
    return BUDGET if model in (THINKER, SPELLER) else {}


def check(calls: Any) -> list[str]:
    """The names of calls whose arguments are all that their schemas ask for."""
    for call in calls:
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
    assert len({call.id for call in calls}) == len(calls)
    return [call.function.name for call in calls]


@pytest.mark.parametrize("model", CALLERS)
@pytest.mark.parametrize("name", SCHEMAS)
def test_a_named_function_is_called_as_its_schema_says(
    client: openai.OpenAI, model: str, name: str
) -> None:
    answer = client.chat.completions.create(
        model=model,
        messages=ASKED,
        tools=TOOLS,
        tool_choice=named(name),
        seed=1,
        extra_body=extra(model),
    ).choices[0]
    assert answer.finish_reason == "tool_calls"
    assert answer.message.content is None
    assert check(answer.message.tool_calls) == [name]


@pytest.mark.parametrize("model", CALLERS)
def test_a_round_trip_as_a_stream(client: openai.OpenAI, server: LiveServer, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "tools": TOOLS, "extra_body": extra(model)}
    with client.chat.completions.stream(
        messages=ASKED, tool_choice=named("weather"), temperature=0, **asked
    ) as stream:
        fragments = [
            event.arguments_delta
            for event in stream
            if event.type == "tool_calls.function.arguments.delta"
        ]
        first = stream.get_final_completion().choices[0]
    assert first.message.tool_calls
    (call,) = first.message.tool_calls
    assert first.finish_reason == "tool_calls"
    assert "".join(fragments) == call.function.arguments
    assert len(fragments) > 1
    jsonschema.validate(json.loads(call.function.arguments), WEATHER)

    result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 21 degrees."}
    messages: Any = [*ASKED, first.message.model_dump(exclude_none=True), result]
    messages[1].pop("parsed", None)
    for kept in messages[1]["tool_calls"]:
        kept.pop("index", None)
        kept["function"].pop("parsed_arguments", None)
    body = {"model": model, "messages": messages, "tools": TOOLS}
    prompt = server.client.post("/v1/apply-template", json=body).json()["prompt"]
    assert prompt.count("Sunny, 21 degrees.") == 1
    told = prompt.index('"weather"'), prompt.rindex('"weather"'), prompt.index("Sunny")
    assert told == tuple(sorted(told)) and told[0] != told[1], "told of, called, answered"
    assert json.dumps(json.loads(call.function.arguments), ensure_ascii=False) in prompt

    last = client.chat.completions.create(
        messages=messages, max_tokens=30, tool_choice="none", temperature=0, **asked
    )
    assert last.usage and last.usage.prompt_tokens > 20
    assert last.choices[0].message.tool_calls is None
    assert last.choices[0].finish_reason in ("stop", "length")


@pytest.mark.parametrize("model", CALLERS)
def test_a_required_call_is_one_of_them(client: openai.OpenAI, model: str) -> None:
    seen = set()
    for seed in range(6):
        answer = client.chat.completions.create(
            model=model,
            messages=ASKED,
            tools=TOOLS,
            tool_choice="required",
            parallel_tool_calls=False,
            temperature=2,
            seed=seed,
            extra_body={**extra(model), "top_k": 0, "top_p": 1, "min_p": 0},
        ).choices[0]
        assert answer.finish_reason == "tool_calls"
        (name,) = check(answer.message.tool_calls)
        seen.add(name)
    assert len(seen) > 1, "every tool can be chosen"


@pytest.mark.parametrize("parallel", [True, False])
def test_several_calls_come_only_where_they_may(client: openai.OpenAI, parallel: bool) -> None:
    counts = set()
    for seed in range(8):
        answer = client.chat.completions.create(
            model=CALLER,
            messages=ASKED,
            tools=TOOLS,
            tool_choice="required",
            parallel_tool_calls=parallel,
            max_tokens=300,
            seed=seed,
            logit_bias={"\n": 20},  # which parts calls
        ).choices[0]
        calls = answer.message.tool_calls or []
        if answer.finish_reason == "tool_calls":
            counts.add(len(calls))
            check(calls)
        else:  # an endless row of calls: all but the last are whole
            assert answer.finish_reason == "length"
            check(calls[:-1])
            counts.add(len(calls))
    assert (max(counts) > 1) is parallel


def test_auto_leaves_it_to_the_model_and_none_forbids_it(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": CALLER, "messages": ASKED, "tools": TOOLS, "max_tokens": 40}
    auto = client.chat.completions.create(**asked, seed=2).choices[0]
    assert auto.message.content, "an untrained model does not call by itself"
    never = client.chat.completions.create(**asked, tool_choice="none", seed=2).choices[0]
    assert never.message.content and never.message.tool_calls is None


def test_a_call_that_the_model_begins_by_itself_is_held_to_the_schema(
    client: openai.OpenAI,
) -> None:
    for seed in range(4):
        answer = client.chat.completions.create(
            model=THINKER,
            messages=ASKED,
            tools=TOOLS,
            parallel_tool_calls=False,
            seed=seed,
            logit_bias={"<tool_call>": 100},
            extra_body={"enable_thinking": False},
        ).choices[0]
        assert answer.finish_reason == "tool_calls"
        assert len(check(answer.message.tool_calls)) == 1


def test_a_tool_may_be_allowed_without_the_others(client: openai.OpenAI) -> None:
    allowed: Any = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [named("remind"), named("now")]},
    }
    for seed in range(4):
        answer = client.chat.completions.create(
            model=CALLER, messages=ASKED, tools=TOOLS, tool_choice=allowed, seed=seed,
            parallel_tool_calls=False,
        )  # fmt: skip
        assert set(check(answer.choices[0].message.tool_calls)) <= {"remind", "now"}


def test_a_call_through_responses(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "strict": True, **TOOLS[0]["function"]}]
    choice: Any = {"type": "function", "name": "weather"}
    first = client.responses.create(
        model=CALLER, input="The weather?", tools=tools, tool_choice=choice
    )
    (call,) = first.output
    assert call.type == "function_call"
    jsonschema.validate(json.loads(call.arguments), WEATHER)
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}
    second = client.responses.create(
        model=CALLER,
        input=[result],
        previous_response_id=first.id,
        tools=tools,
        max_output_tokens=10,
    )
    assert first.usage and second.usage
    assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens
    assert second.usage.input_tokens_details.cached_tokens >= first.usage.input_tokens


@pytest.mark.parametrize(
    ("schema", "where"),
    [({"uniqueItems": True}, "/uniqueItems"), ({"properties": {"a": {"not": {}}}}, "/properties/a/not")],
)  # fmt: skip
def test_a_forced_call_that_cannot_be_held_is_refused(
    client: openai.OpenAI, schema: Any, where: str
) -> None:
    tools: Any = [TOOLS[2], {"type": "function", "function": {"name": "f", "parameters": schema}}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model=CALLER, messages=ASKED, tools=tools, tool_choice="required"
        )
    errors = refused.value.response.json()["errors"]
    assert [e["pointer"] for e in errors] == ["/tools/1/function/parameters" + where]
