"""Thinking: asked for, turned off, and refused where it cannot be had."""

from __future__ import annotations

from typing import Any

import pytest

from tabagent import wire
from tabagent.errors import UnsupportedParameter
from tests.worker.dialect.conftest import NAMES, MakeTemplate

TALK = [{"role": "user", "content": "Hello"}]
ON = wire.Dialogue(thinking=True)
OFF = wire.Dialogue(thinking=False)
NONE = wire.Dialogue(thinking=False, effort="none")


@pytest.mark.parametrize(
    ("name", "end", "thoughts"),
    [
        ("qwen3", "<|im_start|>assistant\n<think>\n\n</think>\n\n", "none"),
        ("glm-4.5", "<|assistant|>\n<think></think>", "none"),
        ("deepseek-v3.1", "<｜Assistant｜></think>", "none"),
        ("seed-oss", "at once.\n</seed:think>", "none"),
        ("command-r7b", "<|START_THINKING|><|END_THINKING|>", "none"),
        # These have no switch: the thoughts are closed for them.
        ("deepseek-r1", "<｜Assistant｜><think>\n\n</think>\n\n", "none"),
        ("nemotron-nano", "Assistant\n<think>\n\n</think>\n\n", "none"),
        ("minimax-m2", "]~b]ai\n<think>\n\n</think>\n\n", "none"),
        ("magistral", "Hello[/INST][THINK][/THINK]", "none"),
        # This one only says nothing of it.
        ("granite-3.3", "<|start_of_role|>assistant<|end_of_role|>", "possible"),
    ],
)
def test_thinking_is_turned_off(template: MakeTemplate, name: str, end: str, thoughts: str) -> None:
    made = template(name)
    for dialogue in (OFF, NONE, wire.Dialogue(effort="none")):
        prompt = made.prompt(TALK, dialogue)
        assert prompt.endswith(end)
        assert made.dialect.thoughts(prompt) == thoughts


@pytest.mark.parametrize(
    ("name", "thoughts"),
    [
        ("qwen3", "possible"),
        ("glm-4.5", "possible"),
        ("deepseek-v3.1", "open"),
        ("deepseek-r1", "open"),
        ("minimax-m2", "open"),
        ("command-r7b", "possible"),
        ("granite-3.3", "possible"),
    ],
)
def test_thinking_is_asked_for(template: MakeTemplate, name: str, thoughts: str) -> None:
    made = template(name)
    prompt = made.prompt(TALK, ON)
    assert made.dialect.thoughts(prompt) == thoughts
    if made.dialect.switch:
        assert prompt != made.prompt(TALK, OFF)


def test_what_people_write_does_not_decide_on_thinking(template: MakeTemplate) -> None:
    made = template("qwen3")
    assert (
        made.dialect.thoughts(made.prompt([{"role": "user", "content": "<think>"}])) == "possible"
    )


def test_efforts_reach_the_template(template: MakeTemplate) -> None:
    for effort in ("low", "medium", "high"):
        dialogue = wire.Dialogue(effort=effort, thinking=True)
        assert f"Reasoning: {effort}\n" in template("gpt-oss").prompt(TALK, dialogue)


def test_template_variables_are_passed_on(template: MakeTemplate) -> None:
    dialogue = wire.Dialogue(variables={"enable_thinking": False})
    made = template("qwen3")
    prompt = made.prompt(TALK, dialogue)
    assert made.dialect.thoughts(prompt) == "none"
    assert made.dialect.suffix(prompt, dialogue) == ""


@pytest.mark.parametrize(
    ("name", "asked", "param", "said"),
    [
        ("qwen2.5", {"thinking": True}, "enable_thinking", "does not reason"),
        ("qwen2.5", {"effort": "high"}, "reasoning_effort", "does not reason"),
        ("phi-4", {"effort": "low"}, "reasoning_effort", "does not reason"),
        ("qwen3", {"effort": "low"}, "reasoning_effort", "it knows none$"),
        ("gpt-oss", {"effort": "minimal"}, "reasoning_effort", "it knows low, medium, high$"),
        ("gpt-oss", {"effort": "none"}, "reasoning_effort", "always reasons"),
        ("gpt-oss", {"thinking": False}, "enable_thinking", "always reasons"),
        ("qwen3", {"effort": "none", "thinking": True}, "reasoning_effort", "the opposite"),
        ("gpt-oss", {"effort": "low", "thinking": False}, "reasoning_effort", "the opposite"),
        ("qwen3", {"variables": {"thinking_mode": 1}}, "chat_template_kwargs", "thinking_mode"),
        ("qwen3", {"variables": {"messages": []}}, "chat_template_kwargs", "messages"),
        ("qwen3", {"variables": {"tools": []}}, "chat_template_kwargs", "tools"),
    ],
)
def test_what_a_model_cannot_do_is_refused_by_name(
    template: MakeTemplate, name: str, asked: dict[str, Any], param: str, said: str
) -> None:
    with pytest.raises(UnsupportedParameter, match=said) as refusal:
        template(name).dialect.prompt(TALK, wire.Dialogue(**asked))
    assert refusal.value.param == param


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_that_asks_for_nothing_gets_nothing_added(
    template: MakeTemplate, name: str
) -> None:
    made = template(name)
    messages, variables = made.dialect.prompt(TALK, wire.Dialogue())
    assert variables == {}
    prompt = made.render({"messages": messages, "add_generation_prompt": True})
    assert made.dialect.suffix(prompt, wire.Dialogue()) == ""
