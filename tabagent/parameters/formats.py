"""What an answer must look like, from `response_format` and `grammar`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from tabagent import wire
from tabagent.errors import FeatureDisabled
from tabagent.operation import Request
from tabagent.parameters import Flag, invalid


def _satisfiable(schema: bool) -> bool:
    if not schema:
        raise ValueError("nothing fits the schema `false`")
    return schema


Schema = Annotated[
    dict[str, Any] | Annotated[Flag, AfterValidator(_satisfiable)],
    Field(description="JSON schema; `true` is any JSON value."),
]
Grammar = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=65536,
        description="GBNF grammar, as llama.cpp; only where the owner has allowed it.",
    ),
]


class TextFormat(Request):
    """No constraint."""

    type: Literal["text"]


class JsonObjectFormat(Request):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(Request):
    """OpenAI's `json_schema`. The schema is enforced, whatever `strict` says."""

    name: str = Field(min_length=1, max_length=64)
    description: str | None = Field(None, max_length=65536)
    schema_: Schema = Field(True, alias="schema")
    strict: Flag | None = None


class JsonSchemaFormat(Request):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")
]


def wire_format(
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None,
    grammar: str | None,
    *,
    raw_grammar: bool,
) -> wire.Format | None:
    """What the worker is told. `raw_grammar`: whether the owner allows `grammar`.

    Raises FeatureDisabled where it is not allowed, InvalidRequest where both are given.
    """
    pointer = "/response_format"
    match response_format:
        case None | TextFormat():
            constraint = None
        case JsonObjectFormat():
            constraint = wire.Format("json_object", pointer)
        case JsonSchemaFormat(json_schema=named):
            constraint = wire.Format(
                "json_schema", f"{pointer}/json_schema/schema", schema=named.schema_
            )
    if grammar is None:
        return constraint
    if not raw_grammar:
        raise FeatureDisabled(
            "raw grammars are switched off: use response_format, or switch on `raw_grammar`",
            setting="raw_grammar",
            param="grammar",
        )
    if constraint is not None:
        raise invalid("/grammar", "goes without response_format")
    return wire.Format("gbnf", "/grammar", grammar=grammar)
