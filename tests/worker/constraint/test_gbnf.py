"""GBNF: what may follow is what llama.cpp's own grammar lets follow, token for token."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import llama_cpp.llama_cpp as C
import pytest

from tabagent import wire
from tabagent.errors import GrammarInvalid
from tabagent.worker.constraint.compiler import Compiler
from tabagent.worker.constraint.gbnf_to_lark import convert
from tabagent.worker.constraint.grammar import answer_rules
from tabagent.worker.constraint.vocabulary import Vocabulary
from tabagent.worker.gguf.native import Model
from tests.worker.constraint.real import allowed, start, takes

JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [a-z0-9 ] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [1-9] [0-9]{0,3})? ws
ws ::= | " " | "\n" [ \t]{0,20}   # one line break
"""
SAME = {
    "json": JSON,
    "a lexer would never end": 'root ::= [a-z]+ "end"',
    "a lexer would take too much": 'root ::= ("a" | "ab") "bc"* [a-c]',
    "nested": 'root ::= "<" body ">"\nbody ::= [a-z>]* root? [a-z]',
    "counted": 'root ::= item{2,3} ("x" "y"){1,} "z"?\nitem ::= [0-9] "," | "-"',
    "unicode": 'root ::= "é\\u00e8" [α-ω]+ "\\U0001F600"',
    "empty alternatives": 'root ::= a b\na ::= "x"*\nb ::= "x" "y" | ""',
    "empty repeats": 'root ::= a? b "z"\na ::= "x"? | ""\nb ::= a{0,3}',
    "repeats of repeats": 'root ::= (("a"|"b"){2,3} "c"?)+ (("d"*)*)? (("e"+){2,3} "f"{0}){0,2}',
    "repeats of repeats that stay two": 'root ::= "a"{2,3}{2} ("b"{2}){0,2} "d"',
    "right recursion": 'root ::= [a-z] root | "."',
    "right recursion of many": 'root ::= a\na ::= [ab] b | ""\nb ::= [cd] a | "x" b | ";"',
    "middle": 'root ::= "a" root "a" | "b" root "b" | "c"',
    "lines": 'root ::= (\n "a" # one\n | "b" x\n )\n# two\n\nx ::= # three\n "y" |\n "z"',
    "string repeated": 'root ::= "abc"{2} "de"*',
    "escapes": r'root ::= "\\\"\[\]\n\r\t\x41" [\]\[\\\-^-] [a\-z]',
}


@contextmanager
def llamas_own(model: Model, grammar: str) -> Iterator[Any]:
    sampler = C.llama_sampler_init_grammar(model.vocab, grammar.encode(), b"root")
    assert sampler, "llama.cpp cannot read it"
    yield sampler
    C.llama_sampler_free(sampler)


def its_choice(model: Model, sampler: Any) -> set[int]:
    data = (C.llama_token_data * model.n_vocab)()
    for token in range(model.n_vocab):
        data[token].id = token
    rows = C.llama_token_data_array(data=data, size=model.n_vocab, selected=-1, sorted=False)
    C.llama_sampler_apply(sampler, ctypes.byref(rows))
    return {data[i].id for i in range(rows.size) if data[i].logit == 0}


@pytest.mark.parametrize("name", SAME)
def test_what_may_follow_is_what_llama_cpp_lets_follow(
    name: str, model: Model, compiler: Compiler, vocabulary: Vocabulary
) -> None:
    compared = 0
    for seed in range(3):
        rng = random.Random(seed)
        constraint = start(compiler, "gbnf", grammar=SAME[name])
        with llamas_own(model, SAME[name]) as sampler:
            for _ in range(25):
                ours, theirs = set(allowed(constraint, vocabulary)), its_choice(model, sampler)
                if constraint.forced():  # one of several spellings, the model's own
                    assert ours <= theirs
                else:
                    assert ours == theirs
                    compared += 1
                going_on = sorted(ours - set(vocabulary.end_tokens))
                if not going_on:
                    break
                token = rng.choice(going_on)
                constraint.accept(token)
                C.llama_sampler_accept(sampler, token)
    assert compared


def test_any_character_is_any_character(compiler: Compiler, vocabulary: Vocabulary) -> None:
    """llama.cpp would also take bytes that begin no character, and control tokens as their text."""
    constraint = start(compiler, "gbnf", grammar='root ::= . [^a] "."')
    for text in ("\n\n.", "é😀.", "ab."):
        assert takes(constraint.copy(), vocabulary, text)
    assert not takes(constraint.copy(), vocabulary, "xa.")
    tokens = set(allowed(constraint, vocabulary))
    assert not tokens & {t for t, special in enumerate(vocabulary.special) if special}


def test_tokens_are_named_by_text_or_number(compiler: Compiler, vocabulary: Vocabulary) -> None:
    ends = vocabulary.pieces.index(b"<|im_start|>")
    named = start(compiler, "gbnf", grammar='root ::= <|im_start|> "a"')
    numbered = start(compiler, "gbnf", grammar=f'root ::= <[{ends}]> "a"')
    others = start(compiler, "gbnf", grammar=f'root ::= !<[{ends}]> "a"')
    assert allowed(named, vocabulary) == allowed(numbered, vocabulary) == [ends]
    assert ends not in allowed(others, vocabulary)
    assert len(allowed(others, vocabulary)) > 2900


def test_a_rule_that_ends_in_itself_is_a_loop(compiler: Compiler, vocabulary: Vocabulary) -> None:
    """Else each character would end all the rules that were begun: slower and slower."""
    grammar = 'root ::= [a-z] root | "-" root | ""'
    assert "*" in convert(grammar, "answer")
    constraint = start(compiler, "gbnf", grammar=grammar)
    assert takes(constraint, vocabulary, "ab-" * 1000)


@pytest.mark.parametrize(
    ("repeats", "one"),
    [
        ("((a*)*)*", "a*"), ("(a+)*", "a*"), ("(a?)+", "a*"), ("(a*)+", "a*"), ("(a+)+", "a+"),
        ("(a+){2,}", "a{2,}"), ("(a{0,2}){0,3}", "a{0,6}"), ("(a{1,2}){3}", "a{3,6}"),
        ("(a{2,3}){2}", None), ("(a b)*", None), ("(a? | b)*", None),
    ],
)  # fmt: skip
def test_repeats_of_repeats_are_one_where_that_says_the_same(repeats: str, one: str | None) -> None:
    rest = '\na ::= "x"\nb ::= "y"'
    joined = convert(f"root ::= {repeats}{rest}", "r")
    assert (one is not None and joined == convert(f"root ::= {one}{rest}", "r")) or (
        one is None and joined.count("{") + joined.count("*") > 0
    )


INVALID = [
    ("", 1, "no rule root"),
    ("\n\n# nothing\n", 1, "no rule root"),
    ('start ::= "a"', 1, "no rule root"),
    ('root ::= "a" b', 1, "b is not defined"),
    ('root ::= "a"\nx ::= "b"\ny ::= z', 3, "z is not defined"),
    ('root ::= "a"\n\nroot ::= "b"', 3, "defined twice; line 1"),
    ('root "a"', 1, "::= should follow"),
    ('root ::= "a"\n= "b"', 2, "should begin here"),
    ('root ::= ("a"', 1, "has no )"),
    ('root ::= "a")', 1, "cannot read"),
    ('root ::= "a\n', 1, "no end"),
    ('root ::=\n  "b" [a-z', 2, "no ]"),
    ("root ::= []", 1, "empty"),
    ("root ::= [z-a]", 1, "backwards"),
    (r'root ::= "\q"', 1, r"\q is no escape"),
    (r'root ::= "\x4"', 1, "no escape"),
    (r'root ::= "\uD800"', 1, "no character"),
    (r'root ::= "\U00110000"', 1, "no character"),
    ("root ::= *", 1, "nothing before it"),
    ('root ::= "a"{3,2}', 1, "ends before it begins"),
    ('root ::= "a"{2001}', 1, "more than 2,000"),
    ('root ::= ("a" "b"{50}){41}', 1, "more than 2,000"),
    ("root ::= " + "(" * 33 + '"a"' + ")" * 33, 1, "deeper than 32"),
    ('root ::= root "a" | "b"', 1, "root begins with itself"),
    ('root ::= "x"\na ::= b "x"\nb ::= c? a "y" | "z"\nc ::= "q"', 2, "a begins with itself"),
    ('root ::= "a" root', 1, "demands itself without end"),
    ('root ::= "a" | x\nx ::= "b" y\ny ::= "c" x', 2, "demands itself without end"),
    ("root ::= !<think>", 1, "written by number"),
    ("\n".join(f'r{i} ::= "a"' for i in range(1001)), 1001, "more than 1,000 rules"),
]


@pytest.mark.parametrize(("grammar", "line", "what"), INVALID, ids=lambda value: str(value)[:40])
def test_a_refused_grammar_is_told_by_line_and_reason(grammar: str, line: int, what: str) -> None:
    with pytest.raises(GrammarInvalid) as raised:
        answer_rules(wire.Format("gbnf", "/grammar", grammar=grammar))
    assert raised.value.detail.startswith(f"line {line}: ")
    assert what in raised.value.detail


def test_all_names_begin_with_the_given_one() -> None:
    names = [line.partition(":")[0] for line in convert(JSON, "answer").splitlines()]
    assert names[0] == "answer"
    assert all(name.startswith("answer_") for name in names[1:])
    assert len(set(names)) == len(names) > 7
