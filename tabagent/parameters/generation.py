"""What chat and text generation have in common: model, stream, stop strings, adapters, format."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from tabagent import wire
from tabagent.operation import Request
from tabagent.parameters import Flag, Meaningless, ModelName, Number, Whole
from tabagent.parameters.formats import Grammar, ResponseFormat, wire_format
from tabagent.parameters.keep_alive import KeepAlive
from tabagent.parameters.lasting import LastingParameters
from tabagent.parameters.sampling import SamplingParameters, ShortText


class StreamOptions(Request):
    """OpenAI's `stream_options`."""

    include_usage: Flag = Field(False, description="Send a last chunk with the token counts.")
    include_obfuscation: Meaningless = None


class LoraChoice(Request):
    """An adapter on top of the model's weights."""

    id: Whole | Annotated[str, Field(min_length=1, max_length=200)]
    scale: Number = Field(1.0, ge=-100, le=100)


class GenerationParameters(SamplingParameters, LastingParameters):
    """What to generate with, how much, and where to stop."""

    model: ModelName = None
    stream: Flag | None = Field(False, description="Send the answer as server-sent events.")
    stream_options: StreamOptions | None = None
    max_tokens: Whole | None = Field(
        None, ge=1, description="Most tokens to generate; what the context leaves when left out."
    )
    stop: ShortText | Annotated[list[ShortText], Field(max_length=16)] | None = Field(
        None, description="Texts that end the answer; they are not part of it."
    )
    n: Whole | None = Field(None, ge=1, le=4, description="How many answers, independently.")
    response_format: ResponseFormat | None = None
    grammar: Grammar = None
    lora: Annotated[list[LoraChoice], Field(max_length=16)] | None = Field(
        None, description="Adapters to apply, of those that belong to the model."
    )
    keep_alive: KeepAlive = None
    user: Meaningless = None
    metadata: Meaningless = None
    service_tier: Meaningless = None
    safety_identifier: Meaningless = None
    prompt_cache_key: Meaningless = None
    prompt_cache_retention: Meaningless = None
    prompt_cache_options: Meaningless = None

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options goes with stream: true")
        return self

    @property
    def wants_usage(self) -> bool:
        """Whether the stream ends with a usage chunk; a plain reply is folded from one."""
        return not self.stream or bool(self.stream_options and self.stream_options.include_usage)

    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    def format(self, *, raw_grammar: bool) -> wire.Format | None:
        return wire_format(self.response_format, self.grammar, raw_grammar=raw_grammar)

    def adapters(self) -> list[tuple[str, float]]:
        """Name and scale of each."""
        return [(str(adapter.id), adapter.scale) for adapter in self.lora or ()]
