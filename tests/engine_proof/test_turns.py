"""Conversations that go on, texts that are continued or filled: what is remembered, and how."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tabagent.catalog.models import BUILTIN
from tests.engine_proof.models import FILLER, PLAIN
from tests.live import LiveServer


def turn(client: openai.OpenAI, model: str, messages: list[dict[str, str]]) -> tuple[str, Any]:
    asked: Any = messages
    answer = client.chat.completions.create(
        model=model, messages=asked, temperature=0, max_tokens=40
    )
    return answer.choices[0].message.content or "", answer.usage


@pytest.mark.parametrize("model", [PLAIN, BUILTIN])
def test_what_was_computed_is_used_again_and_never_changes_the_text(
    client: openai.OpenAI, server: LiveServer, model: str
) -> None:
    opening = {"role": "user", "content": f"Which port do you listen on? ({model})"}
    messages, cached, said = [opening], [], []
    for question in ("And offline?", "Thanks!", "Hello?"):
        text, usage = turn(client, model, messages)
        said.append(text)
        cached.append(usage.prompt_tokens_details.cached_tokens)
        assert cached[-1] < usage.prompt_tokens
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": question}]
    assert cached == sorted(cached) and cached[1] > cached[0] and cached[2] > cached[1]
    server.owner.post("/v1/models/unload", json={"model": model}).raise_for_status()
    for number, text in enumerate(said):  # anew, by a worker that remembers nothing
        again, usage = turn(client, model, messages[: 2 * number + 1])
        assert again == text
        if number == 0:
            assert usage.prompt_tokens_details.cached_tokens == 0


def test_a_branch_of_a_conversation_begins_where_it_leaves_it(client: openai.OpenAI) -> None:
    stem = [{"role": "user", "content": "in on an er the hello " * 10}]
    first, _ = turn(client, PLAIN, stem)
    stem.append({"role": "assistant", "content": first})
    ends = ["a", "b", "c d e f"]
    alone = [turn(client, PLAIN, [*stem, {"role": "user", "content": end}]) for end in ends]
    assert all(usage.prompt_tokens_details.cached_tokens > 60 for _, usage in alone)
    for end, (text, _) in zip(ends, alone, strict=True):
        assert turn(client, PLAIN, [*stem, {"role": "user", "content": end}])[0] == text


class Answer(BaseModel):
    good: bool


@pytest.mark.parametrize("model", [PLAIN, BUILTIN])
def test_responses_go_on_from_one_another(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "temperature": 0, "max_output_tokens": 30}
    first = client.responses.create(input="What is TabAgent?", **asked)
    with client.responses.create(
        input="Thanks!", previous_response_id=first.id, stream=True, **asked
    ) as stream:
        events = list(stream)
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    second = getattr(events[-1], "response")  # noqa: B009  # not all events have one
    assert second.output_text == text
    third = client.responses.parse(
        model=model, input="Was it good?", previous_response_id=second.id, text_format=Answer
    )
    assert isinstance(third.output_parsed, Answer)
    assert first.usage and third.usage
    sizes = [usage.input_tokens for usage in (first.usage, second.usage, third.usage)]
    assert sizes[0] < sizes[1] < sizes[2]
    assert third.usage.input_tokens_details.cached_tokens >= sizes[1]
    by_hand: Any = [
        {"role": "user", "content": "What is TabAgent?"},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "Thanks!"},
    ]
    whole = client.chat.completions.create(
        model=model, messages=by_hand, temperature=0, max_tokens=30
    )
    assert whole.choices[0].message.content == second.output_text


# ---- text ---------------------------------------------------------------------------------------
def complete(client: openai.OpenAI, prompt: Any, model: str = PLAIN, **more: Any) -> Any:
    body: dict[str, Any] = {"model": model, "temperature": 0, "max_tokens": 20, **more}
    return client.completions.create(prompt=prompt, **body)


def test_an_echo_tells_the_prompt_and_its_probabilities(client: openai.OpenAI) -> None:
    prompt = "hello there, the end"
    plain = complete(client, prompt).choices[0]
    echo = complete(client, prompt, echo=True, logprobs=2).choices[0]
    assert echo.text == prompt + plain.text
    table = echo.logprobs
    assert "".join(table.tokens) == echo.text
    assert table.token_logprobs[0] is None
    assert all(chance <= 0 for chance in table.token_logprobs[1:])
    assert [echo.text[at:][: len(t)] for at, t in zip(table.text_offset, table.tokens, strict=True)] == table.tokens  # fmt: skip
    alone = complete(client, prompt, logprobs=2).choices[0].logprobs
    assert table.tokens[-20:] == alone.tokens
    assert table.token_logprobs[-20:] == pytest.approx(alone.token_logprobs, abs=1e-3)


def test_what_follows_a_prompt_scores_as_it_did_when_it_was_said(client: openai.OpenAI) -> None:
    said = complete(client, "hello", logprobs=0).choices[0]
    echo = complete(client, "hello" + said.text, echo=True, logprobs=0, max_tokens=1).choices[0]
    if echo.logprobs.tokens[1:-1] == said.logprobs.tokens:  # cut into the same tokens
        assert echo.logprobs.token_logprobs[1:-1] == pytest.approx(
            said.logprobs.token_logprobs, abs=1e-3
        )


def test_prompts_side_by_side_are_those_one_by_one(
    client: openai.OpenAI, server: LiveServer
) -> None:
    prompts = ["hello", "in the", "on an", "er"]
    alone = [complete(client, prompt).choices[0].text for prompt in prompts]
    together = complete(client, prompts).choices
    assert [choice.text for choice in together] == alone
    body = {"model": PLAIN, "text": prompts[1]}
    tokens = server.client.post("/v1/tokenize", json=body).json()["tokens"]
    assert complete(client, tokens).choices[0].text == alone[1]


def test_a_model_that_has_learned_to_fills_in_the_middle(client: openai.OpenAI) -> None:
    bare = complete(client, "def add(a, b):", FILLER)
    filled = complete(client, "def add(a, b):", FILLER, suffix="return c")
    other = complete(client, "def add(a, b):", FILLER, suffix="return d")
    assert filled.usage.prompt_tokens == bare.usage.prompt_tokens + 3 + len("return c")
    assert len({filled.choices[0].text, other.choices[0].text, bare.choices[0].text}) == 3
    again = complete(client, "def add(a, b):", FILLER, suffix="return c")
    assert again.choices[0].text == filled.choices[0].text


@pytest.mark.parametrize("model", [PLAIN, BUILTIN])
def test_another_refuses_a_suffix_by_its_name(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError, match="fill in the middle") as refused:
        complete(client, "def add(a, b):", model, suffix="return c")
    assert (refused.value.code, refused.value.param) == ("unsupported-parameter", "suffix")
