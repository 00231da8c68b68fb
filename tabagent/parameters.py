"""Request fields that several services share: how to sample, when to stop, what is refused."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, Strict, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from tabagent import wire
from tabagent.operation import UNSUPPORTED, Request

Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Flag = Annotated[bool, Strict()]


def _only(*accepted: Any) -> BeforeValidator:
    def check(value: Any) -> Any:
        if value not in accepted:
            raise PydanticCustomError(UNSUPPORTED, "this server cannot honour it yet")
        return value

    return BeforeValidator(check)


NotYet = Annotated[
    Any,
    _only(None, [], False, "none", {"type": "text"}, ["text"]),
    WithJsonSchema({"description": "Refused by this version unless absent or at its default."}),
]
"""A known parameter that would change the answer and cannot be honoured yet: refused by name."""

One = Annotated[
    Any,
    _only(None, 1),
    WithJsonSchema({"enum": [1, None], "description": "Only 1 in this version."}),
]

Meaningless = Annotated[
    Any, WithJsonSchema({"description": "Accepted; has no meaning on a local server."})
]


def _stop_length(value: str) -> str:
    if not 1 <= len(value.encode()) <= 256:
        raise ValueError("a stop string has 1 to 256 bytes")
    return value


StopString = Annotated[str, AfterValidator(_stop_length)]


class StreamOptions(Request):
    """OpenAI's `stream_options`."""

    include_usage: Flag = Field(False, description="Send a last chunk with the token counts.")


class GenerationParameters(Request):
    """What chat and text generation have in common.

    A parameter that is left out takes the model file's own recommendation (`general.sampling.*`),
    else temperature 0.8, top_k 40, top_p 0.95, min_p 0.05, as llama.cpp.
    """

    model: str | None = Field(
        None, max_length=200, description="Model id; the selected model when left out."
    )
    stream: Flag = Field(False, description="Send the answer as server-sent events.")
    stream_options: StreamOptions | None = None
    max_tokens: Whole | None = Field(
        None, ge=1, description="Most tokens to generate; what the context leaves when left out."
    )
    temperature: Number | None = Field(None, ge=0, le=2, description="0 is greedy.")
    top_p: Number | None = Field(None, gt=0, le=1)
    top_k: Whole | None = Field(None, ge=0, description="0 keeps all.")
    min_p: Number | None = Field(None, ge=0, le=1)
    repeat_penalty: Number | None = Field(None, gt=0, le=2, description="1 changes nothing.")
    repeat_last_n: Whole | None = Field(
        None, ge=0, le=65536, description="Tokens that the penalties look back on."
    )
    presence_penalty: Number | None = Field(None, ge=-2, le=2)
    frequency_penalty: Number | None = Field(None, ge=-2, le=2)
    seed: Whole | None = Field(None, ge=-(2**63), le=2**63 - 1)
    ignore_eos: Flag = Field(False, description="Go on until `max_tokens`.")
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = Field(
        None, description="Texts that end the answer; they are not part of it."
    )
    n: One = None
    logit_bias: NotYet = None
    logprobs: NotYet = None
    user: Meaningless = None
    metadata: Meaningless = None
    service_tier: Meaningless = None
    safety_identifier: Meaningless = None
    prompt_cache_key: Meaningless = None

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options goes with stream: true")
        return self

    @property
    def wants_usage(self) -> bool:
        """Whether the stream ends with a usage chunk; a plain reply is folded from one."""
        return not self.stream or bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self) -> wire.Sampling:
        return wire.Sampling(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repeat_penalty=self.repeat_penalty,
            repeat_last_n=self.repeat_last_n,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=self.seed,
            ignore_eos=self.ignore_eos,
        )

    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())
