"""Schemas: everything that would be ignored is refused where it stands; the rest is kept to."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has none
import pytest

from tabagent.errors import InvalidRequest
from tabagent.worker.constraint.compiler import Compiler
from tabagent.worker.constraint.schema import check_schema
from tabagent.worker.constraint.vocabulary import Vocabulary
from tests.worker.constraint.real import start, takes, walk


def problems(schema: Any, pointer: str = "") -> dict[str, str]:
    """What is refused, by pointer."""
    try:
        check_schema(schema, pointer)
    except InvalidRequest as error:
        return {e["pointer"]: e["detail"] for e in error.members["errors"]}
    return {}


# ---- refused, each at its own place -------------------------------------------------------------
REFUSED: list[tuple[Any, str]] = [
    ({"not": {}}, "/not"),
    ({"if": {}}, "/if"),
    ({"then": {}}, "/then"),
    ({"else": {}}, "/else"),
    ({"dependentSchemas": {}}, "/dependentSchemas"),
    ({"dependentRequired": {}}, "/dependentRequired"),
    ({"dependencies": {}}, "/dependencies"),
    ({"unevaluatedProperties": False}, "/unevaluatedProperties"),
    ({"unevaluatedItems": False}, "/unevaluatedItems"),
    ({"uniqueItems": True}, "/uniqueItems"),
    ({"contains": {}}, "/contains"),
    ({"minContains": 1}, "/minContains"),
    ({"maxContains": 1}, "/maxContains"),
    ({"$dynamicRef": "#a"}, "/$dynamicRef"),
    ({"$recursiveRef": "#"}, "/$recursiveRef"),
    ({"nullable": True}, "/nullable"),
    ({"madeUp": 1}, "/madeUp"),
    ({"x-guidance": {"lenient": True}}, "/x-guidance"),
    ({"type": "string", "format": "iri"}, "/format"),
    ({"type": "string", "format": "unknown"}, "/format"),
    ({"type": "string", "format": "int64"}, "/format"),
    ({"type": "text"}, "/type"),
    ({"type": []}, "/type"),
    ({"type": ["string", 3]}, "/type"),
    ({"enum": []}, "/enum"),
    ({"enum": "ab"}, "/enum"),
    ({"enum": [2**53 + 1]}, "/enum"),
    ({"const": "a\x01"}, "/const"),
    ({"const": "a" * 2001}, "/const"),
    ({"type": "string", "const": 1}, "/const"),
    ({"type": ["integer", "null"], "enum": [1.5, "a"]}, "/enum"),
    ({"required": "a"}, "/required"),
    ({"required": [1]}, "/required"),
    ({"minLength": -1}, "/minLength"),
    ({"minLength": 1.5}, "/minLength"),
    ({"maxLength": 2001}, "/maxLength"),
    ({"minItems": "1"}, "/minItems"),
    ({"maxItems": 2001}, "/maxItems"),
    ({"maxProperties": True}, "/maxProperties"),
    ({"minLength": 3, "maxLength": 2}, "/maxLength"),
    ({"minItems": 3, "maxItems": 2}, "/maxItems"),
    ({"minimum": 3, "maximum": 2}, "/maximum"),
    ({"minProperties": 1, "maxProperties": 0}, "/maxProperties"),
    ({"minimum": "1"}, "/minimum"),
    ({"minimum": 10**18}, "/minimum"),
    ({"exclusiveMinimum": True}, "/exclusiveMinimum"),
    ({"minimum": float("nan")}, "/minimum"),
    ({"maximum": float("inf")}, "/maximum"),
    ({"multipleOf": 0}, "/multipleOf"),
    ({"multipleOf": 10_001}, "/multipleOf"),
    ({"multipleOf": 0.07}, "/multipleOf"),
    ({"pattern": 3}, "/pattern"),
    ({"pattern": "(?=a)"}, "/pattern"),
    ({"properties": []}, "/properties"),
    ({"properties": {"a": 1}}, "/properties/a"),
    ({"properties": {"a\x01": {}}}, "/properties/a\x01"),
    ({"patternProperties": {"(": {}}}, "/patternProperties/("),
    ({"anyOf": []}, "/anyOf"),
    ({"allOf": {}}, "/allOf"),
    ({"items": 3}, "/items"),
    ({"prefixItems": [{}], "items": [{}]}, "/items"),
    ({"$ref": 3}, "/$ref"),
    ({"$ref": "#/$defs/none"}, "/$ref"),
    ({"$ref": "#name"}, "/$ref"),
    ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, "/$ref"),
    ({"$ref": "other.json#/a"}, "/$ref"),
    ({"properties": {"a": {"$id": "b"}}}, "/properties/a/$id"),
    ({"default": {}, "properties": {"a": {"$ref": "#/default"}}}, "/properties/a/$ref"),
    ({"minProperties": 2}, "/minProperties"),
    ({"properties": {"a": {}, "b": {}}, "maxProperties": 1}, "/maxProperties"),
    ({"propertyNames": {"format": "uuid"}}, "/propertyNames"),
    ({"propertyNames": {"enum": ["a", "B"], "pattern": "[a-z]"}}, "/propertyNames"),
    ({"properties": {}, "propertyNames": {}}, "/propertyNames"),
    ({"discriminator": "kind"}, "/discriminator"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "/oneOf"),
    ({"const": json.loads("[" * 81 + "]" * 81)}, "/const" + "/0" * 80),
    ({"const": "\ud800"}, "/const"),
    ({"description": b"bytes"}, ""),
    (False, ""),
    ("string", ""),
    ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "/properties/a"),
    ({"a~b/c": 1}, "/a~0b~1c"),
    ({"properties": {"a/b": {"anyOf": [{}, {"$defs": {"~": {"not": {}}}}]}}},
     "/properties/a~1b/anyOf/1/$defs/~0/not"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "pointer"), REFUSED, ids=lambda value: str(value)[:50])
def test_what_would_be_ignored_is_refused_at_its_place(schema: Any, pointer: str) -> None:
    assert list(problems(schema)) == [pointer]


def test_every_problem_is_told_from_where_the_request_has_the_schema() -> None:
    schema = {"not": {}, "properties": {"a": {"type": "x"}, "b": {"items": {"format": "y"}}}}
    with pytest.raises(InvalidRequest) as raised:
        check_schema(schema, "/response_format/json_schema/schema")
    error = raised.value
    place = "/response_format/json_schema/schema"
    assert [e["pointer"] for e in error.members["errors"]] == [
        f"{place}/not",
        f"{place}/properties/a/type",
        f"{place}/properties/b/items/format",
    ]
    assert error.param == "response_format"
    assert error.detail.startswith(f"{place}/not: ") and error.detail.endswith("(and 2 more)")


def test_annotations_ask_for_nothing_and_are_allowed() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "x", "$comment": "c",
        "title": "t", "description": "d", "default": {"not": 1}, "examples": [{"if": 1}],
        "example": 1, "deprecated": True, "readOnly": True, "writeOnly": False, "$anchor": "a",
        "contentEncoding": "base64", "contentMediaType": "a/b", "contentSchema": {"not": {}},
        "uniqueItems": False, "type": "string",
    }  # fmt: skip
    assert check_schema(schema, "") == {"type": "string"}


def test_what_a_reference_never_reaches_must_still_be_right() -> None:
    assert problems({"$defs": {"unused": {"not": {}}}}) != {}


# ---- circles ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"anyOf": [{"type": "null"}, {"$ref": "#"}]},
        {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"anyOf": [{"$ref": "#"}]}}},
        {
            "properties": {"x": {"$ref": "#/$defs/a"}},
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
        },
    ],
)
def test_a_circle_without_progress_is_refused(schema: Any) -> None:
    assert list(problems(schema).values()) == ["leads back to itself without saying anything"]


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ({"properties": {"n": {"$ref": "#"}}, "required": ["n"], "type": "object"}, "/properties/n"),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "/items"),
        ({"type": "array", "prefixItems": [{}, {"$ref": "#"}], "minItems": 2}, "/prefixItems/1"),
        (
            {"$ref": "#/$defs/a", "$defs": {"a": {
                "type": "object", "required": ["b"],
                "properties": {"b": {"anyOf": [{"$ref": "#/$defs/a"}]}},
            }}},
            "/$defs/a/properties/b/anyOf/0",
        ),
        ({"type": "object", "additionalProperties": {"$ref": "#"}, "required": ["x"]},
         "/additionalProperties"),
    ],
)  # fmt: skip
def test_what_can_never_end_is_refused(schema: Any, pointer: str) -> None:
    found = problems(schema)
    assert list(found) == [pointer]
    assert "without end" in found[pointer]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"n": {"$ref": "#"}}},
        {"type": "array", "items": {"$ref": "#"}},
        {"type": ["object", "null"], "properties": {"n": {"$ref": "#"}}, "required": ["n"]},
        {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#"}, "minItems": 1}]},
    ],
)
def test_recursion_that_can_end_is_kept_to(
    schema: Any, compiler: Compiler, vocabulary: Vocabulary
) -> None:
    assert_kept(schema, compiler, vocabulary)


# ---- oneOf --------------------------------------------------------------------------------------
def tagged(name: str, *, required: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"kind": {"const": name}, **more},
        "required": ["kind"] if required else [],
    }


DECIDED = [
    {"oneOf": [{"type": "integer"}, {"type": "string"}]},
    {"oneOf": [{"const": 1}, {"enum": [2, "1"]}, {"type": "null"}]},
    {"oneOf": [{"type": "boolean"}, {"const": 1}]},
    {"oneOf": [tagged("a"), tagged("b", x={"type": "integer"})]},
    {"oneOf": [tagged("a"), tagged("b", required=False)]},  # without a kind it is no a either
    {"oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
     "$defs": {"a": tagged("a"), "b": tagged("b")}},
    {"oneOf": [tagged("a", required=False), tagged("b", required=False)],
     "discriminator": {"propertyName": "kind"}},
    {"oneOf": [tagged("a"), {"oneOf": [tagged("b"), tagged("c")]}],
     "discriminator": {"propertyName": "kind", "mapping": {"a": "#/x", "b": "#/y", "c": "#/z"}}},
    {"oneOf": [{"allOf": [tagged("a"), {"type": "object", "properties": {"y": {}}}]},
               tagged("b")]},
]  # fmt: skip


@pytest.mark.parametrize("schema", DECIDED, ids=str)
def test_alternatives_that_cannot_both_hold_are_kept_to(
    schema: Any, compiler: Compiler, vocabulary: Vocabulary
) -> None:
    assert_kept(schema, compiler, vocabulary)


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ({"oneOf": [{}, {}]}, "/oneOf"),
        ({"oneOf": [tagged("a"), tagged("a")]}, "/oneOf"),
        ({"oneOf": [tagged("a", required=False), tagged("b", required=False)]}, "/oneOf"),
        ({"oneOf": [{"type": "string"}, {"const": "a"}]}, "/oneOf"),
        ({"oneOf": [{"const": 1}, {"const": 1.0}]}, "/oneOf"),
        ({"oneOf": [tagged("a"), {"type": "object"}]}, "/oneOf"),
        ({"oneOf": [{"const": i} for i in range(101)]}, "/oneOf"),
        ({"oneOf": [tagged("a"), {"type": "object"}],
          "discriminator": {"propertyName": "kind"}}, "/discriminator"),
        ({"oneOf": [tagged("a"), tagged("b")],
          "discriminator": {"propertyName": "kind", "mapping": {"c": "#/x"}}}, "/discriminator"),
        ({"discriminator": {"propertyName": "kind"}}, "/discriminator"),
    ],
)  # fmt: skip
def test_alternatives_that_may_both_hold_are_refused(schema: Any, pointer: str) -> None:
    assert list(problems(schema)) == [pointer]


# ---- kept to ------------------------------------------------------------------------------------
KEPT: list[Any] = [
    True,
    {},
    {"type": "object"},
    {"type": ["integer", "null", "boolean"]},
    {"enum": [1, -2.5, "a\"\\/\n\té😀", None, True, {"x": [1, {}]}, ["é", []], "", 1.0]},
    {"const": {"b": 1, "a": [None]}},
    {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
    {"type": "number", "minimum": -1.5, "exclusiveMaximum": -1},
    {"allOf": [{"type": "number", "exclusiveMinimum": 1}, {"maximum": 1.5}]},
    {"type": "integer", "minimum": -7, "exclusiveMaximum": 130, "multipleOf": 7},
    {"type": "number", "multipleOf": 0.25, "minimum": 1, "maximum": 3},
    {"type": "integer", "format": "uint8"},
    {"type": "integer", "minimum": 10**17, "maximum": 2**63 - 1},
    {"type": "string", "minLength": 2, "maxLength": 4},
    {"type": "string", "pattern": "b[0-9]+$", "maxLength": 9},
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3},
    {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": False, "minItems": 1},
    {"type": "array", "prefixItems": [{"type": "null"}], "items": {"type": "boolean"}},
    {"type": "object", "properties": {"a": {"type": "integer"}},
     "additionalProperties": {"type": "string"}},
    {"type": "object", "properties": {"a\"b": {"type": "integer"}}, "required": ["a\"b", "c"],
     "additionalProperties": {"type": "null"}},
    {"type": "object", "patternProperties": {"^x_": {"type": "integer"}, "^y": {"type": "null"}},
     "additionalProperties": {"type": "string", "maxLength": 3}},
    {"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}},
     "additionalProperties": False, "minProperties": 1},
    {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1,
     "maxProperties": 2},
    {"type": "object", "propertyNames": {"enum": ["a", "b"]},
     "additionalProperties": {"type": "integer"}},
    {"type": "object", "propertyNames": {"minLength": 2, "maxLength": 3}},
    {"type": "object", "propertyNames": {"$ref": "#/$defs/n"}, "$defs": {"n": {"pattern": "^a+$"}}},
    {"anyOf": [{"required": ["a"]}, {"required": ["b"]}], "type": "object",
     "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    {"anyOf": [{"type": "integer"}, {"type": "string"}],
     "oneOf": [{"type": "integer"}, {"type": "null"}]},
    {"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
               {"type": "object", "properties": {"b": {"type": "null"}}, "required": ["b"]}]},
    {"$ref": "#/$defs/a~1b%25", "$defs": {"a/b%": {"type": "integer", "minimum": 3}}},
    {"$ref": "#/properties/x/items", "properties": {"x": {"items": {"type": "boolean"}}}},
    {"type": "object", "properties": {"v": {"type": "integer"}, "next": {"anyOf": [
        {"type": "null"}, {"$ref": "#"}]}}, "required": ["v", "next"]},
]  # fmt: skip
OF_DRAFT_7: list[Any] = [
    {"type": "array", "items": [{"const": 1}, {"type": "null"}], "additionalItems": False},
    {"items": [{"type": "string"}], "additionalItems": {"type": "integer"}, "type": "array"},
    {"$ref": "#/definitions/a", "definitions": {"a": {"type": "boolean"}}},
]


def assert_kept(
    schema: Any, compiler: Compiler, vocabulary: Vocabulary, validator: Any = None
) -> None:
    """Whatever is drawn at random under the constraint satisfies the schema."""
    check = (validator or jsonschema.Draft202012Validator)(schema)
    ended = 0
    for seed in range(12):
        drawn = walk(start(compiler, "json_schema", schema=schema), vocabulary, random.Random(seed))
        if drawn is not None:
            ended += 1
            check.validate(json.loads(drawn.decode()))  # whole characters only
    assert ended > 3


@pytest.mark.parametrize("schema", KEPT, ids=lambda value: str(value)[:60])
def test_whatever_is_drawn_satisfies_the_schema(
    schema: Any, compiler: Compiler, vocabulary: Vocabulary
) -> None:
    assert_kept(schema, compiler, vocabulary)


@pytest.mark.parametrize("schema", OF_DRAFT_7, ids=lambda value: str(value)[:60])
def test_spellings_of_draft_7_mean_what_they_meant(
    schema: Any, compiler: Compiler, vocabulary: Vocabulary
) -> None:
    assert_kept(schema, compiler, vocabulary, jsonschema.Draft7Validator)


def test_an_object_that_lists_its_properties_gets_no_others(
    compiler: Compiler, vocabulary: Vocabulary
) -> None:
    schema = {"type": "object", "properties": {"a": {}}}
    constraint = start(compiler, "json_schema", schema=schema)
    assert takes(constraint.copy(), vocabulary, '{"a": 1}')
    assert not takes(constraint, vocabulary, '{"b": 1}')


def test_a_property_cannot_come_a_second_time_in_another_spelling(
    compiler: Compiler, vocabulary: Vocabulary
) -> None:
    schema = {"properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}}
    constraint = start(compiler, "json_schema", schema={"type": "object", **schema})
    assert takes(constraint.copy(), vocabulary, '{"b": "x"}')
    assert not takes(constraint, vocabulary, r'{"\u0061": "x"}')


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ('{"a":1,"b":[2]}', True),
        ('{"a": 1, "b": [2]}', True),
        ('{\n    "a": 1,\r\n\t"b": [\n        2\n    ]\n}', True),
        ('{"a":  1, "b": [2]}', False),
        ('{\n\n"a": 1, "b": [2]}', False),
        ("{\n" + " " * 41 + '"a": 1, "b": [2]}', False),
        (' {"a": 1, "b": [2]}', False),
        ('{"a": 1, "b": [2]}\n', False),
    ],
)
def test_blanks_are_free_but_never_endless(
    text: str, taken: bool, compiler: Compiler, vocabulary: Vocabulary
) -> None:
    schema = {"type": "object", "required": ["a", "b"]}
    constraint = start(compiler, "json_schema", schema=schema)
    assert takes(constraint, vocabulary, text) is taken
