"""What a chat template does with what it is given: found by rendering small conversations."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from tabagent import wire
from tabagent.errors import ChatTemplateRejected
from tabagent.worker.dialect.families import (
    GENERIC,
    HARMONY,
    SYNTAXES,
    Reasoning,
    Syntax,
    reasoning_named_by,
    syntax_named_by,
)
from tabagent.worker.dialect.harmony import HarmonyParser
from tabagent.worker.dialect.parser import Parser, TurnParser
from tabagent.worker.dialect.shape import MARKER

Probe = Callable[[dict[str, Any]], str]
"""Renders the template with these variables; raises ChatTemplateRejected where it does."""

EFFORTS: Final = ("minimal", "low", "medium", "high", "xhigh")
HARMONY_EFFORTS: Final = ("low", "medium", "high")
SWITCHES: Final[tuple[tuple[str, Any, Any], ...]] = (
    ("enable_thinking", True, False),
    ("thinking", True, False),
    ("thinking_budget", -1, 0),
    ("reasoning", True, False),
)
"""Variables with which templates turn thinking on and off. Only the first says so by its name."""

_NAME: Final = "tabagent_probe"
_OTHER: Final = "tabagent_second"
_TEXT: Final = "tabagent text"
_RESULT: Final = "tabagent result"
_RULES: Final = "tabagent rules"
_ARGUMENTS: Final = {"tabagent_key": "tabagent value"}
_SCHEMA: Final = {
    "type": "object",
    "properties": {"tabagent_key": {"type": "string", "description": _TEXT}},
    "required": ["tabagent_key"],
}
_TOOL: Final = {
    "type": "function",
    "function": {"name": _NAME, "description": _TEXT, "parameters": _SCHEMA},
}
_USER: Final = {"role": "user", "content": "Hello"}
_KEYS: Final = (
    ("reasoning_content", r"\breasoning_content\b"),
    ("thinking", r"\bmessage(\.|\[['\"])thinking\b|['\"]thinking['\"] in message"),
    ("reasoning", r"\bmessage(\.|\[['\"])reasoning\b"),
)


@dataclass(frozen=True)
class TemplateFacts:
    """What a template knows, and the form in which it wants it."""

    reasoning: Reasoning | None
    syntax: Syntax = GENERIC
    tools: bool = False  # it tells the model of tools
    calls: bool = False  # it writes the calls of earlier turns
    results: bool = False  # and their results
    several: bool = True  # also more than one in a message
    arguments_as_text: bool = False  # it wants them as JSON text, not as an object
    empty: str | None = ""  # the content of a message that only calls
    system: bool = True  # it takes a system message
    system_stays: bool = True  # also when a result comes last
    reasoning_key: str | None = None  # of a message, for its reasoning
    switch: tuple[str, Any, Any] | None = None  # a variable, and its values for on and off
    efforts: tuple[str, ...] = ()  # that `reasoning_effort` may be
    words: frozenset[str] = frozenset()  # all its names, of variables too

    @classmethod
    def of(cls, template: str, probe: Probe | None) -> TemplateFacts:
        """From the template's text, and where `probe` is given from what it renders."""
        syntax, reasoning = syntax_named_by(template), reasoning_named_by(template)
        key = next((key for key, pattern in _KEYS if re.search(pattern, template)), None)
        words = frozenset(re.findall(r"[A-Za-z_]\w*", template))
        plain = cls(reasoning, reasoning_key=key, words=words)
        named = [switch for switch in SWITCHES if switch[0] in words]
        switches = named if reasoning else []
        efforts: tuple[str, ...] = ()
        if reasoning and "reasoning_effort" in words:
            efforts = HARMONY_EFFORTS if syntax is HARMONY else EFFORTS
        examined = _Examination(probe) if probe else None
        if examined and examined.render([_USER]) is not None:
            facts = replace(plain, system=examined.takes_system())
            facts = examined.calls(facts, syntax) if syntax else facts
            switches = [switch for switch in switches if examined.switches(switch)]
            if efforts == EFFORTS:
                efforts = examined.efforts()
        else:  # nothing to go by but the text
            knows = syntax is not None and re.search(r"\b\w*tools\b", template) is not None
            facts = _written_in(plain, syntax, tools=True) if syntax and knows else plain
            switches = [switch for switch in switches if switch is SWITCHES[0]]
        return replace(facts, switch=next(iter(switches), None), efforts=efforts)


def _written_in(facts: TemplateFacts, syntax: Syntax, *, tools: bool) -> TemplateFacts:
    return replace(
        facts, syntax=syntax, tools=tools, calls=True, results=True, several=syntax.several
    )


class _Examination:
    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    def render(
        self, messages: list[dict[str, Any]], *, generation: bool = True, **variables: Any
    ) -> str | None:
        """The prompt, or None where the template rejects it."""
        try:
            return self._probe(
                {**variables, "messages": messages, "add_generation_prompt": generation}
            )
        except ChatTemplateRejected:
            return None

    def takes_system(self) -> bool:
        text = self.render([{"role": "system", "content": _TEXT}, _USER])
        return text is not None and _TEXT in text

    def switches(self, switch: tuple[str, Any, Any]) -> bool:
        name, on, off = switch
        return self.render([_USER], **{name: on}) != self.render([_USER], **{name: off})

    def efforts(self) -> tuple[str, ...]:
        """Those that make a difference."""
        unknown = self.render([_USER], reasoning_effort=_NAME)
        said = {effort: self.render([_USER], reasoning_effort=effort) for effort in EFFORTS}
        known = {effort for effort, text in said.items() if text not in (None, unknown)}
        if {"low", "high"} <= known:  # what lies between may be the default
            known.add("medium")
        return tuple(effort for effort in EFFORTS if effort in known)

    def calls(self, plain: TemplateFacts, syntax: Syntax) -> TemplateFacts:
        """Whether it tells of tools; how it wants calls, proved by reading them back."""
        tools = _NAME in (self.render([_USER], tools=[_TOOL]) or "")
        facts = _written_in(plain, syntax, tools=tools)
        written = False
        for as_text in (False, True):
            turns: list[tuple[str, TemplateFacts]] = []
            for empty in ("", None):
                found = replace(facts, arguments_as_text=as_text, empty=empty)
                turn = self._turn(found)
                written = written or (turn is not None and _NAME in turn)
                if turn is not None and _reads_back(found, turn):
                    turns.append((turn, found))
            if turns:  # nothing at all is what takes the least to write
                turn, found = min(turns, key=lambda written: len(written[0]))
                return self._rest(replace(found, syntax=_exact(syntax, turn)))
        if written or not tools:  # in a way that we cannot read, or nothing at all
            return plain
        return self._rest(replace(facts, calls=False))

    def _turn(self, facts: TemplateFacts) -> str | None:
        """What the template writes for a turn with a call."""
        before = self.render([_USER], tools=[_TOOL], generation=False)
        asked = self.render([_USER], tools=[_TOOL])
        whole = self.render([_USER, _call(facts, _NAME)], tools=[_TOOL], generation=False)
        if before is None or asked is None or whole is None:
            return None
        pairs = enumerate(zip(before, whole, strict=False))
        differ = next((i for i, (a, b) in pairs if a != b), min(len(before), len(whole)))
        turn = whole[differ:]
        header = asked.removeprefix(before)
        if facts.reasoning and facts.reasoning.open in header:
            header = header.rpartition(facts.reasoning.open)[0]
        return turn.removeprefix(header)

    def _rest(self, facts: TemplateFacts) -> TemplateFacts:
        call = _call(facts, _NAME)
        result = {
            "role": "tool",
            "tool_call_id": call["tool_calls"][0]["id"],
            "name": _NAME,
            "content": _RESULT,
        }
        if not facts.calls:
            told = self.render([_USER, {"role": "assistant", "content": _TEXT}, result])
            return replace(facts, results=_RESULT in (told or ""))
        rules = {"role": "system", "content": _RULES}
        asked = self.render([rules, _USER]) or ""
        after = self.render([rules, _USER, call, result]) or ""
        both = {**call, "tool_calls": call["tool_calls"] + _call(facts, _OTHER)["tool_calls"]}
        two = self.render([_USER, both], tools=[_TOOL], generation=False) or ""
        told = self.render([_USER, call, result], tools=[_TOOL])
        return replace(
            facts,
            several=facts.several and _NAME in two and _OTHER in two,
            results=_RESULT in (told or ""),
            system_stays=_RULES in after or _RULES not in asked,
        )


def _exact(syntax: Syntax, turn: str) -> Syntax:
    function = {"name": _NAME, "arguments": _ARGUMENTS}
    same = (other for other in SYNTAXES if other.marks == syntax.marks)
    return next((other for other in same if other.write([function]) in turn), syntax)


def _call(facts: TemplateFacts, name: str) -> dict[str, Any]:
    ids = {"nine": "Probe0001", "numbered": f"functions.{name}:0"}
    arguments = json.dumps(_ARGUMENTS) if facts.arguments_as_text else _ARGUMENTS
    call = {
        "id": ids.get(facts.syntax.ids, "call_probe"),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
    return {"role": "assistant", "content": facts.empty, "tool_calls": [call]}


def _reads_back(facts: TemplateFacts, turn: str) -> bool:
    tools = {_NAME: _SCHEMA}
    if not all(marker in turn for marker in MARKER.findall(facts.syntax.section[1])):
        return False  # begun and not ended
    parser: Parser
    if facts.syntax is HARMONY:
        parser = HarmonyParser(tools, "")
    else:
        parser = TurnParser(facts.reasoning, "possible", facts.syntax, tools)
    deltas: list[wire.ToolDelta] = []
    for said in (parser.feed(turn), parser.end()):
        deltas += said.tools if said else []
    try:
        arguments = json.loads("".join(delta.arguments for delta in deltas))
    except ValueError:
        return False
    return bool(arguments == _ARGUMENTS and deltas[0].name == _NAME)
