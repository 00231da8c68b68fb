"""What a chat completion is asked with."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from tabagent import wire
from tabagent.parameters import REFUSED, Flag, Meaningless, NotYet, Verbosity, Whole, invalid, only
from tabagent.parameters.dialogue import DialogueParameters
from tabagent.parameters.generation import GenerationParameters
from tabagent.parameters.messages import ChatMessage
from tabagent.parameters.session import SessionParameters

Tools = Annotated[
    Any, only("an older form: use `tools` and `tool_choice`", None, [], "none"), REFUSED
]
ThinkingBudget = Annotated[
    Whole | None, Field(ge=-1, description="Most tokens of reasoning; -1 is no limit.")
]


class ChatRequest(GenerationParameters, DialogueParameters, SessionParameters):
    """A conversation to continue."""

    model_config = {
        "json_schema_extra": {
            "examples": [
                {
                    "messages": [{"role": "user", "content": "How do I pull a model?"}],
                    "max_tokens": 128,
                    "stream": False,
                }
            ]
        }
    }

    messages: Annotated[list[ChatMessage], Field(max_length=512)] = Field(
        description="The conversation; in a session what is new, or nothing to answer again."
    )
    max_completion_tokens: Whole | None = Field(None, ge=1, description="Same as `max_tokens`.")
    logprobs: Flag | None = Field(None, description="Tell the probability of every token.")
    top_logprobs: Whole | None = Field(
        None, ge=0, le=20, description="Likeliest tokens to tell at each position."
    )
    thinking_budget_tokens: ThinkingBudget = None
    reasoning_budget: Annotated[
        ThinkingBudget, Field(description="Another name for `thinking_budget_tokens`.")
    ] = None
    functions: Tools = None
    function_call: Tools = None
    modalities: NotYet = None
    audio: NotYet = None
    prediction: NotYet = None
    moderation: NotYet = None
    web_search_options: NotYet = None
    verbosity: Verbosity = None
    store: Meaningless = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.messages and self.replace_message_id is None:
            raise invalid("/messages", "at least one message is needed")
        if self.session_id is not None and (self.n or 1) > 1:
            raise invalid("/n", "a session keeps one answer")
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("/top_logprobs", "goes with logprobs: true")
        for one, other in (
            ("max_completion_tokens", "max_tokens"),
            ("reasoning_budget", "thinking_budget_tokens"),
        ):
            pair = getattr(self, one), getattr(self, other)
            if None not in pair and pair[0] != pair[1]:
                raise invalid(f"/{one}", f"says otherwise than {other}")
        return self

    @property
    def most_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    def command(
        self, messages: list[dict[str, Any]], loras: list[tuple[str, float]], *, raw_grammar: bool
    ) -> wire.Generate:
        budget = self.reasoning_budget
        if self.thinking_budget_tokens is not None:
            budget = self.thinking_budget_tokens
        return wire.Generate(
            0,
            sampling=self.sampling(),
            messages=messages,
            dialogue=self.dialogue(),
            max_tokens=self.most_tokens,
            stop=self.stops(),
            n=self.n or 1,
            format=self.format(raw_grammar=raw_grammar),
            thinking_budget=None if budget == -1 else budget,
            logprobs=self.top_logprobs or 0 if self.logprobs else None,
            loras=loras,
        )
