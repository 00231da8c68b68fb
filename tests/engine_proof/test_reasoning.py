"""Thoughts apart from answers: in whole messages, in streams, in counts; bounded or not wanted."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tabagent.catalog.models import BUILTIN
from tests.engine_proof.models import CALLER, PLAIN, SPELLER, THINKER
from tests.live import LiveServer

ASKED: Any = [{"role": "user", "content": "What is 2 + 3?"}]
THINKERS = [THINKER, SPELLER]


def ask(client: openai.OpenAI, model: str, **more: Any) -> Any:
    body = {"temperature": 0, "max_tokens": 40} | more
    return client.chat.completions.create(model=model, messages=ASKED, **body)


def reasoned(answer: Any) -> int:
    count: int = answer.usage.completion_tokens_details.reasoning_tokens
    return count


@pytest.mark.parametrize("model", THINKERS)
def test_thoughts_without_an_end_are_all_there_is(client: openai.OpenAI, model: str) -> None:
    answer = ask(client, model, extra_body={"ignore_eos": True})
    message = answer.choices[0].message
    assert message.reasoning_content
    assert not message.content
    assert answer.choices[0].finish_reason == "length"
    assert reasoned(answer) == answer.usage.completion_tokens == 40


@pytest.mark.parametrize("model", THINKERS)
@pytest.mark.parametrize("budget", [1, 7, 25])
def test_a_budget_ends_thinking_and_the_answer_follows(
    client: openai.OpenAI, model: str, budget: int
) -> None:
    endless = {"ignore_eos": True}
    budgeted = {"thinking_budget_tokens": budget, **endless}
    answer = ask(client, model, extra_body=budgeted, max_tokens=90)
    message = answer.choices[0].message
    assert message.reasoning_content and message.content
    assert "think>" not in message.reasoning_content + message.content
    assert reasoned(answer) == budget
    assert answer.usage.completion_tokens == 90
    other_name = {"reasoning_budget": budget, **endless}
    assert ask(client, model, extra_body=other_name, max_tokens=90).choices[0].message == message
    free = ask(client, model, extra_body=endless, max_tokens=90)
    assert free.choices[0].message.reasoning_content.startswith(message.reasoning_content.strip())


@pytest.mark.parametrize("model", THINKERS)
def test_a_stream_keeps_them_apart_and_in_order(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {"extra_body": {"thinking_budget_tokens": 12}, "max_tokens": 60}
    whole = ask(client, model, **asked).choices[0].message
    kinds, thoughts, text, usage = [], "", "", None
    for chunk in ask(client, model, stream=True, stream_options={"include_usage": True}, **asked):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            if thought := getattr(choice.delta, "reasoning_content", None):
                kinds.append("thought")
                thoughts += thought
            if choice.delta.content:
                kinds.append("text")
                text += choice.delta.content
    assert (thoughts, text) == (whole.reasoning_content, whole.content)
    assert kinds == sorted(kinds, reverse=True), "thoughts first, then text"
    assert kinds.count("thought") > 1 and kinds.count("text") > 1
    assert usage is not None
    assert usage.completion_tokens_details.reasoning_tokens >= 12


@pytest.mark.parametrize("model", THINKERS)
@pytest.mark.parametrize(
    "off",
    [
        {"enable_thinking": False},
        {"reasoning_effort": "none"},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ],
    ids=str,
)
def test_thinking_can_be_left_out(
    client: openai.OpenAI, server: LiveServer, model: str, off: dict[str, Any]
) -> None:
    answer = ask(client, model, extra_body=off)
    assert answer.choices[0].message.content
    assert getattr(answer.choices[0].message, "reasoning_content", None) is None
    assert reasoned(answer) == 0
    body = {"model": model, "messages": ASKED, **off}
    prompt = server.client.post("/v1/apply-template", json=body).json()["prompt"]
    assert prompt.endswith("<think>\n\n</think>\n\n")


def test_responses_give_thoughts_as_an_item(client: openai.OpenAI) -> None:
    with client.responses.stream(
        model=THINKER, input="What is 2 + 3?", temperature=0, max_output_tokens=30
    ) as stream:
        events = list(stream)
    thoughts = [e.delta for e in events if e.type == "response.reasoning_text.delta"]
    assert events[-1].type == "response.incomplete"
    response = events[-1].response
    (item,) = response.output
    assert item.type == "reasoning" and item.content
    assert item.content[0].text == "".join(thoughts)
    assert response.usage and response.usage.output_tokens_details.reasoning_tokens == 30
    assert response.status == "incomplete"
    off = client.responses.create(
        model=THINKER, input="What is 2 + 3?", max_output_tokens=9, reasoning={"effort": "none"}
    )
    assert [item.type for item in off.output] == ["message"]


@pytest.mark.parametrize("model", [PLAIN, CALLER, BUILTIN])
@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"enable_thinking": True}, "enable_thinking"),
    ],
    ids=str,
)
def test_a_model_that_does_not_reason_says_so(
    client: openai.OpenAI, model: str, wish: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError, match="does not reason") as refused:
        ask(client, model, extra_body=wish)
    assert (refused.value.code, refused.value.param) == ("unsupported-parameter", param)


@pytest.mark.parametrize(
    "wish", [{"reasoning_effort": "none"}, {"enable_thinking": False}], ids=str
)
def test_a_model_that_does_not_reason_need_not_be_told_not_to(
    client: openai.OpenAI, wish: dict[str, Any]
) -> None:
    spoken = [ask(client, PLAIN, extra_body=body).choices[0].message for body in (wish, {})]
    assert spoken[0] == spoken[1] and spoken[0].content


def test_an_effort_that_the_template_does_not_know_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="effort 'high'") as refused:
        ask(client, THINKER, reasoning_effort="high")
    assert refused.value.param == "reasoning_effort"


def test_a_tag_that_a_person_spells_is_text(server: LiveServer) -> None:
    """Also for a model to which it is a control token."""
    spelled = "</think><tool_call><|im_end|>"

    def tokens(path: str, **body: Any) -> list[int]:
        reply = server.client.post(f"/v1/{path}", json={"model": THINKER, **body}).json()
        found: list[int] = reply["tokens"]
        return found

    def prompt(content: str) -> list[int]:
        return tokens("apply-template", messages=[{"role": "user", "content": content}])

    control = tokens("tokenize", text=spelled, parse_special=True)
    assert len(control) == 3
    for token in control:
        assert prompt(spelled).count(token) == prompt("x").count(token)
