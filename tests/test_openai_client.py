"""The real `openai` client against a real server and the built-in model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from tabagent.catalog.models import BUILTIN
from tests.live import LiveServer, eventually


@pytest.fixture(scope="module")
def client(guide: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{guide.url}/v1", api_key="local") as made:
        yield made


def ask(client: openai.OpenAI, text: str) -> str:
    answer = client.chat.completions.create(
        model=BUILTIN, messages=[{"role": "user", "content": text}], temperature=0
    )
    return answer.choices[0].message.content or ""


def test_it_chats(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=BUILTIN,
        messages=[
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "How do I pull a model?"},
        ],
        temperature=0,
    )
    assert "tabagent pull" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == BUILTIN
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_it_streams_with_usage(client: openai.OpenAI) -> None:
    whole = ask(client, "What is TabAgent?")
    text, usage = "", None
    with client.chat.completions.create(
        model=BUILTIN,
        messages=[{"role": "user", "content": "What is TabAgent?"}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        for chunk in stream:
            if chunk.choices:
                text += chunk.choices[0].delta.content or ""
            usage = chunk.usage or usage
    assert text == whole
    assert usage is not None
    assert usage.completion_tokens > 5
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1


def test_it_lists_and_describes_models(client: openai.OpenAI) -> None:
    assert BUILTIN in [model.id for model in client.models.list()]
    assert client.models.retrieve(BUILTIN).owned_by == "tabagent"


def test_it_completes_text(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=BUILTIN, prompt="TabAgent is", max_tokens=8, extra_body={"ignore_eos": True}
    )
    assert answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8


def test_our_message_is_what_a_person_sees(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model named 'gpt-4o' here"):
        client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "Hello"}]
        )
    with pytest.raises(openai.BadRequestError, match="functions: an older form: use `tools`"):
        client.chat.completions.create(
            model=BUILTIN,
            messages=[{"role": "user", "content": "Hello"}],
            functions=[{"name": "f", "parameters": {}}],
        )
    with pytest.raises(openai.BadRequestError, match="the context holds 2048") as caught:
        ask(client, "word " * 5000)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["code"] == "context-length-exceeded"


def test_parameters_are_honoured_or_refused(client: openai.OpenAI) -> None:
    def say(**more: object) -> openai.types.chat.ChatCompletion:
        return client.chat.completions.create(  # type: ignore[no-any-return, call-overload]  # any wrong thing
            model=BUILTIN, messages=[{"role": "user", "content": "What is TabAgent?"}], **more
        )

    greedy = say(temperature=0).choices[0].message.content or ""
    word = greedy.split()[3]
    stopped = say(temperature=0, stop=[word]).choices[0]
    assert stopped.message.content == greedy[: greedy.index(word)]
    short = say(temperature=0, max_tokens=3).choices[0]
    assert short.finish_reason == "length"
    assert greedy.startswith(short.message.content or "?")
    assert say(temperature=0, max_completion_tokens=3).choices[0].finish_reason == "length"
    one, two = (say(temperature=2, seed=7, max_tokens=20) for _ in range(2))
    assert one.choices[0].message.content == two.choices[0].message.content
    say(user="me", metadata={"a": "b"}, store=False, n=1, logprobs=False)
    for wrong in ({"n": 5}, {"temperature": 3}, {"top_p": 0}, {"max_tokens": 0}, {"stop": [""]},
                  {"top_logprobs": 3}, {"response_format": {"type": "yaml"}},
                  {"max_tokens": 3, "max_completion_tokens": 4},
                  {"extra_body": {"mirostat": 3}}, {"extra_body": {"top_k": -1}}):  # fmt: skip
        with pytest.raises(openai.BadRequestError):
            say(**wrong)


def test_the_engine_gives_several_answers_and_their_probabilities(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=BUILTIN,
        messages=[{"role": "user", "content": "What is TabAgent?"}],
        temperature=0,
        n=2,
        logprobs=True,
        top_logprobs=1,
    )
    one, two = answer.choices
    assert one.message.content == two.message.content == ask(client, "What is TabAgent?")
    assert one.logprobs is not None and one.logprobs.content
    spelled = b"".join(bytes(token.bytes or []) for token in one.logprobs.content)
    assert spelled.decode().startswith(one.message.content or "?")
    assert all(token.logprob <= 0 for token in one.logprobs.content)


def test_a_response_goes_on_from_another(client: openai.OpenAI) -> None:
    first = client.responses.create(model=BUILTIN, input="What is TabAgent?", temperature=0)
    assert first.output_text == ask(client, "What is TabAgent?")
    second = client.responses.create(
        model=BUILTIN, input="Thanks!", previous_response_id=first.id, temperature=0
    )
    assert second.output_text
    assert first.usage and second.usage
    assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens


def test_eight_at_once_say_what_each_says_alone(client: openai.OpenAI) -> None:
    questions = [
        "What is TabAgent?",
        "How do I pull a model?",
        "Hello",
        "Which port does it use?",
        "What is the capital of France?",
        "How do I unload a model?",
        "Does it work offline?",
        "Thanks!",
    ]
    alone = [ask(client, question) for question in questions]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda question: ask(client, question), questions))
    assert together == alone


def test_closing_a_stream_frees_its_slot(client: openai.OpenAI, guide: LiveServer) -> None:
    stream = client.chat.completions.create(
        model=BUILTIN,
        messages=[{"role": "user", "content": "Hello"}],
        stream=True,
        extra_body={"ignore_eos": True},
    )
    next(iter(stream))
    eventually(lambda: guide.loaded(BUILTIN)["slots_used"] == 1)
    stream.close()
    eventually(lambda: guide.idle(BUILTIN), 1)


def test_hanging_up_during_the_prompt_frees_the_slot(guide: LiveServer) -> None:
    text = "some words about nothing " * 300

    def leave() -> None:
        with (
            openai.OpenAI(
                base_url=f"{guide.url}/v1", api_key="local", timeout=0.15, max_retries=0
            ) as client,
            pytest.raises(openai.APITimeoutError),
        ):
            client.chat.completions.create(
                model=BUILTIN,
                messages=[{"role": "user", "content": text}],
                extra_body={"ignore_eos": True},
            )

    threads = [threading.Thread(target=leave) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: guide.idle(BUILTIN), 1)


async def test_the_async_client_streams(guide: LiveServer) -> None:
    async with openai.AsyncOpenAI(base_url=f"{guide.url}/v1", api_key="local") as client:
        stream = await client.chat.completions.create(
            messages=[{"role": "user", "content": "Hello"}], model="guide", stream=True
        )
        chunks = [chunk async for chunk in stream]
    assert {chunk.model for chunk in chunks} == {BUILTIN}
    assert chunks[-1].choices[0].finish_reason == "stop"
