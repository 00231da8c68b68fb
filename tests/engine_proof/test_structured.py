"""Answers that must fit a schema: whatever the model, what comes is what was asked for."""

from __future__ import annotations

import enum
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from tabagent.catalog.models import BUILTIN
from tests.engine_proof.models import CALLER, PLAIN, SPELLER, THINKER, write_models
from tests.live import LiveServer

Short = Annotated[str, Field(max_length=6)]
"""An untrained model would never end a text by itself."""


class Colour(enum.Enum):
    RED = "red"
    BLUE = "deep blue"


class Flat(BaseModel):
    name: Short
    age: Annotated[int, Field(ge=0, le=150)]
    alive: bool


class Chosen(BaseModel):
    colour: Colour
    size: Literal["S", "M", "L"]
    rank: Literal[1, 2, 3]


class Perhaps(BaseModel):
    nickname: Short | None
    colour: Colour | None
    either: bool | Annotated[int, Field(ge=10, le=99)]


class Listed(BaseModel):
    tags: Annotated[list[Short], Field(min_length=1, max_length=3)]
    pairs: Annotated[list[tuple[bool, Colour]], Field(max_length=2)]


class Nested(BaseModel):
    head: Flat
    tail: Annotated[list[Chosen], Field(min_length=2, max_length=2)]
    code: Annotated[str, Field(pattern=r"^[A-Z]{2}-\d{3}$")]


MODELS = [BUILTIN, PLAIN, CALLER]
SHAPES: list[type[BaseModel]] = [Flat, Chosen, Perhaps, Listed, Nested]
ASKED: Any = [{"role": "user", "content": "Describe yourself."}]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_parsed_is_valid(client: openai.OpenAI, model: str, shape: type[BaseModel]) -> None:
    for seed in range(3):
        answer = client.chat.completions.parse(
            model=model, messages=ASKED, response_format=shape, temperature=1.5, seed=seed
        ).choices[0]
        assert answer.finish_reason == "stop"
        assert isinstance(answer.message.parsed, shape)


@pytest.mark.parametrize("model", [THINKER, SPELLER])
def test_thoughts_come_first_and_are_not_part_of_the_object(
    client: openai.OpenAI, model: str
) -> None:
    answer = client.chat.completions.parse(
        model=model,
        messages=ASKED,
        response_format=Nested,
        seed=1,
        extra_body={"thinking_budget_tokens": 8},
    ).choices[0]
    assert isinstance(answer.message.parsed, Nested)
    assert getattr(answer.message, "reasoning_content", None)


@pytest.mark.parametrize("model", MODELS)
def test_a_stream_adds_up_to_the_same_object(client: openai.OpenAI, model: str) -> None:
    with client.chat.completions.stream(
        model=model, messages=ASKED, response_format=Nested, temperature=0
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        whole = stream.get_final_completion().choices[0].message
    assert len(deltas) > 3
    assert "".join(deltas) == whole.content
    assert isinstance(whole.parsed, Nested)
    plain = client.chat.completions.parse(
        model=model, messages=ASKED, response_format=Nested, temperature=0
    )
    if model != BUILTIN:  # to which, being quantised, two digits may be as good as equally likely
        assert whole.parsed == plain.choices[0].message.parsed


@pytest.mark.parametrize("model", MODELS)
def test_any_json_object_is_an_object_or_cut(client: openai.OpenAI, model: str) -> None:
    for seed in range(4):
        answer = client.chat.completions.create(
            model=model,
            messages=ASKED,
            response_format={"type": "json_object"},
            seed=seed,
            max_tokens=60,
        ).choices[0]
        content = answer.message.content or ""
        assert content.startswith("{")
        if answer.finish_reason == "stop":
            assert isinstance(json.loads(content), dict)
        else:
            assert answer.finish_reason == "length"


def test_an_object_that_is_cut_says_so(client: openai.OpenAI) -> None:
    asked = {"model": PLAIN, "messages": ASKED, "response_format": Nested}
    with pytest.raises(openai.LengthFinishReasonError) as cut:
        client.chat.completions.parse(**asked, max_tokens=5)
    choice = cut.value.completion.choices[0]
    assert choice.finish_reason == "length"
    assert (choice.message.content or "").startswith("{")


def test_completions_and_responses_hold_to_a_schema_too(client: openai.OpenAI) -> None:
    format_ = {"name": "flat", "schema": Flat.model_json_schema()}
    said = client.completions.create(
        model=PLAIN,
        prompt="A person: ",
        extra_body={"response_format": {"type": "json_schema", "json_schema": format_}},
    ).choices[0]
    Flat.model_validate_json(said.text)
    response = client.responses.parse(model=PLAIN, input="A person?", text_format=Flat)
    assert isinstance(response.output_parsed, Flat)


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ({"type": "array", "uniqueItems": True}, "/uniqueItems"),
        ({"type": "object", "properties": {"a": {"not": {"type": "null"}}}}, "/properties/a/not"),
        ({"$defs": {"x": {"type": "string", "format": "iri"}}}, "/$defs/x/format"),
    ],
)
def test_what_cannot_be_enforced_is_pointed_at(
    server: LiveServer, client: openai.OpenAI, schema: dict[str, Any], where: str
) -> None:
    format_: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=PLAIN, messages=ASKED, response_format=format_)
    problem = refused.value.response.json()
    place = "/response_format/json_schema/schema"
    assert [e["pointer"] for e in problem["errors"]] == [place + where]
    text = {"format": {"type": "json_schema", "name": "n", "schema": schema}}
    body = server.client.post(
        "/v1/responses", json={"model": PLAIN, "input": "Hello", "text": text}
    ).json()
    assert [e["pointer"] for e in body["errors"]] == ["/text/format/schema" + where]


# ---- grammars of the caller's own ---------------------------------------------------------------
GRAMMAR = 'root ::= ("yes" | "no") ", " [0-9]{3} "!"'


def with_grammar(client: openai.OpenAI, grammar: str = GRAMMAR) -> list[str]:
    """What chat and completions say under it."""
    extra = {"grammar": grammar}
    chat = client.chat.completions.create(model=PLAIN, messages=ASKED, extra_body=extra)
    text = client.completions.create(model=PLAIN, prompt="Well? ", extra_body=extra)
    return [chat.choices[0].message.content or "", text.choices[0].text]


def test_raw_grammars_are_off_until_the_owner_allows_them(
    client: openai.OpenAI, server: LiveServer
) -> None:
    with pytest.raises(openai.PermissionDeniedError) as refused:
        with_grammar(client)
    problem = refused.value.response.json()
    assert (problem["code"], problem["setting"]) == ("feature-disabled", "raw_grammar")
    body = {"model": PLAIN, "prompt": "Well? ", "grammar": GRAMMAR}
    assert server.client.post("/v1/completions", json=body).status_code == 403


def test_raw_grammars_are_kept_to(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    write_models(tmp_path / "models")
    with (
        LiveServer(tmp_path, raw_grammar=True) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="local", max_retries=0) as client,
    ):
        for said in with_grammar(client):
            assert re.fullmatch(r"(yes|no), \d{3}!", said)
        with pytest.raises(openai.UnprocessableEntityError, match="line 2"):
            with_grammar(client, 'root ::= "a"\nroot ::= [')
