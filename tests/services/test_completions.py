"""Text completions, acted out by the fake engine and read by the real client."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.live import FAKE, LiveServer, eventually


def complete(client: openai.OpenAI, prompt: Any, **more: Any) -> Any:
    return client.completions.create(model=FAKE, prompt=prompt, **more)


def asked(client: openai.OpenAI, prompt: Any = "report", **more: Any) -> dict[str, Any]:
    """What the worker was asked, as it reports it."""
    said: dict[str, Any] = json.loads(complete(client, prompt, **more).choices[0].text)
    return said


def streamed(
    client: openai.OpenAI, prompt: Any, **more: Any
) -> tuple[dict[int, str], dict[int, str]]:
    """(text, finish reason) of each choice."""
    texts: dict[int, str] = {}
    ends: dict[int, str] = {}
    for part in complete(client, prompt, stream=True, **more):
        (choice,) = part.choices
        assert choice.index not in ends, "something after the end"
        texts[choice.index] = texts.get(choice.index, "") + choice.text
        if choice.finish_reason:
            ends[choice.index] = choice.finish_reason
    return texts, ends


def test_several_prompts_are_continued_side_by_side(client: openai.OpenAI) -> None:
    texts = ["1 2 ", "1 2 3 ", "1 ", "1 2 "]
    answer = complete(client, ["2", "1"], n=2)
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    assert [c.text for c in answer.choices] == texts
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 2 + 3 + 1 + 2)
    told, ends = streamed(client, ["2", "1"], n=2)
    assert [told[index] for index in range(4)] == texts
    assert ends == dict.fromkeys(range(4), "stop")


def test_a_prompt_may_be_the_models_own_tokens(client: openai.OpenAI) -> None:
    two, three = list(b"2"), list(b"3")
    assert complete(client, two).choices[0].text == "1 2 "
    assert [c.text for c in complete(client, [two, three]).choices] == ["1 2 ", "1 2 3 "]
    assert asked(client, list(b"report"))["tokens"] == list(b"report")
    with pytest.raises(openai.BadRequestError, match="256 bytes"):
        complete(client, [300])


def test_one_prompt_that_fails_ends_all(client: openai.OpenAI, counter: LiveServer) -> None:
    with pytest.raises(openai.BadRequestError, match="too long"):
        complete(client, ["1000 sleep", "x" * 5000])
    assert counter.answer("1") == "1 "
    eventually(lambda: counter.idle(), what="the other prompt goes on")


def test_an_echo_begins_with_the_prompt(client: openai.OpenAI) -> None:
    choice = complete(client, "2 more", echo=True, logprobs=1).choices[0]
    assert choice.text == "2 more1 2 "
    table = choice.logprobs
    assert table.tokens == ["2", " more", "1 ", "2 "]
    assert table.token_logprobs == [None, -0.5, -0.5, -0.5]
    assert table.text_offset == [0, 1, 6, 8]
    assert [choice.text[at:][: len(token)] for at, token in zip(table.text_offset, table.tokens, strict=True)] == table.tokens  # fmt: skip
    assert streamed(client, "2 more", echo=True)[0] == {0: "2 more1 2 "}


def test_probabilities_come_as_a_table(client: openai.OpenAI) -> None:
    table = complete(client, "2", logprobs=3).choices[0].logprobs
    assert table.tokens == ["1 ", "2 "]
    assert table.top_logprobs[1] == {"2 ": -0.5, "or-1": -1.5, "or-2": -2.5}
    assert complete(client, "2", logprobs=0).choices[0].logprobs.top_logprobs == [
        {"1 ": -0.5},
        {"2 ": -0.5},
    ]
    assert complete(client, "2").choices[0].logprobs is None
    rows = [p.choices[0].logprobs for p in complete(client, "2", logprobs=3, stream=True)]
    assert [row.text_offset for row in rows if row] == [[0], [2]]


def test_offsets_count_characters_though_a_token_may_be_half_of_one(client: openai.OpenAI) -> None:
    choice = complete(client, "accent", logprobs=0).choices[0]
    assert choice.text == "é"
    assert choice.logprobs.tokens == ["\ufffd", "\ufffd"]
    assert choice.logprobs.text_offset == [0, 0]


def test_everything_reaches_the_worker(client: openai.OpenAI) -> None:
    command = asked(
        client,
        suffix=" end",
        max_tokens=50,
        stop=["x"],
        seed=3,
        best_of=2,
        n=2,
        extra_body={"response_format": {"type": "json_object"}, "mirostat": 1},
    )
    del command["id"]
    assert command == {
        "type": "Generate",
        "sampling": {"seed": 3, "mirostat": 1},
        "text": "report",
        "suffix": " end",
        "max_tokens": 50,
        "stop": ["x"],
        "n": 2,
        "format": {"kind": "json_object", "pointer": "/response_format"},
    }


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"prompt": []}, "/prompt"),
        ({"prompt": ["1"] * 33}, "/prompt"),
        ({"prompt": ["1", 2]}, "/prompt/1"),
        ({"prompt": [[1], []]}, "/prompt/1"),
        ({"prompt": [1, -1]}, "/prompt/1"),
        ({"prompt": {"text": "1"}}, "/prompt"),
        ({"prompt": [1], "suffix": "x"}, "/suffix"),
        ({"best_of": 2}, "/best_of"),
        ({"best_of": 3, "n": 2}, "/best_of"),
        ({"logprobs": 6}, "/logprobs"),
        ({"logprobs": True}, "/logprobs"),
        ({"messages": []}, "/messages"),
        ({"max_tokens": 0}, "/max_tokens"),
    ],
)
def test_what_is_wrong_is_pointed_at(
    counter: LiveServer, wrong: dict[str, Any], pointer: str
) -> None:
    body = {"model": FAKE, "prompt": "1", **wrong}
    response = counter.client.post("/v1/completions", json=body)
    assert (response.status_code, response.json()["code"]) == (400, "invalid-request")
    assert pointer in [error["pointer"] for error in response.json()["errors"]]
