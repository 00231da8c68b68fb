"""What an engine knows of how its model speaks, found once per model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tabagent import wire
from tabagent.errors import InvalidRequest, UnsupportedParameter
from tabagent.worker.dialect import harmony
from tabagent.worker.dialect.conversation import Message, arranged, definitions
from tabagent.worker.dialect.families import HARMONY
from tabagent.worker.dialect.grammar import Wanted, grammar
from tabagent.worker.dialect.lark import JsonRule, Lark, json_rule
from tabagent.worker.dialect.parser import Parser, PlainParser, Thoughts, TurnParser
from tabagent.worker.dialect.shape import MARKER
from tabagent.worker.dialect.template_facts import Probe, TemplateFacts

ITS_OWN: Final = frozenset(("messages", "tools", "add_generation_prompt", "bos_token", "eos_token"))
"""Template variables that no request sets directly."""

TAIL: Final = 64  # characters at the end of a prompt that say whether it begins reasoning


class Dialect:
    """How the family of a model speaks.

    `name` is the family's, `tools` whether its template tells the model of tools (where it does
    not, they are told of in words), `reasoning` the texts around the model's thoughts. `control`
    are the texts which the parser must see, also where they are control tokens, whose text an
    engine hides otherwise.
    """

    def __init__(
        self, facts: TemplateFacts, specials: Mapping[str, int], json_rule: JsonRule
    ) -> None:
        syntax, reasoning = facts.syntax, facts.reasoning
        self._facts = facts
        self._json_rule = json_rule
        self.name = syntax.name
        self.tools = facts.tools
        self.reasoning = reasoning
        self.switch = facts.switch[0] if facts.switch else None
        self.efforts = facts.efforts
        texts = (reasoning.open, reasoning.close, *reasoning.answer) if reasoning else ()
        self.control = syntax.markers.union(*map(MARKER.findall, texts))
        if syntax is HARMONY:
            self.control |= harmony.CONTROL
        self._specials = {text: specials[text] for text in self.control & specials.keys()}

    @classmethod
    def of(
        cls,
        template: str,
        probe: Probe | None = None,
        specials: Mapping[str, int] | None = None,
        json_rule: JsonRule = json_rule,
    ) -> Dialect:
        """Found from the template's text, and by rendering it where `probe` is given.

        `specials` are the tokens which the grammar library takes for control tokens, by their text.
        `json_rule` checks a schema and writes the body of a rule for it.
        """
        return cls(TemplateFacts.of(template, probe), specials or {}, json_rule)

    # ---- before the answer ----------------------------------------------------------------------
    def prompt(
        self, messages: list[Message], dialogue: wire.Dialogue
    ) -> tuple[list[Message], dict[str, Any]]:
        """Messages and further variables for the template.

        Raises UnsupportedParameter for what this model cannot do, InvalidRequest for calls and
        results in the messages that do not belong together.
        """
        known = self._facts.words - ITS_OWN
        if unknown := sorted(dialogue.variables.keys() - known):
            raise UnsupportedParameter(
                f"{unknown[0]!r} is no variable of this model's template that can be set",
                param="chat_template_kwargs",
            )
        tools = _offered(dialogue)
        variables = dialogue.variables | self._switches(dialogue)
        if tools and self.tools:
            variables["tools"] = definitions(tools)
        return arranged(messages, tools, self._facts), variables

    def suffix(self, prompt: str, dialogue: wire.Dialogue) -> str:
        """What to add to a rendered prompt, as control tokens and text: thoughts closed at once."""
        if self.reasoning is None or self.switch or _thinks(dialogue) is not False:
            return ""
        match self.thoughts(prompt):
            case "open":
                return self.reasoning.closing
            case "possible":
                return self.reasoning.nothing
            case "none":
                return ""

    def thoughts(self, prompt: str) -> Thoughts:
        """Whether `prompt`, with its suffix, ends within reasoning or lets it begin."""
        if self.reasoning is None:
            return "none"
        tail = prompt[-TAIL:].rstrip()
        if tail.endswith(self.reasoning.close):
            return "none"
        return "open" if tail.endswith(self.reasoning.open.rstrip()) else "possible"

    def _switches(self, dialogue: wire.Dialogue) -> dict[str, Any]:
        thinks, effort = _thinks(dialogue), dialogue.effort
        if thinks is None:
            return {}
        param = "enable_thinking" if effort is None else "reasoning_effort"
        if self.reasoning is None:
            if not thinks:
                return {}  # which is what it does
            raise UnsupportedParameter("this model does not reason before it answers", param=param)
        always = self._facts.syntax is HARMONY
        if always and not thinks:
            raise UnsupportedParameter(
                "this model always reasons; the effort 'low' is its least", param=param
            )
        variables: dict[str, Any] = {}
        if self._facts.switch:
            name, on, off = self._facts.switch
            variables[name] = on if thinks else off
        if effort is not None and thinks:
            if effort not in self.efforts:
                known = ", ".join(self.efforts if always else ("none", *self.efforts))
                raise UnsupportedParameter(
                    f"this model does not know the effort {effort!r}; it knows {known}", param=param
                )
            variables["reasoning_effort"] = effort
        return variables

    # ---- the answer -----------------------------------------------------------------------------
    def grammar(self, dialogue: wire.Dialogue, answer: str | None, prompt: str) -> str | None:
        """Lark source for llguidance with a rule `start`, or None where nothing is to be held.

        `answer` is Lark that defines a rule `answer`. Calls are held to their function's schema;
        where they are not required, text is free until it has what begins a call.
        """
        tools = _offered(dialogue)
        required = bool(tools) and dialogue.tool_choice == "required"
        if required and dialogue.tool_name is not None:
            tools = [tool for tool in tools if tool.name == dialogue.tool_name]
            if not tools:
                raise _unknown_tool(dialogue.tool_name)
        if not tools and answer is None:
            return None
        # A function that is named is called once: a list of calls to it would need an end.
        several = (
            dialogue.parallel_tool_calls
            and self._facts.syntax.several
            and dialogue.tool_name is None
        )
        wanted = Wanted(tools, required, several, None if required else answer)
        lark = Lark(self._specials, self._json_rule)
        if self._facts.syntax is HARMONY:
            return harmony.grammar(wanted, lark)
        return grammar(self._facts.syntax, self.reasoning, self.thoughts(prompt), wanted, lark)

    def parser(self, dialogue: wire.Dialogue, prompt: str) -> Parser:
        """A parser of one choice that follows `prompt`, its suffix included."""
        tools = {tool.name: tool.parameters or {} for tool in _offered(dialogue)}
        if self._facts.syntax is HARMONY:
            return harmony.HarmonyParser(tools, prompt)
        thoughts = self.thoughts(prompt)
        if not tools and thoughts == "none" and not (self.reasoning and self.reasoning.answer[0]):
            return PlainParser()
        syntax = self._facts.syntax if tools else None
        return TurnParser(self.reasoning, thoughts, syntax, tools)


def _offered(dialogue: wire.Dialogue) -> list[wire.Tool]:
    return [] if dialogue.tool_choice == "none" else dialogue.tools


def _thinks(dialogue: wire.Dialogue) -> bool | None:
    """Whether thinking is asked for; None when nothing is said of it."""
    if dialogue.effort is None:
        return dialogue.thinking
    thinks = dialogue.effort != "none"
    if dialogue.thinking not in (None, thinks):
        raise UnsupportedParameter(
            f"the effort {dialogue.effort!r} says the opposite of enable_thinking",
            param="reasoning_effort",
        )
    return thinks


def _unknown_tool(name: str) -> InvalidRequest:
    detail = f"names {name!r}, which is none of the tools"
    return InvalidRequest(
        f"tool_choice {detail}",
        param="tool_choice",
        errors=[{"pointer": "/tool_choice", "detail": detail}],
    )
