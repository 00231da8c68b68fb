"""Conversations with tools, as each template wants them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tabagent import wire
from tabagent.errors import ChatTemplateRejected, InvalidRequest
from tests.worker.dialect.answers import OFFERED, TOOLS
from tests.worker.dialect.conftest import NAMES, MakeTemplate

NOTHING = wire.Dialogue()
Message = dict[str, Any]
SYSTEM: Message = {"role": "system", "content": "Be brief."}
USER: Message = {"role": "user", "content": "What is the weather?"}


def call(id_: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


ASKED: Message = {
    "role": "assistant",
    "content": None,
    "reasoning_content": "I look it up.",
    "tool_calls": [
        call("call_1", "get_weather", '{"city":"Köln","days":2}'),
        call("call_2", "now", ""),
    ],
}
RESULTS: list[Message] = [
    {"role": "tool", "tool_call_id": "call_2", "content": "12:00"},
    {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
]
TALK: list[Message] = [USER, ASKED, *RESULTS]


# ---- whole conversations ------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_tools_calls_and_results_are_all_in_the_prompt(template: MakeTemplate, name: str) -> None:
    prompt = template(name).prompt(TALK, OFFERED)
    for text in ("What the weather will be.", "get_weather", "Köln", "12:00", "sunny"):
        assert text in prompt
    assert prompt.count("12:00") == 1
    assert prompt.index("Köln") < min(prompt.index("12:00"), prompt.index("sunny"))
    assert '\\"city' not in prompt  # no JSON within JSON
    assert "{'city" not in prompt  # nor Python's


@pytest.mark.parametrize("name", NAMES)
def test_calls_are_shown_again_where_none_are_offered(template: MakeTemplate, name: str) -> None:
    none = wire.Dialogue(tools=TOOLS, tool_choice="none")
    for dialogue in (NOTHING, none):
        prompt = template(name).prompt(TALK, dialogue)
        assert "Köln" in prompt
        assert "What the weather will be." not in prompt


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"gemma-2"}))
def test_a_system_message_stands_beside_the_tools(template: MakeTemplate, name: str) -> None:
    prompt = template(name).prompt([SYSTEM, *TALK], OFFERED)
    assert prompt.count("Be brief.") == 1


@pytest.mark.parametrize("name", NAMES)
def test_plain_messages_stay_as_they_are(template: MakeTemplate, name: str) -> None:
    talk = [USER, {"role": "assistant", "content": "Sunny."}, USER]
    assert template(name).dialect.prompt(talk, NOTHING) == (talk, {})


def test_a_system_message_that_a_template_would_lose_goes_to_the_user(
    template: MakeTemplate,
) -> None:
    made = template("mistral-nemo")  # it shows the system's words with the last message alone
    assert "[INST]Be brief.\n\nWhat is the weather?[/INST]" in made.prompt([SYSTEM, USER])
    assert "[INST]Be brief.\n\nWhat is the weather?[/INST]" in made.prompt([SYSTEM, *TALK])
    assert "[INST]What is the weather?[/INST]" in made.prompt(TALK)


def test_two_calls_become_two_messages_where_a_template_takes_one(template: MakeTemplate) -> None:
    prompt = template("llama-3.1").prompt(TALK, NOTHING)
    _, after = prompt.split("What is the weather?<|eot_id|>")
    start, end = "<|start_header_id|>", "<|end_header_id|>\n\n"
    assert after == (
        f'{start}assistant{end}{{"name": "get_weather", "parameters": {{"city": "Köln", "days": 2}}}}<|eot_id|>'
        f'{start}ipython{end}"sunny"<|eot_id|>'
        f'{start}assistant{end}{{"name": "now", "parameters": {{}}}}<|eot_id|>'
        f'{start}ipython{end}"12:00"<|eot_id|>'
        f"{start}assistant{end}"
    )


def test_the_content_of_parted_calls_is_said_once(template: MakeTemplate) -> None:
    messages, _ = template("llama-3.1").dialect.prompt(
        [USER, {**ASKED, "content": "I look."}, *RESULTS, USER], NOTHING
    )
    assert [(m["role"], m["content"]) for m in messages] == [
        ("user", USER["content"]),
        ("assistant", "I look."),
        ("tool", "sunny"),
        ("assistant", ""),
        ("tool", "12:00"),
        ("user", USER["content"]),
    ]


# ---- ids, names, arguments ----------------------------------------------------------------------
def test_results_have_the_name_of_their_function(template: MakeTemplate) -> None:
    messages, _ = template("qwen2.5").dialect.prompt(TALK, NOTHING)
    assert [message["name"] for message in messages[2:]] == ["now", "get_weather"]


def test_results_without_an_id_are_told_by_name_or_order(template: MakeTemplate) -> None:
    named = {"role": "tool", "name": "now", "content": "12:00"}
    next_ = {"role": "tool", "content": "sunny"}
    messages, _ = template("qwen2.5").dialect.prompt([USER, ASKED, named, next_], NOTHING)
    assert [(m["tool_call_id"], m["name"]) for m in messages[2:]] == [
        ("call_2", "now"),
        ("call_1", "get_weather"),
    ]


def test_ids_get_the_family_s_form_and_stay_together(template: MakeTemplate) -> None:
    again = [{**m, "tool_calls": ASKED["tool_calls"]} if m is ASKED else m for m in TALK]
    nine, _ = template("mistral-nemo").dialect.prompt([*TALK, USER, *again], NOTHING)
    ids = [c["id"] for m in nine for c in m.get("tool_calls", [])]
    assert all(len(id_) == 9 and id_.isalnum() for id_ in ids)
    assert ids[0] != ids[1]
    assert ids[:2] == ids[2:]
    assert [m["tool_call_id"] for m in nine if m["role"] == "tool"] == [ids[1], ids[0]] * 2
    own = [USER, {**ASKED, "tool_calls": [call("abcDEF123", "now", "{}")]}]
    kept, _ = template("mistral-nemo").dialect.prompt(own, NOTHING)
    assert kept[1]["tool_calls"][0]["id"] == "abcDEF123"
    numbered, _ = template("kimi-k2").dialect.prompt(TALK, NOTHING)
    assert [c["id"] for c in numbered[1]["tool_calls"]] == [
        "functions.get_weather:0",
        "functions.now:1",
    ]


def test_arguments_are_text_or_objects_as_the_template_wants(template: MakeTemplate) -> None:
    for name, wanted in (
        ("qwen3-coder", {"city": "Köln", "days": 2}),
        ("functionary-3.1", '{"city": "Köln", "days": 2}'),
    ):
        messages, _ = template(name).dialect.prompt(TALK, NOTHING)
        assert messages[1]["tool_calls"][0]["function"]["arguments"] == wanted


def test_a_tool_without_parameters_has_an_empty_schema(template: MakeTemplate) -> None:
    _, variables = template("qwen2.5").dialect.prompt([USER], OFFERED)
    assert variables["tools"][2] == {
        "type": "function",
        "function": {
            "name": "now",
            "description": "The time.",
            "parameters": {"type": "object", "properties": {}},
        },
    }
    assert variables["tools"][0]["function"]["parameters"] == TOOLS[0].parameters


def test_null_and_empty_calls_are_no_calls(template: MakeTemplate) -> None:
    nothing: list[Any] = [None, []]
    for calls in nothing:
        talk = [USER, {"role": "assistant", "content": "Hm.", "tool_calls": calls}, USER]
        messages, _ = template("llama-3.1").dialect.prompt(talk, NOTHING)
        assert messages[1] == {"role": "assistant", "content": "Hm."}


def test_a_message_of_reasoning_alone_has_empty_content(template: MakeTemplate) -> None:
    talk = [USER, {"role": "assistant", "content": None, "reasoning_content": "Hm."}, USER]
    messages, _ = template("qwen3").dialect.prompt(talk, NOTHING)
    assert messages[1] == {"role": "assistant", "content": "", "reasoning_content": "Hm."}


# ---- reasoning of earlier turns -----------------------------------------------------------------
def test_earlier_reasoning_is_passed_by_the_name_the_template_has(template: MakeTemplate) -> None:
    for name, key in (("qwen3", "reasoning_content"), ("gpt-oss", "thinking"), ("qwen2.5", None)):
        messages, _ = template(name).dialect.prompt(TALK[:2], NOTHING)
        found = {k for k in ("reasoning_content", "reasoning", "thinking") if k in messages[1]}
        assert found == ({key} if key else set())
    assert "I look it up." in template("qwen3").prompt(TALK, NOTHING)


def test_harmony_takes_reasoning_and_content_before_a_call_as_one(template: MakeTemplate) -> None:
    prompt = template("gpt-oss").prompt([USER, {**ASKED, "content": "I look."}, *RESULTS], NOTHING)
    assert "<|channel|>analysis<|message|>I look it up.\n\nI look.<|end|>" in prompt


# ---- told in words ------------------------------------------------------------------------------
def test_tools_are_told_in_words_where_the_template_does_not(template: MakeTemplate) -> None:
    messages, variables = template("phi-4").dialect.prompt([SYSTEM, *TALK, USER], OFFERED)
    assert variables == {}
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user"]
    told = messages[0]["content"]
    assert told.startswith("Be brief.\n\n")
    shown = [json.loads(line) for line in told.splitlines() if line.startswith('{"name": "')]
    assert [tool["name"] for tool in shown] == ["get_weather", "note", "now", "FUNCTION"]
    assert shown[0]["parameters"] == TOOLS[0].parameters
    assert "<tool_call>\n{" in told
    assert messages[2]["content"] == (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln", "days": 2}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    )
    assert messages[3]["content"] == (
        "<tool_response>\n12:00\n</tool_response>\n<tool_response>\nsunny\n</tool_response>\n"
        "What is the weather?"
    )


def test_tools_are_told_to_the_user_where_there_is_no_system(template: MakeTemplate) -> None:
    messages, _ = template("gemma-2").dialect.prompt(TALK, OFFERED)
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]
    assert messages[0]["content"].endswith("plain words.\n\nWhat is the weather?")
    template("gemma-2").prompt([*TALK, {"role": "assistant", "content": "Sunny."}, USER], OFFERED)


def test_users_who_speak_twice_are_not_put_together(template: MakeTemplate) -> None:
    messages, _ = template("phi-4").dialect.prompt([USER, USER], OFFERED)
    assert [m["role"] for m in messages] == ["system", "user", "user"]


def test_a_template_that_shows_calls_but_no_tools_is_told_of_them(template: MakeTemplate) -> None:
    prompt = template("deepseek-v3.1").prompt([USER], OFFERED)
    assert "What the weather will be." in prompt.partition("<｜User｜>")[0]
    assert (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>FUNCTION<｜tool▁sep｜>"
        '{"ARGUMENT": "VALUE"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
    ) in prompt


def test_calls_that_a_template_leaves_out_are_written_for_it(template: MakeTemplate) -> None:
    prompt = template("granite-3.3").prompt(TALK, OFFERED)
    assert (
        '<|start_of_role|>assistant<|end_of_role|><|tool_call|>[{"name": "get_weather", '
        '"arguments": {"city": "Köln", "days": 2}}, {"name": "now", "arguments": {}}]<|end_of_text|>'
    ) in prompt
    assert "<|start_of_role|>tool<|end_of_role|>sunny" in prompt


# ---- refused ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("talk", "pointer"),
    [
        ([USER, RESULTS[0]], "/messages/1/tool_call_id"),
        ([USER, ASKED, {**RESULTS[0], "tool_call_id": "call_9"}], "/messages/2/tool_call_id"),
        ([USER, ASKED, RESULTS[0], RESULTS[0]], "/messages/3/tool_call_id"),
        (
            [USER, {**ASKED, "tool_calls": [call("a", "now", "{}"), call("a", "now", "{}")]}],
            "/messages/1/tool_calls/1/id",
        ),
        *(
            (
                [USER, {**ASKED, "tool_calls": [call("a", "now", arguments)]}],
                "/messages/1/tool_calls/0/function/arguments",
            )
            for arguments in (
                *(
                    "{",
                    "[1]",
                    "null",
                    '{"a": NaN}',
                    '{"a": "\\ud800"}',
                    '{"a":' * 80 + "1" + "}" * 80,
                ),
                '{"a":' * 5000 + "1" + "}" * 5000,
            )
        ),
    ],
)
def test_what_does_not_belong_together_is_refused(
    template: MakeTemplate, talk: list[dict[str, Any]], pointer: str
) -> None:
    for name in ("qwen2.5", "llama-3.1", "phi-4"):
        with pytest.raises(InvalidRequest) as refusal:
            template(name).dialect.prompt(talk, NOTHING)
        assert [error["pointer"] for error in refusal.value.members["errors"]] == [pointer]


def test_what_the_template_rejects_is_rejected_in_its_words(template: MakeTemplate) -> None:
    with pytest.raises(ChatTemplateRejected, match=r"^System role not supported$"):
        template("gemma-2").prompt([SYSTEM, USER], OFFERED)
    with pytest.raises(ChatTemplateRejected, match=r"roles must alternate"):
        template("mistral-nemo").prompt([USER, USER], OFFERED)
