"""Arguments that are written one by one, held to their schemas."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # ships no types
import pytest

from tabagent import wire
from tabagent.errors import InvalidRequest
from tests.worker.dialect.conftest import MakeTemplate, Template
from tests.worker.dialect.test_grammar import ends_of
from tests.worker.dialect.test_parser import TALK, Heard
from tests.worker.dialect.tokens import Tokens

FAMILIES = ["qwen3-coder", "glm-4.5", "glm-4.7", "seed-oss", "minimax-m2"]


def asking(parameters: dict[str, Any], **more: Any) -> wire.Dialogue:
    tool = wire.Tool("f", "", parameters, pointer="/tools/0/function/parameters", **more)
    return wire.Dialogue(tools=[tool], tool_choice="required", parallel_tool_calls=False)


def source(template: Template, dialogue: wire.Dialogue) -> str:
    grammar = template.dialect.grammar(dialogue, None, "")
    assert grammar is not None
    return grammar


def written(template: Template, **values: str) -> str:
    shape = template.dialect._facts.syntax
    assert shape.argument is not None
    arguments = "".join(shape.argument.write(key=k, value=v) for k, v in values.items())
    call = shape.call.write(name="f", arguments=arguments)
    return shape.section[0] + call + shape.section[1]


def of(schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"x": schema}, "required": ["x"]}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string"}, ["", "a\nb", "</x>", "1"], []),
        ({"type": "string", "maxLength": 3}, ["", "abc", "é🦙x"], ["abcd"]),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "abc"], ["a", "abcd"]),
        ({"type": "string", "pattern": "^[a-c]+$"}, ["abc"], ["d", ""]),
        ({"type": "string", "pattern": "b/"}, ["ab/c", "b/"], ["ac"]),
        ({"enum": ["red", "light red"]}, ["red", "light red"], ["blue", "re"]),
        ({"enum": ["", 1, None, {"a": 1}]}, ["", "1", "null", '{"a": 1}'], ["2", "None"]),
        ({"const": "on"}, ["on"], ["off"]),
        ({"type": "integer", "minimum": 3}, ["3", "40"], ["2", "3.5", '"3"', "three"]),
        ({"type": "number"}, ["2.5", "-1e3"], ["x", '"2"']),
        ({"type": "boolean"}, ["true", "False"], ["yes", "1"]),
        ({"type": ["boolean", "null"]}, ["true", "null", "None"], ["0"]),
        ({"type": "array", "items": {"type": "integer"}}, ["[]", "[1, 2]"], ['["a"]', "1"]),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, ["1", "null"], ["one"]),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, ["1", "null", "one"], []),
        ({}, ["1", "null", "one", "{"], []),
        ({"$ref": "#/properties/y"}, ['{"n": 1, "next": {"n": 2}}'], ['{"next": 1}', "1"]),
    ],
)
def test_a_value_is_held_to_its_schema(
    template: MakeTemplate, qwen: Tokens, name: str, schema: Any, good: list[str], bad: list[str]
) -> None:
    made = template(name)
    node = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "next": {"$ref": "#/properties/y"}},
        "required": ["n"],
    }
    parameters = of(schema)
    parameters["properties"]["y"] = node
    dialogue = asking(parameters)
    thoughts = "a</think>" if made.dialect.thoughts(made.prompt(TALK)) == "open" else ""
    grammar = made.dialect.grammar(dialogue, None, made.prompt(TALK))
    assert grammar is not None
    for value in good:
        text = thoughts + written(made, x=value)
        assert qwen.allows(grammar, text), value
        heard = Heard(made.dialect.parser(dialogue, made.prompt(TALK)), text)
        jsonschema.validate(json.loads(heard.calls[0][1]), parameters)
    for value in bad:
        assert not qwen.allows(grammar, thoughts + written(made, x=value)), value


@pytest.mark.parametrize("name", FAMILIES)
def test_arguments_come_in_order_and_optional_ones_may_be_left_out(
    template: MakeTemplate, qwen: Tokens, name: str
) -> None:
    made = template(name)
    schema = {"type": "integer"}
    parameters = {"properties": {"a": schema, "b": schema, "c": schema}, "required": ["b", "d"]}
    grammar = source(made, asking(parameters))
    assert qwen.allows(grammar, written(made, b="1", d="x"))
    assert qwen.allows(grammar, written(made, a="1", b="1", c="1", d="x"))
    assert not qwen.allows(grammar, written(made, a="1", d="x"))
    assert not qwen.allows(grammar, written(made, b="1", a="1", d="x"))
    assert not qwen.allows(grammar, written(made, b="1", d="x", e="1"))


def test_arguments_of_any_name_are_free_where_none_are_declared(
    template: MakeTemplate, qwen: Tokens
) -> None:
    made = template("qwen3-coder")
    dialogue = asking({"type": "object", "additionalProperties": {"type": "integer"}})
    assert qwen.allows(source(made, dialogue), written(made, apples="3", pears="4"))
    assert not qwen.allows(source(made, dialogue), written(made, apples="many"))
    heard = Heard(made.dialect.parser(dialogue, ""), written(made, apples="3"))
    assert heard.calls == [("f", '{"apples": 3}')]
    closed = asking({"type": "object", "additionalProperties": False})
    assert not qwen.allows(source(made, closed), written(made, apples="3"))
    assert qwen.allows(source(made, closed), written(made))


@pytest.mark.parametrize(
    ("parameters", "pointer"),
    [
        ({"anyOf": [of({}), of({})]}, "/anyOf"),
        ({**of({}), "minProperties": 2}, "/minProperties"),
        (of({"type": "string", "format": "date"}), "/properties/x"),
        ({"properties": {"a/b": {"type": ["string", "null"], "maxLength": 3}}}, "/properties/a~1b"),
    ],
)
def test_a_strict_tool_that_cannot_be_held_is_refused(
    template: MakeTemplate, qwen: Tokens, parameters: dict[str, Any], pointer: str
) -> None:
    made = template("qwen3-coder")
    with pytest.raises(InvalidRequest, match="cannot be held to strictly") as refusal:
        made.dialect.grammar(asking(parameters, strict=True), None, "")
    (error,) = refusal.value.members["errors"]
    assert error["pointer"] == f"/tools/0/function/parameters{pointer}"
    qwen.matcher(source(made, asking(parameters)))  # one that is not strict gets what there is
    assert template("qwen2.5").dialect.grammar(asking(parameters, strict=True), None, "")


def test_a_schema_is_checked_whole_and_part_by_part(template: MakeTemplate) -> None:
    checked: list[tuple[Any, str]] = []
    dialect = template("qwen3-coder").dialect

    def rule(schema: Any, pointer: str) -> str:
        checked.append((schema, pointer))
        return "%json {}"

    parameters = of({"type": "integer"})
    type(dialect)(dialect._facts, {}, rule).grammar(asking(parameters), None, "")
    assert checked == [
        (parameters, "/tools/0/function/parameters"),
        ({"type": "integer"}, "/tools/0/function/parameters/properties/x"),
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_random_values_of_every_type_are_valid(
    template: MakeTemplate, tokens: Tokens, name: str
) -> None:
    made = template(name, tokens.specials)
    parameters = {
        "type": "object",
        "properties": {
            "short": {"type": "string", "maxLength": 6},
            "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]+$"},
            "one": {"enum": ["a", "b", 3]},
            "flag": {"type": "boolean"},
            "list": {"type": "array", "items": {"enum": [1, 2]}, "maxItems": 3},
        },
        "required": ["short", "code", "one", "flag", "list"],
    }
    dialogue = asking(parameters)
    for seed in "abc":
        text = tokens.walk(source(made, dialogue), random.Random(seed), ends_of(made), soon=80)
        heard = Heard(made.dialect.parser(wire.Dialogue(tools=dialogue.tools), ""), text)
        jsonschema.validate(json.loads(heard.calls[0][1]), parameters)
