"""What a text completion is asked with."""

from __future__ import annotations

from typing import Annotated, Any, Final, Self

from pydantic import Discriminator, Field, Strict, Tag, model_validator

from tabagent import wire
from tabagent.parameters import Flag, Whole, invalid
from tabagent.parameters.generation import GenerationParameters

MOST_PROMPTS: Final = 32

TokenIds = Annotated[
    list[Annotated[int, Strict(), Field(ge=0, le=2**31 - 1)]],
    Field(min_length=1, max_length=2**20),
]


def _kind(prompt: Any) -> str:
    """Which of its four forms a prompt has, by its first elements."""
    if not isinstance(prompt, list):
        return "string"
    first = prompt[0] if prompt else None
    if isinstance(first, list):
        return "several token ids"
    return "strings" if isinstance(first, str) else "token ids"


Prompt = Annotated[
    Annotated[str, Tag("string")]
    | Annotated[list[str], Tag("strings"), Field(max_length=MOST_PROMPTS)]
    | Annotated[TokenIds, Tag("token ids")]
    | Annotated[list[TokenIds], Tag("several token ids"), Field(max_length=MOST_PROMPTS)],
    Discriminator(_kind),
]


class CompletionRequest(GenerationParameters):
    """A text to continue, or several."""

    model_config = {
        "json_schema_extra": {
            "examples": [{"prompt": "TabAgent is", "max_tokens": 24, "temperature": 0}]
        }
    }

    prompt: Prompt = Field(
        description="Text, in which special tokens are text, or ids of the model's own tokens. "
        f"Up to {MOST_PROMPTS} of either are continued side by side, each in `n` choices.",
    )
    suffix: str | None = Field(
        None, description="Fill in what comes before this, where the model has learned to."
    )
    echo: Flag | None = Field(None, description="Begin each choice with its prompt.")
    logprobs: Whole | None = Field(
        None, ge=0, le=5, description="Likeliest tokens to tell at each position."
    )
    best_of: Whole | None = Field(None, description="The same as `n`: nothing is thrown away.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.best_of not in (None, self.n or 1):
            raise invalid("/best_of", "every choice is sent: leave it out, or make it equal to n")
        if self.suffix is not None and not isinstance(self.prompts()[0], str):
            raise invalid("/suffix", "goes with a prompt of text")
        return self

    def prompts(self) -> list[str | list[int]]:
        one = _kind(self.prompt) in ("string", "token ids")
        prompts: Any = [self.prompt] if one else self.prompt
        return list(prompts)

    def commands(self, loras: list[tuple[str, float]], *, raw_grammar: bool) -> list[wire.Generate]:
        """One for each prompt."""
        sampling, constraint = self.sampling(), self.format(raw_grammar=raw_grammar)
        return [
            wire.Generate(
                0,
                sampling=sampling,
                text=prompt if isinstance(prompt, str) else None,
                tokens=None if isinstance(prompt, str) else prompt,
                suffix=self.suffix,
                max_tokens=self.max_tokens,
                stop=self.stops(),
                n=self.n or 1,
                format=constraint,
                logprobs=self.logprobs,
                echo=bool(self.echo),
                loras=loras,
            )
            for prompt in self.prompts()
        ]
