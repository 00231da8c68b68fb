"""Arguments: where JSON ends, and what plain values mean."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from tabagent.worker.dialect.arguments import JsonEnd, as_json, quoted
from tabagent.worker.dialect.schema_parts import alone, kinds, members, resolve

DEFS = {
    "$defs": {
        "p/1": {
            "type": "object",
            "properties": {"n": {"type": "integer"}, "p": {"$ref": "#/$defs/p~11"}},
        },
        "circle": {"$ref": "#/$defs/circle"},
        "or": {"anyOf": [{"$ref": "#/$defs/or"}, {"type": "null"}]},
    }
}


# ---- the end of JSON ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    "value",
    [{}, [], {"a": [1, {"b": "}"}], "c": '"}\\'}, ["\\", "\\\\", '\\"', "]"], "x", "", '"', "\\"],
)
def test_the_end_of_json_is_found_at_every_split(value: Any) -> None:
    text = json.dumps(value)
    for cut in range(len(text) + 1):
        for rest in ("", "}", ', "b": 1}', '"'):
            end = JsonEnd()
            first = end.find(text[:cut], 0)
            if first >= 0:
                assert first == cut == len(text)
            else:
                assert end.find(text[cut:] + rest, 0) == len(text) - cut
            assert not end.broken


@pytest.mark.parametrize(("text", "at"), [("{<", 1), ('{"a": ’', 6), ('{"a" = 1}', 5)])
def test_what_no_json_has_ends_it(text: str, at: int) -> None:
    end = JsonEnd()
    assert end.find(text, 0) == at
    assert end.broken


# ---- plain values -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "allowed", "value"),
    [
        ("2", {"integer"}, 2),
        (" 2\n", {"integer"}, 2),
        ("2", {"number"}, 2),
        ("2.5", {"integer"}, "2.5"),
        ("2", {"string"}, "2"),
        (" 2", {"string"}, " 2"),
        ("2", {"string", "integer"}, 2),
        ("two", {"integer"}, "two"),
        ("true", {"boolean"}, True),
        ("True", {"boolean"}, True),
        ("True", {"string"}, "True"),
        ("None", None, None),
        ("null", {"string", "null"}, None),
        ("", {"string", "null"}, ""),
        ("", None, ""),
        ('"x"', None, '"x"'),
        ('{"a": [1]}', None, {"a": [1]}),
        ('{"a": [1]}', {"array"}, '{"a": [1]}'),
        ("NaN", None, "NaN"),
        ("1e5", {"number"}, 1e5),
        ("[" * 100_000, None, "[" * 100_000),
        ("9" * 10_000, {"integer"}, "9" * 10_000),
        ('é🦙"\\\n', None, 'é🦙"\\\n'),
    ],
)
def test_a_plain_value_is_the_json_that_its_schema_allows(
    text: str, allowed: set[str] | None, value: Any
) -> None:
    got = json.loads(as_json(text, None if allowed is None else frozenset(allowed)))
    assert got == value
    assert type(got) is type(value)


def test_text_that_is_quoted_in_pieces_is_quoted_whole() -> None:
    draw = random.Random(5)
    for _ in range(200):
        text = "".join(draw.choices('é🦙"\\\n\t\x00\u2028x', k=8))
        cut = draw.randrange(9)
        assert quoted(text[:cut])[:-1] + quoted(text[cut:])[1:] == quoted(text)


# ---- schemas ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("schema", "found"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": ["string", "null"]}, {"string", "null"}),
        (
            {"enum": ["a", 1, None, 1.5, True, [], {}]},
            {"string", "integer", "null", "number", "boolean", "array", "object"},
        ),
        ({"const": 3}, {"integer"}),
        ({"anyOf": [{"type": "string"}, {"enum": [1]}]}, {"string", "integer"}),
        ({"oneOf": [{"type": "string"}, {}]}, None),
        ({"$ref": "#/$defs/p~11"}, {"object"}),
        ({"$ref": "#/$defs/nothing"}, None),
        ({"$ref": "#/$defs/circle"}, set()),
        ({"$ref": "#/$defs/or"}, {"null"}),
        ({}, None),
        (True, None),
    ],
)
def test_the_types_of_a_schema(schema: Any, found: set[str] | None) -> None:
    assert kinds(schema, DEFS) == (None if found is None else frozenset(found))


def test_many_references_to_many_take_no_time() -> None:
    n = 60
    refs = {"anyOf": [{"$ref": f"#/$defs/{i}"} for i in range(n)]}
    root = {"$defs": {str(i): refs for i in range(n)}}
    assert kinds(refs, root) == frozenset()
    assert members({"allOf": [refs] * n, **root}) == ({}, set())


def test_references_lead_where_rfc_6901_says() -> None:
    root = {"a": [{"b/c~d": 1}], "": 2}
    assert resolve("#/a/0/b~1c~0d", root) == 1
    assert resolve("#/", root) == 2
    assert resolve("#", root) == root
    assert resolve("#/a/1", root) is None
    assert resolve("other.json#/a", root) is None


def test_a_part_of_a_schema_keeps_what_it_refers_to() -> None:
    part = alone({"$ref": "#/$defs/p~11"}, DEFS)
    assert kinds(part, part) == frozenset({"object"})
    inner = resolve(part["$ref"], part)["properties"]["p"]
    assert resolve(inner["$ref"], part) == resolve(part["$ref"], part)
    assert alone({"type": "string"}, DEFS) == {"type": "string"}


def test_members_are_gathered_from_wherever_they_are_declared() -> None:
    schema = {
        "$ref": "#/$defs/base",
        "$defs": {
            "base": {
                "properties": {"a": {"type": "string"}},
                "required": ["a", "z"],
                "allOf": [{"properties": {"b": {}}, "required": ["b"]}],
                "anyOf": [{"properties": {"c": {}}, "required": ["c"]}, {"$ref": "#/$defs/base"}],
            }
        },
    }
    declared, required = members(schema)
    assert list(declared) == ["a", "b", "c", "z"]
    assert declared["a"] == {"type": "string"}
    assert required == {"a", "b", "z"}
    assert members(None) == ({}, set())
