"""What clients do to a server, each kind with what its answer has to be.

An action draws its particulars from the client's seeded generator and raises Surprise when the
answer is another than its kind expects. Every one that starts something also ends it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import random
import uuid
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from benchmarks import load, prompts
from benchmarks.refusals import CHAT, TEXT, VECTORS, refusals

TOOL: Final = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Find a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "near": {"type": "boolean"}},
            "required": ["place"],
        },
    },
}
QUESTIONS: Final = ("How do I pull a model?", "What is TabAgent?", "Where are my documents kept?")
LISTS: Final = (
    *("/v1/models", "/v1/models/loaded", "/v1/models/tabagent/guide", "/v1/embedding-models"),
    *("/v1/halt", "/v1/system/info", "/v1/routes", "/health"),
)
LONG_ANSWER: Final = 400  # tokens: it is not over before we leave


class Surprise(Exception):
    """An answer that its kind does not expect; the message quotes it."""


@dataclass(slots=True)
class Client:
    """One who asks, one thing after another."""

    http: httpx.AsyncClient
    port: int
    draw: random.Random
    embedder: str  # a model's name

    def text(self, least: int, most: int) -> str:
        return prompts.text(self.draw.randint(least, most), str(self.draw.random()))

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """The answer's JSON."""
        return _answer(await self.http.post(path, json=body))


def _answer(response: httpx.Response, status: int = 200) -> Any:
    if response.status_code != status:
        raise Surprise(f"{response.status_code} and not {status}: {response.text[:300]}")
    return response.json()


def _expect(true: object, what: str, quote: object = "") -> None:
    if not true:
        raise Surprise(f"{what}: {str(quote)[:300]}")


# ---- generation ---------------------------------------------------------------------------------
def _plain(client: Client) -> dict[str, Any]:
    return {}


def _two(client: Client) -> dict[str, Any]:
    return {"n": 2}


def _tools(client: Client) -> dict[str, Any]:
    return {"tools": [TOOL], "tool_choice": client.draw.choice(["auto", "required"])}


def _schema(client: Client) -> dict[str, Any]:
    # Half of them are new, so that what is kept of schemas fills up and has to make room.
    name = client.draw.choice(["city", f"field_{client.draw.randrange(10**9)}"])
    schema = {
        "type": "object",
        "properties": {name: {"enum": ["red", "green"]}, "sure": {"type": "boolean"}},
        "required": [name, "sure"],
        "additionalProperties": False,
    }
    named = {"name": "answer", "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _logprobs(client: Client) -> dict[str, Any]:
    return {"logprobs": True, "top_logprobs": client.draw.randint(0, 20)}


VARIANTS: Final = (_plain, _plain, _two, _tools, _schema, _logprobs)


def _question(client: Client) -> dict[str, Any]:
    """A chat with what the next variant adds; some questions come again and again."""
    draw = client.draw
    text = draw.choice(QUESTIONS) if draw.random() < 0.3 else client.text(4, 200)
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": draw.randint(1, 64)}
    if draw.random() < 0.3:
        body["seed"], body["temperature"] = draw.randrange(100), draw.choice([0, 0.7, 1.5])
    return body | draw.choice(VARIANTS)(client)


@dataclass(slots=True)
class _Choice:
    """One choice of an answer, whole."""

    text: str = ""
    called: str = ""  # the first call's arguments
    logprobs: int = 0  # positions that have one
    ends: list[str] = field(default_factory=list)

    def take(self, choice: dict[str, Any]) -> None:
        """Add a chunk, or a whole choice."""
        said = choice.get("delta") or choice.get("message") or choice
        self.text += said.get("content") or said.get("text") or ""
        for call in said.get("tool_calls") or ():
            self.called += call["function"].get("arguments") or ""
        chances = choice.get("logprobs") or {}
        self.logprobs += len(chances.get("content") or chances.get("tokens") or ())
        if choice.get("finish_reason"):
            self.ends.append(choice["finish_reason"])


def _check(body: dict[str, Any], choices: dict[int, _Choice], number: int) -> None:
    """Whether the answer is what `body` asked for, in `number` choices."""
    _expect(sorted(choices) == list(range(number)), f"asked for {number} choices", choices)
    for choice in choices.values():
        _expect(len(choice.ends) == 1, "a choice ends once", choice)
        _expect(choice.text or choice.called or choice.ends != ["length"], "no text", choice)
        if body.get("logprobs"):
            _expect(choice.logprobs or not choice.text, "no logprobs", choice)
        if "response_format" in body and choice.ends == ["stop"]:
            (wanted, *_) = body["response_format"]["json_schema"]["schema"]["properties"]
            _expect(wanted in json.loads(choice.text), "not by its schema", choice)
        if body.get("tool_choice") == "required" and choice.ends != ["length"]:
            _expect("place" in json.loads(choice.called), "no call by its schema", choice)


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The chunks of a stream, which ends as streams do."""
    if response.status_code != 200:
        await response.aread()
        raise Surprise(f"{response.status_code}: {response.text[:300]}")
    ended = False
    async for line in response.aiter_lines():
        _expect(not line.startswith("event: error"), "an error in mid-stream", line)
        if line == "data: [DONE]":
            ended = True
        elif line.startswith("data: "):
            chunk = json.loads(line.removeprefix("data: "))
            _expect("error" not in chunk, "an error in mid-stream", line)
            yield chunk
    _expect(ended, "the stream broke off")


async def _ask(
    client: Client, path: str, body: dict[str, Any], number: int, *, stream: bool
) -> None:
    choices: dict[int, _Choice] = {}

    def take(answer: dict[str, Any]) -> bool:
        for choice in answer["choices"]:
            choices.setdefault(choice["index"], _Choice()).take(choice)
        return bool(answer.get("usage"))

    counted = False
    if stream:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        async with client.http.stream("POST", path, json=body | options) as response:
            async for chunk in _events(response):
                counted = take(chunk) or counted
    else:
        counted = take(await client.post(path, body))
    _expect(counted, "no usage")
    _check(body, choices, number)


async def streamed_chat(client: Client) -> None:
    body = _question(client)
    await _ask(client, CHAT, body, body.get("n", 1), stream=True)


async def plain_chat(client: Client) -> None:
    body = _question(client)
    await _ask(client, CHAT, body, body.get("n", 1), stream=False)


async def completion(client: Client) -> None:
    several = [client.text(2, 60) for _ in range(client.draw.randint(1, 3))]
    body = {
        "prompt": several if len(several) > 1 else several[0],
        "max_tokens": client.draw.randint(1, 48),
        **client.draw.choice([{}, {"logprobs": 2}, {"echo": True}, {"stop": [" the", "\n"]}]),
    }
    if "stop" in body:
        body["ignore_eos"] = True  # so that it is the text which ends it
    await _ask(client, TEXT, body, len(several), stream=client.draw.random() < 0.5)


async def response(client: Client) -> None:
    """A response, and often one that follows it."""
    first = {"input": client.text(4, 60), "max_output_tokens": client.draw.randint(4, 32)}
    answer = await client.post("/v1/responses", first)
    if client.draw.random() < 0.5:
        more = {"input": "And then?", "previous_response_id": answer["id"], "max_output_tokens": 8}
        answer = await client.post("/v1/responses", more)
    _expect(answer["status"] in ("completed", "incomplete"), "not ended", answer)


# ---- leaving early ------------------------------------------------------------------------------
async def hang_up_before(client: Client) -> None:
    """Leave a stream before its first token, or a plain answer; often while it is queued."""
    chat = await load.Chat.open(client.port)
    try:
        body = _question(client) | {"max_tokens": LONG_ANSWER}
        chat.send(body | {"stream": client.draw.random() < 0.7})
        await asyncio.sleep(client.draw.choice([0, 0.001, 0.01, 0.05]))
    finally:
        chat.hang_up()


async def hang_up_amid(client: Client) -> None:
    """Leave a stream after some of its tokens."""
    chat = await load.Chat.open(client.port)
    try:
        chat.send(prompts.chat(8, str(client.draw.random()), tokens=LONG_ANSWER))
        await chat.has(client.draw.randint(1, 30))
    finally:
        chat.hang_up()


async def hang_up_sending(client: Client) -> None:
    """Leave before the request is whole."""
    request = load.post(client.port, CHAT, _question(client))
    _, writer = await asyncio.open_connection(load.HOST, client.port)
    try:
        writer.write(request[: client.draw.randrange(1, len(request))])
        await writer.drain()
        await asyncio.sleep(client.draw.choice([0, 0.01]))
    finally:
        writer.transport.abort()


async def halt_amid(client: Client) -> None:
    """Stop a stream after its first chunks; it must end in order."""
    body = prompts.chat(8, str(client.draw.random()), tokens=LONG_ANSWER)
    causes: list[str] = []
    after = client.draw.randint(1, 20)
    async with client.http.stream("POST", CHAT, json=body) as answer:
        async for chunk in _events(answer):
            after -= 1
            if after == 0:
                said = await client.http.post("/v1/halt", json={"request_id": chunk["id"]})
                # It may have ended while its chunks were on their way to us.
                _expect(said.status_code in (200, 404), "no halt", said.text)
            causes += [c["stop_reason"] for c in chunk["choices"] if c["finish_reason"]]
    _expect(causes in (["halted"], ["length"]), "a stop that is none", causes)


async def halt_early(client: Client) -> None:
    """Stop a plain answer, perhaps before the server knows of it."""
    id_ = str(uuid.UUID(int=client.draw.getrandbits(128), version=4))
    body = prompts.chat(8, id_, tokens=LONG_ANSWER)
    del body["stream"], body["stream_options"]
    asking = asyncio.create_task(client.http.post(CHAT, json=body, headers={"x-request-id": id_}))
    try:
        await asyncio.sleep(client.draw.choice([0, 0.01, 0.05]))
        said = await client.http.post("/v1/halt", json={"request_id": id_})
        _expect(said.status_code in (200, 404), "no halt", said.text)
        if said.status_code == 200:
            (choice,) = _answer(await asking)["choices"]
            _expect(choice["stop_reason"] in ("halted", "length"), "a stop that is none", choice)
    finally:
        asking.cancel()
        await asyncio.wait([asking])


# ---- everything else ----------------------------------------------------------------------------
async def embed(client: Client) -> None:
    draw = client.draw
    texts = [client.text(1, 60) for _ in range(draw.choice([1, 1, 2, 8, 32]))]
    encoding = draw.choice(["float", "base64"])
    body = {
        "model": client.embedder,
        "input": texts if len(texts) > 1 else texts[0],
        "encoding_format": encoding,
    }
    data = (await client.post(VECTORS, body))["data"]
    _expect([row["index"] for row in data] == list(range(len(texts))), "not one a text", data)
    for row in data:
        vector = row["embedding"]
        if encoding == "base64":
            vector = array("f", base64.b64decode(vector))
        _expect(math.isclose(math.hypot(*vector), 1, abs_tol=1e-3), "not of length 1", vector)


async def tokens(client: Client) -> None:
    """Cut a text into tokens and put it together again; count, and show a prompt."""
    text = client.text(1, 200)
    cut = await client.post("/v1/tokenize", {"text": text})
    back = await client.post("/v1/detokenize", {"tokens": cut["tokens"]})
    _expect(back["text"] == text, "another text", back)
    said = {"messages": [{"role": "user", "content": text}]}
    shown = await client.post("/v1/apply-template", said)
    counted = await client.post("/v1/count-tokens", said)
    _expect(shown["count"] == counted["count"] > cut["count"], "another count", counted)


async def look(client: Client) -> None:
    _answer(await client.http.get(client.draw.choice(LISTS)))


async def be_refused(client: Client) -> None:
    wrong = client.draw.choice(refusals(client.draw, client.embedder))
    headers = {"content-type": wrong.content_type}
    said = await client.http.request(wrong.method, wrong.path, content=wrong.body, headers=headers)
    code = _answer(said, wrong.status).get("code")
    _expect(code == wrong.slug, f"{code} and not {wrong.slug}", said.text)


MIX: Final[dict[str, tuple[int, Callable[[Client], Awaitable[None]]]]] = {
    "chat, streamed": (14, streamed_chat),
    "chat, plain": (8, plain_chat),
    "completion": (6, completion),
    "response": (4, response),
    "hang up before the first token": (5, hang_up_before),
    "hang up in mid-stream": (5, hang_up_amid),
    "hang up while sending": (2, hang_up_sending),
    "halt in mid-stream": (4, halt_amid),
    "halt early": (3, halt_early),
    "embeddings": (12, embed),
    "bad request": (20, be_refused),
    "tokens": (6, tokens),
    "lists": (8, look),
}
"""How often, out of their sum, and what."""
