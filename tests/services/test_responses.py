"""Responses, acted out by the fake engine and read by the real client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.live import FAKE, LiveServer, eventually, fake_model

PARAMETERS = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
ADD: Any = {"type": "function", "name": "add", "parameters": PARAMETERS, "strict": True}
SUB: Any = {"type": "function", "name": "sub", "parameters": PARAMETERS, "strict": False}
LOGPROBS: Any = ["message.output_text.logprobs"]


def respond(client: openai.OpenAI, input_: Any, **more: Any) -> Any:
    return client.responses.create(model=FAKE, input=input_, **more)


def asked(client: openai.OpenAI, input_: Any = "report", **more: Any) -> dict[str, Any]:
    """What the worker was asked, as it reports it."""
    said: dict[str, Any] = json.loads(respond(client, input_, **more).output_text)
    return said


# ---- what comes back -----------------------------------------------------------------------------
def test_a_response_holds_what_was_asked_and_what_came_of_it(client: openai.OpenAI) -> None:
    response = respond(
        client,
        "3",
        instructions="Count.",
        metadata={"a": "b"},
        max_output_tokens=50,
        temperature=0.5,
        tools=[SUB],
        tool_choice="none",
        reasoning={"effort": "low", "summary": "auto"},
        store=False,
    )
    assert (response.output_text, response.status, response.error) == ("1 2 3 ", "completed", None)
    assert response.output[0].to_dict() == {
        "id": response.output[0].id,
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "1 2 3 ", "annotations": [], "logprobs": []}],
    }
    assert (response.instructions, response.metadata) == ("Count.", {"a": "b"})
    assert (response.max_output_tokens, response.temperature) == (50, 0.5)
    assert response.tools[0].to_dict() == {**SUB, "description": None}
    assert (response.tool_choice, response.store) == ("none", False)
    assert response.reasoning.to_dict() == {"effort": "low", "summary": "auto"}
    assert response.usage.output_tokens == 3
    assert response.usage.total_tokens == response.usage.input_tokens + 3
    assert response.created_at <= response.completed_at


def test_reasoning_is_an_item_before_the_message(client: openai.OpenAI) -> None:
    response = respond(client, "2 think")
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.output[0].content[0].text == "hm hm hm "
    assert response.output[0].summary == []
    assert response.usage.output_tokens_details.reasoning_tokens == 3
    assert [i.type for i in respond(client, "2 think", reasoning={"effort": "none"}).output] == [
        "message"
    ]


def test_events_come_in_openais_order(client: openai.OpenAI) -> None:
    events = list(respond(client, "2 think say both", tools=[ADD, SUB], stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    message = [
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
    ]
    call = [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.reasoning_text.delta"] * 3,
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        *message,
        *call,
        *call,
        "response.completed",
    ]
    final = events[-1].response
    done = [event for event in events if event.type == "response.output_item.done"]
    assert [event.item for event in done] == final.output
    assert [event.output_index for event in done] == [0, 1, 2, 3]
    added = [event for event in events if event.type == "response.output_item.added"]
    assert [event.item.id for event in added] == [item.id for item in final.output]
    assert all(event.item.status == "in_progress" for event in added)
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == final.output_text == "1 2 "
    assert {e.item_id for e in events if e.type == "response.output_text.delta"} == {
        final.output[1].id
    }
    assert [(c.name, json.loads(c.arguments)) for c in final.output[2:]] == [
        ("add", {"n": 2}),
        ("sub", {"n": 2}),
    ]


def test_a_stream_has_named_events_and_no_done_marker(counter: LiveServer) -> None:
    body = {"model": FAKE, "input": "1", "stream": True}
    text = counter.client.post("/v1/responses", json=body).text
    blocks = [block.split("\n") for block in text.split("\n\n") if block]
    for name, data in blocks:
        assert name == "event: " + json.loads(data.removeprefix("data: "))["type"]
    assert blocks[-1][0] == "event: response.completed"
    assert "[DONE]" not in text


class Count(BaseModel):
    """What is counted."""

    count: int


def test_the_client_parses_formats_and_calls(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(model=FAKE, input="6", text_format=Count)
    assert parsed.output_parsed == Count(count=6)
    with client.responses.stream(
        model=FAKE, input="6 think call", text_format=Count, tools=[ADD]
    ) as stream:
        deltas = [e.delta for e in stream if e.type == "response.function_call_arguments.delta"]
        final = stream.get_final_response()
    assert json.loads("".join(deltas)) == {"n": 6}
    (call,) = [item for item in final.output if item.type == "function_call"]
    assert call.parsed_arguments == {"n": 6}
    with client.responses.stream(model=FAKE, input="6", text_format=Count) as stream:
        assert stream.get_final_response().output_parsed == Count(count=6)
    loose = respond(client, "6", text={"format": {"type": "json_object"}})
    assert json.loads(loose.output_text) == {"count": 6}
    assert loose.text.format.type == "json_object"


def test_probabilities_come_when_they_are_included(client: openai.OpenAI) -> None:
    response = respond(client, "think 2", include=LOGPROBS, top_logprobs=2)
    logprobs = response.output[1].content[0].logprobs
    assert [(t.token, t.logprob, t.bytes) for t in logprobs] == [
        ("1 ", -0.5, [49, 32]),
        ("2 ", -0.5, [50, 32]),
    ]
    assert [t.token for t in logprobs[0].top_logprobs] == ["1 ", "or-1"]
    deltas = [
        event.logprobs
        for event in respond(client, "accent", include=LOGPROBS, stream=True)
        if event.type == "response.output_text.delta"
    ]
    assert [[token.bytes for token in delta] for delta in deltas] == [[[0xC3], [0xA9]]]
    assert respond(client, "2").output[0].content[0].logprobs == []


def test_a_response_that_was_cut_says_why(client: openai.OpenAI) -> None:
    response = respond(client, "5", max_output_tokens=2)
    assert (response.status, response.output_text) == ("incomplete", "1 2 ")
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[0].status == "incomplete"
    *_, last = respond(client, "5", max_output_tokens=2, stream=True)
    assert last.type == "response.incomplete"


def test_a_model_that_says_nothing_gives_an_empty_message(client: openai.OpenAI) -> None:
    response = respond(client, "0")
    assert (response.status, response.output_text) == ("completed", "")
    assert [item.type for item in response.output] == ["message"]


def test_stopping_ends_a_response_in_order(client: openai.OpenAI, counter: LiveServer) -> None:
    stopped = False
    for event in respond(client, "1000 sleep", stream=True):
        if event.type == "response.created":
            id_ = event.response.id
        if event.type == "response.output_text.delta" and not stopped:
            reply = counter.client.post("/v1/halt", json={"request_id": id_})
            stopped = reply.status_code == 200
    assert (event.type, event.response.status) == ("response.incomplete", "incomplete")
    assert event.response.incomplete_details.reason == "halted"
    eventually(lambda: counter.idle())


def test_a_failure_is_told_as_an_event_and_as_an_error(client: openai.OpenAI) -> None:
    events: list[Any] = []
    with pytest.raises(openai.APIError, match="SIGABRT") as caught:
        events.extend(respond(client, "9 crash", stream=True))
    assert events[-1].type == "response.failed"
    assert (events[-1].response.status, events[-1].response.error.code) == (
        "failed",
        "worker-crashed",
    )
    assert caught.value.code == "worker-crashed"
    with pytest.raises(openai.InternalServerError, match="SIGABRT"):
        respond(client, "9 crash")
    with pytest.raises(openai.BadRequestError):  # before anything is told it is a status
        respond(client, "x" * 5000, stream=True)


# ---- going on ------------------------------------------------------------------------------------
def test_a_conversation_goes_on_from_a_response(client: openai.OpenAI) -> None:
    first = respond(client, "3 think say call", tools=[ADD], instructions="Old.")
    call = next(item for item in first.output if item.type == "function_call")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "42"}
    second = respond(client, [result], previous_response_id=first.id, tools=[ADD])
    assert second.output_text == "it is 42"
    assert second.previous_response_id == first.id
    asked_last = asked(client, previous_response_id=second.id, instructions="New.")
    assert asked_last["messages"] == [
        {"role": "system", "content": "New."},
        {"role": "user", "content": "3 think say call"},
        {
            "role": "assistant",
            "content": "1 2 3 ",
            "reasoning_content": "hm hm hm ",
            "tool_calls": [
                {
                    "id": call.call_id,
                    "type": "function",
                    "function": {"name": "add", "arguments": '{"n": 3}'},
                }
            ],
        },
        {"role": "tool", "content": "42", "tool_call_id": call.call_id},
        {"role": "assistant", "content": "it is 42"},
        {"role": "user", "content": "report"},
    ]
    again = asked(client, previous_response_id=first.id)["messages"]
    assert [message["role"] for message in again] == ["user", "assistant", "user"]


def test_a_conversation_may_be_sent_whole_instead(client: openai.OpenAI) -> None:
    first = respond(client, "3 think say both", tools=[ADD, SUB], store=False)
    calls = [item for item in first.output if item.type == "function_call"]
    results = [
        {"type": "function_call_output", "call_id": c.call_id, "output": c.name} for c in calls
    ]
    items = [{"role": "user", "content": "3"}, *first.output, *results]
    messages = asked(client, [*items, {"role": "user", "content": "report"}])["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "tool", "tool", "user"]
    assert messages[1]["content"] == "1 2 3 "
    assert messages[1]["reasoning_content"] == "hm hm hm "
    assert [c["function"]["name"] for c in messages[1]["tool_calls"]] == ["add", "sub"]


def test_what_is_not_kept_is_not_found(client: openai.OpenAI, counter: LiveServer) -> None:
    unkept = respond(client, "1", store=False)
    assert unkept.store is False
    kept = respond(client, "1")
    for id_ in (unkept.id, "resp_none"):
        with pytest.raises(openai.NotFoundError, match="not kept") as caught:
            respond(client, "2", previous_response_id=id_)
        assert caught.value.code == "response-not-found"
        assert caught.value.param == "previous_response_id"
    owners = counter.owner.post(
        "/v1/responses", json={"model": FAKE, "input": "1", "previous_response_id": kept.id}
    )
    assert owners.status_code == 404, "another caller's conversation"


def test_the_oldest_conversations_are_forgotten_first(tmp_path: Path) -> None:
    with (
        LiveServer(tmp_path, extra=[fake_model()], kept_responses=2) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="local", max_retries=0) as client,
    ):
        one, two = respond(client, "1"), respond(client, "2")
        respond(client, "3", previous_response_id=one.id, store=False)  # used: two is the oldest
        respond(client, "3")
        assert respond(client, "4", previous_response_id=one.id, store=False).output_text
        with pytest.raises(openai.NotFoundError):
            respond(client, "4", previous_response_id=two.id)


def test_what_is_kept_keeps_to_its_bytes_and_says_what_it_does_not_keep(tmp_path: Path) -> None:
    with (
        LiveServer(tmp_path, extra=[fake_model()], kept_responses_bytes=1000) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="local", max_retries=0) as client,
    ):
        one, two = respond(client, "1" + " " * 300), respond(client, "2" + " " * 300)
        three = respond(client, "3" + " " * 300)
        assert (one.store, two.store, three.store) == (True, True, True)
        with pytest.raises(openai.NotFoundError):
            respond(client, "4", previous_response_id=one.id, store=False)
        assert respond(client, "4", previous_response_id=three.id, store=False).output_text
        assert respond(client, "5" + " " * 2000).store is False, "it alone is too large"


def test_a_conversation_goes_on_after_a_restart_and_forks_where_it_is_gone_on_twice(
    tmp_path: Path,
) -> None:
    with (
        LiveServer(tmp_path, extra=[fake_model()]) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="local", max_retries=0) as client,
    ):
        first = respond(client, "1")
    with (
        LiveServer(tmp_path, extra=[fake_model()]) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="local", max_retries=0) as client,
    ):
        second = respond(client, "2", previous_response_id=first.id)
        third = respond(client, "3", previous_response_id=first.id)
        for last, said in ((second, "2"), (third, "3")):
            messages = asked(client, previous_response_id=last.id)["messages"]
            assert [m["content"] for m in messages if m["role"] == "user"] == ["1", said, "report"]
        assert server.client.get("/v1/sessions").json()["data"] == [], "they are nobody's chats"
