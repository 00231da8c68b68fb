"""Hostile schemas and grammars, and what one attack comes to in a process that may die of it."""

from __future__ import annotations

import functools
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, Final

from tabagent.errors import TabAgentError
from tabagent.worker.constraint.compiler import Compiler
from tabagent.worker.constraint.vocabulary import Vocabulary
from tests.worker.constraint import real

STEPS: Final = 40


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema, "minItems": 1}
    return schema


def chained(keyword: str, length: int) -> dict[str, Any]:
    """Every definition refers to the next one twice."""
    definitions: dict[str, Any] = {
        f"d{i}": {keyword: [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]}
        for i in range(length)
    }
    return {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{length}": {"type": "integer"}}}


def long_way(length: int) -> dict[str, Any]:
    """Definitions inside of each other, one array deeper each."""
    definitions: dict[str, Any] = {
        f"d{i}": {"items": {"$ref": f"#/$defs/d{i + 1}"}, "type": "array"} for i in range(length)
    }
    return {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{length}": {"type": "null"}}}


def wide(count: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(count)}}


def repeated(times: int, levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema, "minItems": times, "maxItems": times}
    return schema


def bottomless() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


PICKED_APART = [
    {"anyOf": [{"type": "object", "properties": {f"k{j}_{i}": {"const": i}},
                "required": [f"k{j}_{i}"]} for i in range(20)]} for j in range(3)
]  # fmt: skip

# What may come of it: an error's slug, or "followed".
SCHEMAS: Final[dict[str, tuple[Any, set[str]]]] = {
    "33 deep": (nested(33), {"invalid-request"}),
    "bottomless constant": ({"const": bottomless()}, {"invalid-request"}),
    "501 properties": (wide(501), {"invalid-request"}),
    "500 optional properties": (wide(500), {"followed"}),
    "more repeats than 2,000": (repeated(2001, 1), {"invalid-request"}),
    "2,000 repeats five deep": (repeated(2000, 5), {"followed"}),
    "doubling anyOf": (chained("anyOf", 30), {"followed"}),
    "doubling allOf": (chained("allOf", 30), {"followed"}),
    "doubling oneOf": (chained("oneOf", 30), {"invalid-request"}),
    "a thousand references deep": (long_way(900), {"followed", "grammar-invalid"}),
    "remote reference": ({"$ref": "http://[::1]/a.json"}, {"invalid-request"}),
    "circle": ({"$ref": "#"}, {"invalid-request"}),
    "endless": ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, {"invalid-request"}),
    "regex repeats of repeats": ({"pattern": "^(a{1000}){1000}$"}, {"invalid-request"}),
    "regex backtracking": ({"type": "string", "pattern": "^((a|a)*)*(x+x+)+$"}, {"followed"}),
    "regex subsets": (
        {"type": "string", "pattern": "x.{400}y"}, {"followed", "grammar-invalid"}
    ),
    "30 patterns at once": (
        {"allOf": [{"type": "string", "pattern": f"a.{{{i}}}b"} for i in range(30)]},
        {"grammar-invalid"},
    ),
    "8,000 combinations": ({"allOf": PICKED_APART}, {"grammar-invalid", "followed"}),
    "6,000 constants": ({"enum": [f"v{i}" for i in range(6000)]}, {"followed"}),
    "a constant of 60 kB": ({"const": "a" * 60_000}, {"invalid-request"}),
    "a keyword of 60 kB": ({"a" * 60_000: 1}, {"invalid-request"}),
    "64 KiB and more": ({"description": "a" * 65_536}, {"invalid-request"}),
    "NaN": ({"type": "number", "minimum": float("nan")}, {"invalid-request"}),
    "a million states": ({"type": "integer", "multipleOf": 1_000_003}, {"invalid-request"}),
    "contradiction": ({"type": "string", "minLength": 2, "maxLength": 1}, {"invalid-request"}),
    "contradiction in two places": (
        {"allOf": [{"type": "string"}, {"type": "integer"}]}, {"grammar-invalid"}
    ),
    "options of the compiler": ({"x-guidance": {"lenient": True}}, {"invalid-request"}),
}  # fmt: skip

REFUSED: Final = {"grammar-invalid"}
GRAMMARS: Final[dict[str, tuple[str, set[str]]]] = {
    "left recursion": ('root ::= root "a" | "b"', REFUSED),
    "hidden left recursion": ('root ::= e root "a" | "b"\ne ::= "x"?', REFUSED),
    "33 groups": ("root ::= " + "(" * 33 + '"a"' + ")" * 33, REFUSED),
    "20,000 groups": ("root ::= " + "(" * 20_000, REFUSED),
    "undefined": ('root ::= "a" nothing', REFUSED),
    "empty": ("", REFUSED),
    "no root": ('start ::= "a"', REFUSED),
    "a thousand thousands": ('root ::= (("a"{1000}){1000})', REFUSED),
    "2,000 of anything": ("root ::= .{0,2000}", {"followed"}),
    "ambiguous": ('root ::= ("a"*)*', {"followed"}),
    "ambiguous and free": ('root ::= ((.*)*)* ((.+)+)+ "x"', {"followed", "grammar-invalid"}),
    "ambiguous counts": (
        "root ::= (([a-z]{2,12}){2,12}){2,12}", {"followed", "grammar-invalid"}
    ),
    "unterminated string": ('root ::= "abc', REFUSED),
    "unterminated class": ("root ::= [a-", REFUSED),
    "bad escape": (r'root ::= "\xG0"', REFUSED),
    "64 KiB and more": ('root ::= "' + "a" * 65_536 + '"', REFUSED),
    "a literal of 60 kB": ('root ::= "' + "a" * 60_000 + '"', {"followed"}),
    "6,000 alternatives": ("root ::= " + "|".join(['"a"'] * 6_000), {"followed"}),
    "16,000 alternatives": (  # a slow processor needs too long for a token
        "root ::= " + "|".join(['"a"'] * 16_000), {"followed", "grammar-invalid"}
    ),
    "NUL in a string": ('root ::= "a\0b"', {"followed"}),
    "NUL in a name": ('root\0 ::= "a"', REFUSED),
    "range backwards": ("root ::= [z-a]", REFUSED),
    "endless": ('root ::= "a" root', REFUSED),
    "a thousand rules deep": (
        "root ::= a0\n" + "\n".join(f"a{i} ::= a{i + 1}" for i in range(998)) + '\na998 ::= "x"',
        {"followed", "grammar-invalid"},
    ),
    "lines of Lark": ('root ::= "a"\n%ignore /x/', REFUSED),
}  # fmt: skip


@functools.cache
def tools() -> tuple[Compiler, Vocabulary]:
    vocabulary = real.vocabulary(real.load())
    return Compiler(lambda: vocabulary), vocabulary


def attack(kind: str, name: str) -> str:
    """The slug of the refusal, or that the constraint could be followed for some steps."""
    compiler, vocabulary = tools()
    asked = (
        {"schema": SCHEMAS[name][0]} if kind == "json_schema" else {"grammar": GRAMMARS[name][0]}
    )
    try:
        constraint = real.start(compiler, kind, **asked)
        real.walk(constraint, vocabulary, random.Random(name), most=STEPS)
    except TabAgentError as error:
        return error.slug if len(error.detail) < 1000 else "too many words"
    return "followed"


def serve(questions: Connection) -> None:
    """Answer until nobody asks any more, on threads with as little stack as macOS gives them."""
    threading.stack_size(512 * 1024)
    while True:
        try:
            asked = questions.recv()
        except EOFError:
            tools()[0].close()
            return
        with ThreadPoolExecutor(1) as thread:
            questions.send(thread.submit(attack, *asked).result())
