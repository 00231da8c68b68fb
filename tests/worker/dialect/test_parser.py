"""What a model writes is taken apart the same, however it arrives."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable
from typing import Any

import pytest

from tabagent import wire
from tabagent.worker.dialect.parser import Parser, PlainParser, Said
from tabagent.worker.text import TextStream
from tests.worker.dialect.answers import ANSWERS, CITY, FAMILIES, OFFERED, TRICKY_JSON, Answer
from tests.worker.dialect.conftest import MakeTemplate

TALK = [{"role": "user", "content": "Hello"}]
ids = [f"{answer.template}: {answer.name}" for answer in ANSWERS]


class Heard:
    """What a client has after some pieces."""

    def __init__(self, parser: Parser, pieces: Iterable[str]) -> None:
        self.said: list[Said] = []
        for piece in pieces:
            self._add(parser.feed(piece))
        self._add(parser.end())
        assert parser.feed("") is None

    def _add(self, said: Said | None) -> None:
        if said is not None:
            assert said.content or said.reasoning or said.tools
            self.said.append(said)

    @property
    def content(self) -> str:
        return "".join(said.content for said in self.said)

    @property
    def reasoning(self) -> str:
        return "".join(said.reasoning for said in self.said)

    @property
    def deltas(self) -> list[wire.ToolDelta]:
        return [delta for said in self.said for delta in said.tools]

    @property
    def calls(self) -> list[tuple[str | None, str]]:
        found: list[tuple[str | None, str]] = []
        for delta in self.deltas:
            if delta.name is not None:
                assert delta.index == len(found)
                assert delta.id
                found.append((delta.name, ""))
            else:
                assert delta.id is None
                assert delta.arguments
            name, arguments = found[delta.index]
            assert delta.index == len(found) - 1
            found[-1] = (name, arguments + delta.arguments)
        return found

    @property
    def all(self) -> tuple[str, str, list[tuple[str | None, str]]]:
        return self.content, self.reasoning, self.calls


def parser_for(template: MakeTemplate, answer: Answer) -> Parser:
    made = template(answer.template)
    return made.dialect.parser(answer.dialogue, made.prompt(TALK, answer.dialogue))


def meant(calls: list[tuple[str | None, str]], answer: Answer) -> list[tuple[str | None, Any]]:
    return [
        (name, arguments if isinstance(wanted, str) else json.loads(arguments))
        for (name, arguments), (_, wanted) in zip(calls, answer.calls, strict=True)
    ]


@pytest.mark.parametrize("answer", ANSWERS, ids=ids)
def test_an_answer_is_content_reasoning_and_calls(template: MakeTemplate, answer: Answer) -> None:
    parser = parser_for(template, answer)
    heard = Heard(parser, [answer.text])
    assert heard.content == answer.content
    assert heard.reasoning == answer.reasoning
    assert meant(heard.calls, answer) == answer.calls
    assert parser.called == bool(answer.calls)


@pytest.mark.parametrize("answer", ANSWERS, ids=ids)
def test_every_split_of_the_bytes_gives_the_same(template: MakeTemplate, answer: Answer) -> None:
    made = template(answer.template)
    prompt = made.prompt(TALK, answer.dialogue)
    data = answer.text.encode()

    def heard(parts: Iterable[bytes]) -> tuple[str, str, list[tuple[str | None, str]]]:
        text = TextStream([])
        pieces = [*map(text.feed, parts), text.flush()]
        return Heard(made.dialect.parser(answer.dialogue, prompt), filter(None, pieces)).all

    whole = heard([data])
    for cut in range(1, len(data)):
        assert heard([data[:cut], data[cut:]]) == whole
    assert heard(bytes([byte]) for byte in data) == whole
    draw = random.Random(answer.name)
    for _ in range(20):
        cuts = sorted(draw.choices(range(len(data) + 1), k=6))
        assert (
            heard(data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)) == whole
        )


# ---- as it arrives ------------------------------------------------------------------------------
def test_arguments_are_told_as_they_arrive(template: MakeTemplate) -> None:
    for answer in (a for a in FAMILIES if len(a.calls) == 2 and a.template != "llama-3.1"):
        parser = parser_for(template, answer)
        told, at = "", answer.text.index(CITY)
        parser.feed(answer.text[:at])
        for length, char in enumerate(CITY, 1):
            said = parser.feed(char)
            told += "".join(delta.arguments for delta in said.tools) if said else ""
            assert told == CITY[:length], answer.template


def test_a_string_among_arguments_is_told_as_it_arrives(template: MakeTemplate) -> None:
    made = template("qwen3-coder")
    parser = made.dialect.parser(OFFERED, made.prompt(TALK, OFFERED))
    parser.feed("<tool_call>\n<function=note>\n<parameter=text>\n")
    for piece, told in (('a "b', 'a \\"b'), ("\\", "\\\\"), ("é\n", "é"), ("c", "\\nc"), ("<", "")):
        said = parser.feed(piece)
        assert (said.tools[0].arguments if said else "") == told
    said = parser.feed("/parameter>x\n</parameter>\n</function>")
    assert said is not None
    assert said.tools == [wire.ToolDelta(0, '</parameter>x"}')]


@pytest.mark.parametrize("name", ["qwen2.5", "qwen3", "glm-4.5", "mistral-nemo", "llama-3.1"])
def test_text_is_told_at_once_but_for_what_may_become_a_marker(
    template: MakeTemplate, name: str
) -> None:
    made = template(name)
    parser = made.dialect.parser(OFFERED, made.prompt(TALK, OFFERED))
    assert [parser.feed(char) for char in "Hé🦙"] == [Said("H"), Said("é"), Said("🦙")]
    assert parser.feed(" ") is None  # dropped where a call follows
    assert parser.feed("x") == Said(" x")
    assert parser.feed("<!") == Said("<!")
    assert parser.feed("[1]") == Said("[1]")


def test_a_model_that_only_writes_text_costs_nothing(template: MakeTemplate) -> None:
    for name, dialogue in (
        ("qwen2.5", wire.Dialogue()),
        ("llama-3.1", wire.Dialogue(tools=OFFERED.tools, tool_choice="none")),
        ("qwen3", wire.Dialogue(thinking=False)),
    ):
        made = template(name)
        parser = made.dialect.parser(dialogue, made.prompt(TALK, dialogue))
        assert isinstance(parser, PlainParser)
        assert parser.feed("<tool_call> ") == Said("<tool_call> ")
        assert parser.end() is None


def test_after_the_thoughts_text_passes_untouched(template: MakeTemplate) -> None:
    made = template("qwen3")
    parser = made.dialect.parser(wire.Dialogue(), made.prompt(TALK))
    assert parser.feed("<think>\na\n</think>") == Said(reasoning="a")
    assert parser.feed("\n\nHello <") == Said("Hello <")
    assert parser.feed(" \n") == Said(" \n")


def test_ids_have_the_family_s_form_and_differ(template: MakeTemplate) -> None:
    forms = {
        "qwen2.5": r"call_[0-9a-f]{24}",
        "mistral-nemo": r"[A-Za-z0-9]{9}",
        "magistral": r"[A-Za-z0-9]{9}",
        "mistral-small": r"abcdef12[34]|[A-Za-z0-9]{9}",
        "kimi-k2": r"functions\.(get_weather:0|note:1)",
        "gpt-oss": r"call_[0-9a-f]{24}",
    }
    seen: list[str] = []
    for answer in ANSWERS:
        heard = Heard(parser_for(template, answer), [answer.text])
        given = [delta.id for delta in heard.deltas if delta.id]
        assert all(re.fullmatch(forms.get(answer.template, "call_.+"), id_) for id_ in given)
        seen += [id_ for id_ in given if id_ not in answer.text]
    assert len(seen) > 30
    assert len(set(seen)) == len(seen)


# ---- reasoning by force -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "begun", "thinking"),
    [
        ("qwen3", "<think>\nHm", None),
        ("deepseek-r1", "Hm", None),
        ("deepseek-v3.1", "Hm", True),
        ("command-r7b", "<|START_THINKING|>Hm", True),
        ("magistral", "[THINK]Hm", None),
        ("seed-oss", "<seed:think>Hm", None),
        ("gpt-oss", "<|channel|>analysis<|message|>Hm", None),
    ],
)
@pytest.mark.parametrize("tools", [[], OFFERED.tools])
def test_the_closing_text_ends_reasoning(
    template: MakeTemplate, name: str, begun: str, thinking: bool | None, tools: list[wire.Tool]
) -> None:
    made = template(name)
    dialogue = wire.Dialogue(tools=tools, thinking=thinking)
    parser = made.dialect.parser(dialogue, made.prompt(TALK, dialogue))
    opened = [parser.reasoning_open]
    parser.feed(begun)
    opened.append(parser.reasoning_open)
    rest = "<|channel|>final<|message|>" if name == "gpt-oss" and tools else ""
    heard = [parser.feed(parser.closing)]
    assert [*opened, parser.reasoning_open] == [name.startswith("deepseek"), True, False]
    heard += [parser.feed(f"{rest}Hello"), parser.end()]
    assert "".join(said.content for said in heard if said) == "Hello"
    assert not any(said.reasoning for said in heard if said)


# ---- nothing is lost ----------------------------------------------------------------------------
def fragments(template: MakeTemplate, name: str) -> list[str]:
    """Everything that means something in a family, to be put together at random."""
    dialect = template(name).dialect
    markers = sorted(dialect.control)
    words = ["get_weather", "now", "add", " ", "\n", "{", "}", "[", "]", ",", ":", '"', "\\", "é"]
    parts = ['{"name": "', '", "arguments": ', '", "parameters": ', CITY, "{}", "<function=", ">"]
    rest = [
        "<parameter=city>",
        "</parameter>",
        "</function>",
        '<invoke name="',
        '">',
        "to=functions.",
    ]
    return markers * 3 + words + parts + rest + [marker[:4] for marker in markers] + [TRICKY_JSON]


EVERY = sorted({answer.template for answer in ANSWERS})


@pytest.mark.parametrize("name", EVERY)
def test_random_answers_read_the_same_however_they_are_split(
    template: MakeTemplate, name: str
) -> None:
    made, draw = template(name), random.Random(name)
    parts, prompt = fragments(template, name), made.prompt(TALK, OFFERED)
    called = 0
    for _ in range(250):
        text = "".join(draw.choices(parts, k=draw.randint(1, 14)))
        whole = Heard(made.dialect.parser(OFFERED, prompt), [text])
        assert Heard(made.dialect.parser(OFFERED, prompt), text).all == whole.all, text
        cuts = sorted(draw.choices(range(len(text) + 1), k=3))
        pieces = (text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True))
        assert Heard(made.dialect.parser(OFFERED, prompt), pieces).all == whole.all, text
        called += len(whole.calls)


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"gpt-oss", "granite-3.3"}))
def test_what_is_no_call_is_content_to_the_last_character(
    template: MakeTemplate, name: str
) -> None:
    made, draw = template(name), random.Random(name)
    dialogue = wire.Dialogue(tools=[wire.Tool("never_said")], thinking=_off(name))
    prompt = made.prompt(TALK, dialogue)
    reasoning = made.dialect.reasoning
    wrapped = reasoning.answer if reasoning else ("", "")
    for _ in range(250):
        text = "".join(draw.choices(fragments(template, name), k=draw.randint(1, 14)))
        if wrapped[0] and wrapped[0] in text:  # which stands around the answer
            continue
        assert Heard(made.dialect.parser(dialogue, prompt), text).all == (text, "", []), text


def _off(name: str) -> bool | None:
    """Thinking off where a model can think, so that no marker is its thoughts'."""
    known = ("qwen3", "deepseek-r1", "deepseek-v3.1", "command-r7b", "magistral", "glm-4.5")
    return False if name in (*known, "seed-oss", "minimax-m2", "nemotron-nano") else None
