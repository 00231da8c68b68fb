"""What an attacker sends as a schema or a grammar, each with the problem that it must come to."""

from __future__ import annotations

from typing import Any, Final

BAD, INVALID = "invalid-request", "grammar-invalid"


def nested(depth: int) -> Any:
    schema: Any = {"type": "null"}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def chained(length: int) -> Any:
    """Each definition is two of the next: as text it would have no end."""
    return {
        "$ref": "#/$defs/d0",
        "$defs": {
            f"d{n}": {"type": "array", "prefixItems": [{"$ref": f"#/$defs/d{n + 1}"}] * 2,
                      "minItems": 2, "items": False}
            for n in range(length)
        } | {f"d{length}": {"type": "null"}},
    }  # fmt: skip


SCHEMAS: Final[dict[str, Any]] = {
    "nested too deep": nested(40),
    "too many properties": {"properties": {f"p{n}": {} for n in range(501)}},
    "too large": {"description": "x" * 70_000},
    "a circle": {"$ref": "#"},
    "a circle of two": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"},
                                                     "b": {"$ref": "#/$defs/a"}}},
    "never ends": {"type": "object", "properties": {"n": {"$ref": "#"}}, "required": ["n"]},
    "from elsewhere": {"$ref": "http://127.0.0.1:1/schema.json"},
    "from a file": {"$ref": "file:///etc/passwd"},
    "endless texts": {"type": "string", "minLength": 10**9, "maxLength": 10**9},
    "endless lists": {"type": "array", "minItems": 2_000_000},
    "a pattern that explodes": {"type": "string", "pattern": "^((a{1,200}){1,200}){1,200}$"},
    "a pattern that looks ahead": {"type": "string", "pattern": "(?=(a+)+$)"},
    "no pattern": {"type": "string", "pattern": "((("},
    "a pattern nested too deep": {"type": "string", "pattern": "(" * 5000 + ")" * 5000},
    "options of the compiler": {"x-guidance": {"lenient": True}},
    "nothing fits": {"type": "integer", "minimum": 3, "maximum": 2},
    "numbers without end": {"multipleOf": 1e-300},
    "a pointer without end": {"$ref": "#/" + "a/" * 20_000},
}  # fmt: skip
"""Each is an invalid request."""

HEAVY: Final[dict[str, Any]] = {
    "twice of twice of twice": chained(25),
    "huge alternatives": {"anyOf": [{"type": "string", "pattern": f"^.{{0,300}}{n}.{{0,300}}$"}
                                    for n in range(60)]},
    "many patterns of names": {"type": "object", "patternProperties": {
        f"^.*{n}.*$": {"type": "integer"} for n in range(60)}},
}  # fmt: skip
"""Each is refused in time or kept to: what it comes to is the compiler's own business."""

ENDLESS: Final[dict[str, Any]] = {
    "patterns together": {"allOf": [{"type": "string", "pattern": f"^.*(a|b).{{{n}}}c.*$"}
                                    for n in range(10, 30)]},
    "primes together": {"allOf": [{"type": "integer", "multipleOf": prime}
                                  for prime in (9973, 9967, 9949, 9941)]},
}  # fmt: skip
"""Each would keep the compiler busy for minutes, though no rule is broken."""

GRAMMARS: Final[dict[str, str]] = {
    "no root": 'start ::= "a"',
    "an unknown rule": "root ::= other",
    "recursion to the left": 'root ::= root "a" | "a"',
    "recursion to the left by way of another": 'root ::= b "a" | "a"\nb ::= root "b" | "b"',
    "recursion of nothing": "root ::= root",
    "never ends": 'root ::= "a" root',
    "an unclosed text": 'root ::= "a',
    "an unclosed class": "root ::= [a",
    "an unclosed group": 'root ::= ("a"',
    "a backwards range": "root ::= [z-a]",
    "a huge repetition": 'root ::= "a"{1000000000}',
    "huge repetitions of repetitions": 'root ::= ((("a"{200}){200}){200}){200}',
    "nested too deep": "root ::= " + "(" * 5000 + '"a"' + ")" * 5000,
    "half a character": r'root ::= "\uD800"',
    "text of another language": 'start: /a+/ %json {"x-guidance": 1}',
    "an injected directive": 'root ::= "a"\n%json {}',
    "a null character": 'root ::= "a\0b" c',
}

HEAVY_GRAMMARS: Final[dict[str, str]] = {
    "endless ways to say nothing": 'root ::= ("a"* )* ("a"*)* "b"',
    "twice of twice of twice": "\n".join(
        ["root ::= r0 r0", *(f"r{n} ::= r{n + 1} r{n + 1}" for n in range(25)), 'r25 ::= "a"']
    ),
    "ambiguity without end": 'root ::= s\ns ::= "a" | s2 s2 s2\ns2 ::= "" | "a" s | "a"',
    "all of unicode, often": "root ::= " + " ".join([r"[^\x00]{0,50}"] * 30),
}
