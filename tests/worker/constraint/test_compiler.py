"""Compiling and following: once per grammar, exact about the end, and never in an unknown state."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import psutil
import pytest

from tabagent.errors import GrammarInvalid
from tabagent.worker.constraint import compiler as compiling
from tabagent.worker.constraint.compiler import Compiler, Constraint
from tabagent.worker.constraint.grammar import json_rule
from tabagent.worker.constraint.vocabulary import Vocabulary
from tests.worker.constraint.real import allowed, takes

A = json_rule({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, "")


def follow(constraint: Constraint, vocabulary: Vocabulary, text: str) -> None:
    """Accept `text` as the model spells it."""
    for token in vocabulary.tokenize(text):
        assert token in allowed(constraint, vocabulary), vocabulary.pieces[token]
        constraint.accept(token)


def where(constraint: Constraint) -> tuple[bool, bool]:
    return constraint.finished, constraint.accepting


# ---- the cache ----------------------------------------------------------------------------------
@pytest.fixture
def counted(vocabulary: Vocabulary) -> Iterator[tuple[Compiler, list[str]]]:
    """A compiler, and the grammars that it has really compiled."""
    made: list[str] = []
    compiler = Compiler(lambda: vocabulary)
    make = compiler._make

    def counting(lark: str) -> object:
        made.append(lark)
        return make(lark)

    compiler._make = counting  # type: ignore[method-assign,assignment]  # counts, changes nothing
    yield compiler, made
    compiler.close()


def test_a_grammar_is_compiled_once(counted: tuple[Compiler, list[str]]) -> None:
    compiler, made = counted
    for _ in range(3):
        compiler.compile('start: "a"')
    compiler.compile('start: "b"')
    assert made == ['start: "a"', 'start: "b"']


def test_the_grammar_used_longest_ago_is_dropped_first(
    counted: tuple[Compiler, list[str]],
) -> None:
    compiler, made = counted
    grammars = [f'start: "{i}"' for i in range(compiling.KEPT)]
    for lark in grammars:
        compiler.compile(lark)
    compiler.compile(grammars[0])
    compiler.compile('start: "one more"')
    made.clear()
    compiler.compile(grammars[0])
    compiler.compile(grammars[1])
    assert made == [grammars[1]]


def test_threads_that_want_the_same_grammar_compile_it_once(
    counted: tuple[Compiler, list[str]],
) -> None:
    compiler, made = counted
    got: list[Constraint] = []
    threads = [
        threading.Thread(target=lambda: got.append(compiler.compile("start: " + A)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(got) == 4
    assert len(made) == 1


def test_nobody_pays_before_the_first_grammar(vocabulary: Vocabulary) -> None:
    asked: list[int] = []

    def give() -> Vocabulary:
        asked.append(1)
        return vocabulary

    children = len(psutil.Process().children())
    compiler = Compiler(give)
    assert asked == []
    compiler.close()
    assert asked == []
    assert len(psutil.Process().children()) == children
    compiler.compile('start: "a"')
    compiler.compile('start: "b"')
    compiler.close()
    assert asked == [1]
    assert len(psutil.Process().children()) == children


# ---- masks --------------------------------------------------------------------------------------
def test_only_what_may_follow_keeps_its_logit(compiler: Compiler, vocabulary: Vocabulary) -> None:
    logits = np.random.default_rng(1).normal(size=len(vocabulary.pieces)).astype(np.float32)
    before = logits.copy()
    compiler.compile('start: /[0-9]+/ | "x"').allow(logits)
    kept = {p for p, logit in zip(vocabulary.pieces, logits, strict=True) if logit > -np.inf}
    assert kept == {p for p in vocabulary.pieces if p.isdigit() and p.isascii()} | {b"x"}
    assert np.array_equal(logits[logits > -np.inf], before[logits > -np.inf])


@pytest.mark.parametrize("lark", ["start: /[0-9]+/", 'start: "forced"'])
def test_logits_beyond_the_vocabulary_are_forbidden(
    lark: str, compiler: Compiler, vocabulary: Vocabulary
) -> None:
    logits = np.zeros(len(vocabulary.pieces) + 100, dtype=np.float32)
    compiler.compile(lark).allow(logits)
    assert np.all(np.isneginf(logits[len(vocabulary.pieces) :]))
    assert np.any(logits == 0)


def test_control_tokens_are_not_text(compiler: Compiler, vocabulary: Vocabulary) -> None:
    tokens = allowed(compiler.compile("start: /(?s:.)*/"), vocabulary)
    special = {t for t, is_special in enumerate(vocabulary.special) if is_special}
    assert set(tokens) & special == set(vocabulary.end_tokens)


# ---- the end ------------------------------------------------------------------------------------
def test_every_end_token_is_allowed_exactly_when_the_answer_is_complete(
    compiler: Compiler, vocabulary: Vocabulary
) -> None:
    ends = set(vocabulary.end_tokens)
    assert len(ends) > 1
    constraint = compiler.compile('start: "ab" ("cd")?')
    for piece, complete in ((b"a", False), (b"b", True), (b"c", False), (b"d", True)):
        constraint.accept(vocabulary.pieces.index(piece))
        assert constraint.finished is (piece == b"d")
        assert constraint.accepting is complete
        assert (ends <= set(allowed(constraint, vocabulary))) is complete
        if not complete:
            assert not ends & set(allowed(constraint, vocabulary))
    assert set(allowed(constraint, vocabulary)) == ends
    assert constraint.forced() == []


def test_an_end_token_may_be_accepted_and_taken_back(
    compiler: Compiler, vocabulary: Vocabulary
) -> None:
    for end in vocabulary.end_tokens:
        constraint = compiler.compile("start: /[ab]+/")
        with pytest.raises(ValueError, match="cannot follow"):
            constraint.accept(end)
        constraint.accept(vocabulary.pieces.index(b"a"))
        constraint.accept(end)
        assert where(constraint) == (True, True)
        constraint.accept(end)
        constraint.rollback(2)
        assert where(constraint) == (False, True)
        constraint.accept(vocabulary.pieces.index(b"b"))


def test_a_model_without_end_tokens_can_be_constrained(vocabulary: Vocabulary) -> None:
    compiler = Compiler(lambda: replace(vocabulary, end_tokens=[]))
    constraint = compiler.compile('start: "a"')
    constraint.accept(vocabulary.pieces.index(b"a"))
    assert constraint.finished
    assert allowed(constraint, vocabulary) == []
    compiler.close()


# ---- following ----------------------------------------------------------------------------------
@pytest.mark.parametrize("token", [5, -1, 10**9])
def test_a_token_that_cannot_follow_changes_nothing(
    token: int, compiler: Compiler, vocabulary: Vocabulary
) -> None:
    constraint = compiler.compile("start: " + A)
    before = allowed(constraint, vocabulary)
    assert token not in before
    with pytest.raises(ValueError, match="cannot follow"):
        constraint.accept(token)
    assert allowed(constraint, vocabulary) == before
    assert takes(constraint, vocabulary, '{"a": 1}')


def test_forced_tokens_are_those_that_the_model_spells_the_text_with(
    compiler: Compiler, vocabulary: Vocabulary
) -> None:
    text = "The quick brown fox jumps over the lazy dog"
    constraint = compiler.compile(f'start: "{text}" | "{text}!"')
    forced = constraint.forced()
    whole = vocabulary.tokenize(text)
    assert forced == whole[: len(forced)]
    assert len(forced) >= len(whole) - 2  # the last may be spelled in one with what follows
    for token in forced:
        assert allowed(constraint, vocabulary) == [token]
        constraint.accept(token)
    assert constraint.forced() == []


def test_another_spelling_of_what_is_forced_is_taken_too(
    compiler: Compiler, vocabulary: Vocabulary
) -> None:
    constraint = compiler.compile('start: "The quick brown fox"')
    assert len(constraint.forced()) > 1
    assert takes(constraint, vocabulary, "The quick brown fox")


def test_taking_back_leads_to_where_one_was(compiler: Compiler, vocabulary: Vocabulary) -> None:
    constraint = compiler.compile("start: " + A)
    tokens = vocabulary.tokenize('{"a": 12}')
    places = []
    for token in tokens:
        places.append(allowed(constraint, vocabulary))
        constraint.accept(token)
    for back in range(1, len(tokens) + 1):
        constraint.rollback(back)
        assert allowed(constraint, vocabulary) == places[-back]
        for token in tokens[-back:]:
            constraint.accept(token)
    with pytest.raises(ValueError, match="cannot take back"):
        constraint.rollback(len(tokens) + 1)
    assert constraint.finished


def test_copies_go_their_own_ways(compiler: Compiler, vocabulary: Vocabulary) -> None:
    first = compiler.compile('start: "a" ("b" | "c")')
    first.accept(vocabulary.pieces.index(b"a"))
    second = first.copy()
    first.accept(vocabulary.pieces.index(b"b"))
    assert first.finished
    assert not second.finished
    second.rollback(1)
    assert b"a" in {vocabulary.pieces[t] for t in allowed(second, vocabulary)}


# ---- what other people's grammars use -----------------------------------------------------------
@pytest.mark.parametrize(
    ("lark", "text"),
    [
        ('start: think answer\nthink[suffix="</think>"]: /(?s:.*)/\nanswer: ' + A,
         'so <b>, then</think>{"a": 1}'),
        ('start: call* rest\nrest: /(?s:.*)/\nhead[lazy]: /(?s:.*)/ "<tool_call>"\n'
         'call: head answer "</tool_call>"\nanswer: ' + A,
         'Let me see <tool_call>{"a": 12}</tool_call> and <tool_call>{"a":3}</tool_call>.'),
    ],
)  # fmt: skip
def test_text_up_to_a_mark_may_come_before(
    lark: str, text: str, compiler: Compiler, vocabulary: Vocabulary
) -> None:
    constraint = compiler.compile(lark)
    follow(constraint, vocabulary, text)
    assert constraint.accepting


def test_control_tokens_stand_where_the_grammar_names_them(
    compiler: Compiler, vocabulary: Vocabulary
) -> None:
    mark = vocabulary.pieces.index(b"<|im_start|>")
    for name in ("<|im_start|>", f"<[{mark}]>"):
        constraint = compiler.compile(f"start: /[a-z ]*/ {name} answer\nanswer: {A}")
        follow(constraint, vocabulary, "well")
        assert mark in allowed(constraint, vocabulary)
        constraint.accept(mark)
        follow(constraint, vocabulary, '{"a": 1}')
        assert constraint.finished


# ---- what is wrong ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("lark", "said"),
    [
        ("", "Empty grammar"),
        ('foo: "a"', "no start rule"),
        ("start: nothing", "unknown name"),
        ('start: "a', "lexer error"),
        ("start: <|no_such_token|>", "unknown special token"),
        ('start: %json {"type": "text"}', "Invalid type"),
        ('start: %json {"type": "string", "minLength": 3, "maxLength": 2}', "Unsatisfiable"),
        ("start: /(/", "regex parse error"),
        ('{"grammars": 3}', "invalid type"),
    ],
)
def test_a_grammar_that_is_none_is_refused_in_short_words(
    lark: str, said: str, compiler: Compiler
) -> None:
    with pytest.raises(GrammarInvalid) as raised:
        compiler.compile(lark)
    assert said in raised.value.detail
    assert "\n" not in raised.value.detail
    assert len(raised.value.detail) < 400


def test_a_grammar_that_grows_too_complex_while_followed_is_refused_and_forgotten(
    counted: tuple[Compiler, list[str]], vocabulary: Vocabulary
) -> None:
    compiler, made = counted
    lark = "start: /(.{0,400}a){5}/"
    constraint = compiler.compile(lark)
    a = vocabulary.pieces.index(b"a")

    def go_on() -> None:
        for _ in range(1000):
            constraint.accept(a)
            allowed(constraint, vocabulary)

    with pytest.raises(GrammarInvalid, match="too many"):
        go_on()
    compiler.compile(lark)
    assert made == [lark, lark]


def test_a_step_that_takes_too_long_is_the_grammars_fault(
    compiler: Compiler, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    constraint = compiler.compile('start: "slow"')
    monkeypatch.setattr(compiling, "SLOW_S", 0.0)
    with pytest.raises(GrammarInvalid, match="takes too long"):
        allowed(constraint, vocabulary)


def test_a_child_killed_from_outside_costs_no_grammar(compiler: Compiler) -> None:
    compiler.compile('start: "before"')
    for child in psutil.Process().children():
        if "constraint.trial" in " ".join(child.cmdline()):
            child.kill()
            child.wait(10)
    compiler.compile('start: "after"')
