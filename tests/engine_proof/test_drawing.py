"""How tokens are drawn: seeds, choices, probabilities, bias and stops, alone and beside others."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from tabagent.catalog.models import BUILTIN
from tests.engine_proof.models import CALLER, PLAIN

QUESTIONS = [
    "What is TabAgent?",
    "How do I pull a model?",
    "Hello",
    "Which port does it use?",
    "What is the capital of France?",
    "How do I unload a model?",
    "Does it work offline?",
    "Thanks!",
]


def chat(client: openai.OpenAI, text: str = "Hello", model: str = PLAIN, **more: Any) -> Any:
    """Until `max_tokens`, for an untrained model may say its end at any time."""
    body: dict[str, Any] = {"model": model, "max_tokens": 30, **more}
    body["extra_body"] = {"ignore_eos": model != BUILTIN, **more.get("extra_body", {})}
    return client.chat.completions.create(messages=[{"role": "user", "content": text}], **body)


def said(client: openai.OpenAI, text: str = "Hello", model: str = PLAIN, **more: Any) -> str:
    content: str = chat(client, text, model, **more).choices[0].message.content
    return content


def test_three_choices_differ_and_come_again_with_their_seed(client: openai.OpenAI) -> None:
    one, two = (
        [c.message.content for c in chat(client, n=3, seed=11, temperature=1).choices]
        for _ in range(2)
    )
    assert one == two
    assert len(set(one)) == 3
    assert said(client, seed=11, temperature=1) == one[0]
    other = [c.message.content for c in chat(client, n=3, seed=12, temperature=1).choices]
    assert set(other).isdisjoint(one)


def test_choices_of_a_stream_are_those_of_the_whole(client: openai.OpenAI) -> None:
    whole = [c.message.content for c in chat(client, n=3, seed=11, temperature=1).choices]
    texts = ["", "", ""]
    for chunk in chat(client, n=3, seed=11, temperature=1, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == whole


@pytest.mark.parametrize("model", [PLAIN, CALLER])  # whose numbers are exact; see EXACT
def test_a_seed_says_the_same_alone_and_among_others(client: openai.OpenAI, model: str) -> None:
    def draw(number: int) -> str:
        return said(client, QUESTIONS[number], model, seed=number, temperature=1.2)

    alone = [draw(number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(draw, range(8)))
    assert together == alone
    assert len(set(alone)) > 4


@pytest.mark.parametrize("model", [PLAIN, BUILTIN])
def test_eight_greedy_answers_at_once_are_those_one_by_one(
    client: openai.OpenAI, model: str
) -> None:
    def ask(text: str) -> str:
        return said(client, text, model, temperature=0, max_tokens=60)

    alone = [ask(text) for text in QUESTIONS]
    for _ in range(2):  # once more when all prompts are known
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(ask, QUESTIONS)) == alone


def test_a_batch_of_everything_is_what_each_says_alone(client: openai.OpenAI) -> None:
    """Constrained, biased, with adapters and choices: nobody's settings touch a neighbour's."""
    kinds: list[dict[str, Any]] = [
        {},
        {"response_format": {"type": "json_object"}},
        {"logit_bias": {"e": 5}},
        {"n": 3},
        {"extra_body": {"lora": [{"id": "adapter", "scale": 2}]}},
        {"logprobs": True, "top_logprobs": 5},
        {"stop": ["e", "t"]},
        {"extra_body": {"repeat_penalty": 1.5, "min_p": 0.2}},
    ]

    def ask(kind: dict[str, Any]) -> list[str]:
        return [c.message.content for c in chat(client, seed=5, temperature=0.9, **kind).choices]

    alone = [ask(kind) for kind in kinds]
    assert len({texts[0] for texts in alone}) > 5
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, kinds)) == alone


def test_probabilities_are_of_what_was_said(client: openai.OpenAI) -> None:
    choice = chat(client, logprobs=True, top_logprobs=20, temperature=0).choices[0]
    rows = choice.logprobs.content
    assert len(rows) == 30
    assert b"".join(bytes(row.bytes) for row in rows).decode() == choice.message.content
    for row in rows:
        chances = [top.logprob for top in row.top_logprobs]
        assert len(chances) == 20
        assert chances == sorted(chances, reverse=True)
        ranked = [(top.token, top.logprob) for top in row.top_logprobs]
        assert (row.token, row.logprob) in ranked[:2], "only the end is passed over"
        assert 0 < sum(map(math.exp, chances)) <= 1.0001
    bare = chat(client, logprobs=True, temperature=0).choices[0]
    assert bare.message == choice.message
    assert [row.top_logprobs for row in bare.logprobs.content] == [[]] * 30
    assert [row.logprob for row in bare.logprobs.content] == pytest.approx(
        [row.logprob for row in rows], abs=1e-4
    )
    assert chat(client, temperature=0).choices[0].logprobs is None


def test_probabilities_are_told_before_sampling_shapes_them(client: openai.OpenAI) -> None:
    first = chat(client, logprobs=True, top_logprobs=3, temperature=0, max_tokens=1).choices[0]
    likeliest, other = first.logprobs.content[0].top_logprobs[:2]
    banned = chat(
        client, logprobs=True, top_logprobs=3, temperature=0, max_tokens=1,
        logit_bias={likeliest.token: -100},
    ).choices[0]  # fmt: skip
    assert banned.message.content == other.token
    assert banned.logprobs.content[0].logprob == pytest.approx(other.logprob, abs=1e-4)


def test_bias_forces_and_bans(client: openai.OpenAI) -> None:
    assert said(client, logit_bias={"Q": 100}, max_tokens=5) == "QQQQQ"
    free = said(client, temperature=0)
    letter = free[0]
    assert letter not in said(client, temperature=0, logit_bias={letter: -100})
    with pytest.raises(openai.BadRequestError, match="tokens to this model"):
        said(client, logit_bias={"Qq": 1})


def test_a_stop_is_left_out_wherever_it_falls(client: openai.OpenAI) -> None:
    free = said(client, temperature=0, max_tokens=60)
    middle = free[20:23]
    for stop in (middle, [middle], ["never said", middle], [free[30:40], middle]):
        choice = chat(client, temperature=0, max_tokens=60, stop=stop).choices[0]
        assert choice.message.content == free[: free.index(middle)]
        assert (choice.finish_reason, choice.stop_reason) == ("stop", "stop")
    text = ""
    for chunk in chat(client, temperature=0, max_tokens=60, stop=middle, stream=True):
        text += chunk.choices[0].delta.content or ""
    assert text == free[: free.index(middle)]


def test_an_adapter_by_name_changes_what_is_said(client: openai.OpenAI) -> None:
    def tuned(scale: float, name: str = "adapter") -> str:
        lora = [{"id": name, "scale": scale}]
        return said(client, temperature=0, extra_body={"lora": lora})

    plain = said(client, temperature=0)
    assert len({plain, tuned(1), tuned(2)}) == 3
    assert tuned(0) == plain
    assert tuned(1, "local/adapter") == tuned(1)
    with pytest.raises(openai.NotFoundError) as unknown:
        tuned(1, "nobody")
    assert unknown.value.param == "lora"
    with pytest.raises(openai.UnprocessableEntityError) as wrong:
        tuned(1, "plain")
    assert wrong.value.code == "wrong-model-task"
    assert said(client, temperature=0) == plain
