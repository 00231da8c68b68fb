"""Grammars on real vocabularies: what may be written, what may not, and what comes of it."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # ships no types
import pytest

from tabagent import wire
from tabagent.errors import InvalidRequest
from tabagent.worker.dialect.families import HARMONY
from tabagent.worker.dialect.harmony import FINAL, NEXT
from tests.worker.dialect.answers import (
    CITY,
    FAMILIES,
    ONE_BY_ONE,
    TOOLS,
    TRICKY_JSON,
    Answer,
)
from tests.worker.dialect.conftest import NAMES, MakeTemplate, Template
from tests.worker.dialect.test_parser import TALK, Heard
from tests.worker.dialect.tokens import Tokens

AUTO = wire.Dialogue(tools=TOOLS)
ONE = wire.Dialogue(tools=TOOLS, parallel_tool_calls=False)
REQUIRED = wire.Dialogue(tools=TOOLS, tool_choice="required")
NAMED = wire.Dialogue(tools=TOOLS, tool_choice="required", tool_name="note")
ANSWER = 'answer: %json {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"], "additionalProperties": false}'


def grammar_of(template: Template, dialogue: wire.Dialogue, answer: str | None = None) -> str:
    source = template.dialect.grammar(dialogue, answer, template.prompt(TALK, dialogue))
    assert source is not None
    return source


def as_written(template: Template, calls: list[dict[str, Any]]) -> str:
    """What the template itself writes for a turn with these calls, up to the end of the turn."""
    named = [
        {
            "id": f"call_{i}",
            "type": "function",
            "function": {**call, "arguments": json.dumps(call["arguments"])},
        }
        for i, call in enumerate(calls)
    ]
    turn = {"role": "assistant", "content": None, "tool_calls": named}
    messages, variables = template.dialect.prompt([*TALK, turn], AUTO)
    whole = template.render({**variables, "messages": messages})
    syntax = template.dialect._facts.syntax
    text = whole[whole.rindex('{"name": "' if syntax.bare else syntax.trigger) :]
    for end in ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "</s>", "<｜end▁of▁sentence｜>", "[e~["):
        text = text.partition(end)[0]
    for end in (
        "<|END_OF_TURN_TOKEN|>",
        "<|end_of_text|>",
        "\n<SPECIAL_12>",
        "<|call|>",
        "<|im_end|>",
    ):
        text = text.partition(end)[0]
    return text.partition("<end_of_turn>")[0]


def ends_of(template: Template) -> list[str]:
    """What ends things in a family's calls, for walks that should come to an end."""
    dialect = template.dialect
    syntax = dialect._facts.syntax
    ends = [syntax.section[1], syntax.argument.texts[-1] if syntax.argument else ""]
    if syntax is HARMONY:
        ends += [NEXT + text for text in (FINAL, "<|channel|>commentary to=functions.")]
    elif dialect.reasoning:
        ends += [dialect.reasoning.close]
    return [end for end in ends if end]


# ---- calls begun in free text -------------------------------------------------------------------
HELD = [
    answer
    for answer in [*FAMILIES, *ONE_BY_ONE]
    if answer.name
    in (
        *("a call", "a call behind its marker", "a call that says its type", "a list of calls"),
        *("names, ids and arguments", "thoughts, names and arguments", "a section of calls"),
        *("thoughts and a section of fenced calls", "a section of numbered calls"),
        *("a plan and actions", "a list behind a marker", "a list in tags"),
        *("tags with the name in them", "told in words", "told in words to the user"),
        *("arguments of every type", "text that looks like other types", "names in attributes"),
        *("several calls behind text", "keys and values", "a tag of its own"),
    )
]


@pytest.mark.parametrize("answer", HELD, ids=[f"{a.template}: {a.name}" for a in HELD])
def test_what_families_write_is_allowed(
    template: MakeTemplate, tokens: Tokens, answer: Answer
) -> None:
    made = template(answer.template, tokens.specials)
    auto = grammar_of(made, answer.dialogue)
    assert tokens.allows(auto, answer.text, TRICKY_JSON)
    if answer.content == "":
        required = wire.Dialogue(
            tools=TOOLS, tool_choice="required", thinking=answer.dialogue.thinking
        )
        assert tokens.allows(grammar_of(made, required), answer.text, TRICKY_JSON)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_template_writes_is_what_the_grammar_asks_for(
    template: MakeTemplate, tokens: Tokens, name: str
) -> None:
    made = template(name, tokens.specials)
    call = {"name": "get_weather", "arguments": {"city": "Berlin", "days": 2}}
    text = as_written(made, [call])
    if name == "mistral-nemo":  # which also shows the id that the client gave it
        text = text[: text.index(', "id"')] + "}]"
    if made.dialect._facts.syntax is HARMONY:
        text = f" to=functions.get_weather{text}"
    for dialogue in (REQUIRED, AUTO):
        prompt = made.prompt(TALK, dialogue)
        thoughts = (
            made.dialect.reasoning.close
            if made.dialect.reasoning and made.dialect.thoughts(prompt) == "open"
            else ""
        )
        assert tokens.allows(grammar_of(made, dialogue), thoughts + text), text
        heard = Heard(made.dialect.parser(dialogue, prompt), thoughts + text)
        assert [(n, json.loads(a)) for n, a in heard.calls] == [("get_weather", call["arguments"])]
        assert heard.content == ""


BEGUN = {
    "qwen2.5": ('I look.\n<tool_call>\n{"name": "', '", "arguments": '),
    "qwen3": ('<think>\na <call> b\n</think>\n\n<tool_call>\n{"name": "', '", "arguments": '),
    "llama-3.1": ('{"name": "', '", "parameters": '),
    "mistral-nemo": ('I look.[TOOL_CALLS][{"name": "', '", "arguments": '),
    "mistral-small": ("[TOOL_CALLS]", "[CALL_ID]abcdef123[ARGS]"),
    "magistral": ("[THINK]a[/THINK]I look.[TOOL_CALLS]", "[ARGS]"),
    "deepseek-r1": (
        "a</think>I look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        "\n```json\n",
    ),
    "deepseek-v3.1": ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>", "<｜tool▁sep｜>"),
    "command-r7b": (
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "',
        '", "parameters": ',
    ),
    "granite-3.3": ('<|tool_call|>[{"name": "', '", "arguments": '),
    "kimi-k2": (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.",
        ":0<|tool_call_argument_begin|>",
    ),
    "nemotron-nano": ('a</think><TOOLCALL>[{"name": "', '", "arguments": '),
    "functionary-3.1": ("I look.<function=", ">"),
    "gpt-oss": ("<|channel|>commentary to=functions.", " <|constrain|>json<|message|>"),
    "phi-4": ('<tool_call>\n{"name": "', '", "arguments": '),
}


@pytest.mark.parametrize("name", BEGUN)
def test_a_call_that_is_begun_goes_to_a_function_that_is_there_and_fits_its_schema(
    template: MakeTemplate, tokens: Tokens, name: str
) -> None:
    before, between = BEGUN[name]
    made = template(name, tokens.specials)
    grammar = grammar_of(made, AUTO)
    begun = f"{before}get_weather{between}"
    assert tokens.begins(grammar, f"{begun}{CITY}")
    assert not tokens.begins(grammar, f'{begun}{{"city": 1')
    assert not tokens.begins(grammar, f'{begun}{{"days"')  # the city is required
    assert not tokens.begins(grammar, f'{begun}{{"city": "a", "days": "2"')
    assert not tokens.begins(grammar, f'{begun}{{"city": "a", "unit": "k"')
    assert not tokens.begins(grammar, f'{begun}["city"')
    note = f'{before}note{between}{{"text": "a", "'
    assert tokens.begins(grammar, f"{note}urgent")
    assert not tokens.begins(grammar, f"{note}urgently")  # nor anything else beside
    assert tokens.begins(grammar, f"{before}now{between}{{}}")
    assert not tokens.begins(grammar, f'{before}now{between}{{"')
    if name != "llama-3.1":  # where it is text then
        assert not tokens.begins(grammar, f"{before}delete_all{between}")


@pytest.mark.parametrize("name", BEGUN)
def test_free_text_is_free(template: MakeTemplate, tokens: Tokens, name: str) -> None:
    made = template(name, tokens.specials)
    thought = "a</think>" if made.dialect.thoughts(made.prompt(TALK, AUTO)) == "open" else ""
    opened = "<|channel|>final<|message|>" if name == "gpt-oss" else ""
    text = 'Hello, {"name": "x"} <b>[1]</b>\n\n```json\n{}\n``` ünïcödé 🦙 </think>'
    if name == "llama-3.1":
        text = f'{{"name": "now", "age": 3}} {text}'
    if "<think>" in tokens.specials:
        text = text.removesuffix("</think>")
    for dialogue in (AUTO, ONE):
        assert tokens.allows(grammar_of(made, dialogue), thought + opened + text)


@pytest.mark.parametrize("answer", HELD, ids=[f"{a.template}: {a.name}" for a in HELD])
def test_one_call_is_one_call(template: MakeTemplate, qwen: Tokens, answer: Answer) -> None:
    if len(answer.calls) < 2:
        return
    made = template(answer.template)
    dialogue = wire.Dialogue(
        tools=TOOLS, thinking=answer.dialogue.thinking, parallel_tool_calls=False
    )
    assert not qwen.begins(grammar_of(made, dialogue), answer.text)


def test_a_spelled_trigger_is_held_where_it_is_a_control_token_too(
    template: MakeTemplate, reserved: Tokens
) -> None:
    made = template("mistral-nemo", reserved.specials)
    spelled = reserved.tokenizer.tokenize_str('[TOOL_CALLS][{"name": "x')
    matcher = reserved.matcher(grammar_of(made, AUTO))
    assert (
        reserved.decode(spelled[: matcher.try_consume_tokens(spelled)])
        == b'[TOOL_CALLS][{"name": "'
    )


# ---- calls that are required --------------------------------------------------------------------
def walked(template: Template, tokens: Tokens, dialogue: wire.Dialogue, seed: str) -> Heard:
    prompt = template.prompt(TALK, dialogue)
    grammar = grammar_of(template, dialogue)
    text = tokens.walk(grammar, random.Random(seed), ends_of(template))
    heard = Heard(template.dialect.parser(dialogue, prompt), [text])
    assert heard.content == "", text
    assert heard.calls, text
    schemas = {tool.name: tool.parameters or {"maxProperties": 0} for tool in dialogue.tools}
    for name, arguments in heard.calls:
        jsonschema.validate(json.loads(arguments), schemas[name or ""])
    return heard


@pytest.mark.parametrize("name", NAMES)
def test_random_answers_under_a_required_call_are_valid_calls(
    template: MakeTemplate, tokens: Tokens, name: str
) -> None:
    made = template(name, tokens.specials)
    off = None if name == "gpt-oss" or made.dialect.reasoning is None else False
    several = wire.Dialogue(tools=TOOLS, tool_choice="required", thinking=off)
    one = wire.Dialogue(
        tools=TOOLS, tool_choice="required", thinking=off, parallel_tool_calls=False
    )
    named = wire.Dialogue(tools=TOOLS, tool_choice="required", tool_name="note", thinking=off)
    for seed in "ab":
        walked(made, tokens, several, seed)
        assert len(walked(made, tokens, one, seed).calls) == 1
        assert {call[0] for call in walked(made, tokens, named, seed).calls} == {"note"}


def test_a_required_call_needs_no_trigger_and_takes_no_text(
    template: MakeTemplate, tokens: Tokens
) -> None:
    made = template("qwen2.5", tokens.specials)
    grammar = grammar_of(made, REQUIRED)
    assert not tokens.begins(grammar, "I")
    assert not tokens.begins(grammar, "<tool_call>\n\n")
    assert tokens.begins(grammar, '<tool_call>\n{"name": "now"')
    assert not tokens.begins(grammar_of(made, NAMED), '<tool_call>\n{"name": "now"')


def test_a_named_call_to_nothing_is_refused(template: MakeTemplate) -> None:
    wanted = wire.Dialogue(tools=TOOLS, tool_choice="required", tool_name="other")
    with pytest.raises(InvalidRequest, match="names 'other', which is none of the tools"):
        template("qwen2.5").dialect.grammar(wanted, None, "")


# ---- reasoning first ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "thinking", "thoughts"),
    [
        ("qwen3", None, "<think>\nHm, <call>?\n</think>\n\n"),
        ("qwen3", None, "\n\n<think>Hm</think>"),
        ("qwen3", None, ""),
        ("qwen3", None, "\n"),
        ("qwen3", False, ""),
        ("deepseek-r1", None, "Hm, {}\n</think>\n\n"),
        ("deepseek-v3.1", True, "</think>"),
        ("magistral", None, "[THINK]Hm[/THINK]"),
        ("glm-4.5", None, "\n<think>Hm</think>\n"),
        ("seed-oss", None, "<seed:think>Hm</seed:think>\n"),
        ("command-r7b", True, "<|START_THINKING|>Hm<|END_THINKING|>"),
    ],
)
def test_reasoning_comes_before_calls_and_answers(
    template: MakeTemplate, tokens: Tokens, name: str, thinking: bool | None, thoughts: str
) -> None:
    made = template(name, tokens.specials)
    call = as_written(made, [{"name": "now", "arguments": {}}])
    required = wire.Dialogue(tools=TOOLS, tool_choice="required", thinking=thinking)
    assert tokens.allows(grammar_of(made, required), thoughts + call)
    plain = wire.Dialogue(thinking=thinking)
    assert tokens.allows(grammar_of(made, plain, ANSWER), thoughts + '{"sum": 3}')
    assert not tokens.begins(grammar_of(made, plain, ANSWER), thoughts + '{"sum": "')
    either = wire.Dialogue(tools=TOOLS, thinking=thinking)
    assert tokens.allows(grammar_of(made, either, ANSWER), thoughts + '{"sum": 3}')
    assert tokens.allows(grammar_of(made, either, ANSWER), thoughts + call)
    assert not tokens.begins(grammar_of(made, either, ANSWER), thoughts + "Hello")


@pytest.mark.parametrize("name", ["deepseek-r1", "nemotron-nano", "minimax-m2"])
def test_thoughts_that_the_prompt_has_begun_must_end(
    template: MakeTemplate, tokens: Tokens, name: str
) -> None:
    made = template(name, tokens.specials)
    for dialogue, answer in ((AUTO, None), (wire.Dialogue(), ANSWER), (REQUIRED, None)):
        grammar = grammar_of(made, dialogue, answer)
        matcher = tokens.matcher(grammar)
        assert matcher.consume_tokens(tokens.encode('Hm {"sum": 3}'))
        assert not matcher.is_accepting()


@pytest.mark.parametrize("name", ["qwen3", "deepseek-r1", "command-r7b", "magistral", "gpt-oss"])
def test_the_closing_text_is_what_the_grammar_lets_reasoning_end_with(
    template: MakeTemplate, tokens: Tokens, name: str
) -> None:
    made = template(name, tokens.specials)
    thinking = True if name == "command-r7b" else None
    for dialogue, answer in (
        (wire.Dialogue(tools=TOOLS, thinking=thinking), None),
        (wire.Dialogue(tools=TOOLS, thinking=thinking, tool_choice="required"), None),
        (wire.Dialogue(thinking=thinking), ANSWER),
        (wire.Dialogue(tools=TOOLS, thinking=thinking), ANSWER),
    ):
        prompt = made.prompt(TALK, dialogue)
        parser = made.dialect.parser(dialogue, prompt)
        begun = "" if made.dialect.thoughts(prompt) == "open" else made.dialect.reasoning.open  # type: ignore[union-attr]  # all of them reason
        assert tokens.begins(grammar_of(made, dialogue, answer), f"{begun}Hm{parser.closing}")


# ---- an answer ----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_a_random_answer_fits_its_schema_on_every_template(
    template: MakeTemplate, tokens: Tokens, name: str
) -> None:
    made = template(name, tokens.specials)
    off = None if name == "gpt-oss" or made.dialect.reasoning is None else False
    dialogue = wire.Dialogue(thinking=off)
    grammar = grammar_of(made, dialogue, ANSWER)
    text = tokens.walk(grammar, random.Random(name), ends_of(made), soon=5)
    heard = Heard(made.dialect.parser(dialogue, made.prompt(TALK, dialogue)), [text])
    assert isinstance(json.loads(heard.content)["sum"], int)


def test_an_answer_s_own_rules_come_along(template: MakeTemplate, qwen: Tokens) -> None:
    grammar = grammar_of(
        template("qwen3"), wire.Dialogue(), 'answer: word ("," word)*\nword: /[a-z]+/'
    )
    assert qwen.allows(grammar, "<think>\nHm\n</think>\n\nyes,no")
    assert not qwen.begins(grammar, "Yes")


def test_where_nothing_is_asked_for_nothing_is_held(template: MakeTemplate) -> None:
    for name in NAMES:
        dialect = template(name).dialect
        assert dialect.grammar(wire.Dialogue(), None, "") is None
        none = wire.Dialogue(tools=TOOLS, tool_choice="none")
        assert dialect.grammar(none, None, "") is None


def test_tools_that_may_not_be_called_do_not_touch_an_answer(
    template: MakeTemplate, qwen: Tokens
) -> None:
    none = wire.Dialogue(tools=TOOLS, tool_choice="none")
    grammar = grammar_of(template("qwen2.5"), none, ANSWER)
    assert qwen.allows(grammar, '{"sum": 3}')
    assert not qwen.begins(grammar, "<tool_call>")
