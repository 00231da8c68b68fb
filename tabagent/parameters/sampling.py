"""How the next token is drawn: every field of `wire.Sampling`, with its range."""

from __future__ import annotations

import math
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from tabagent import wire
from tabagent.operation import Request
from tabagent.parameters import Flag, Number, Whole

BAN: Final = -100.0  # OpenAI's number for "never"


def _short(value: str) -> str:
    if not 1 <= len(value.encode()) <= 256:
        raise ValueError("must have 1 to 256 bytes")
    return value


ShortText = Annotated[str, AfterValidator(_short)]
Bias = Annotated[float, Field(strict=True, ge=BAN, le=100)]


class SamplingSettings(Request):
    """How tokens are drawn: what can be saved as a default."""

    temperature: Number | None = Field(None, ge=0, le=2, description="0 is greedy.")
    top_p: Number | None = Field(None, gt=0, le=1)
    top_k: Whole | None = Field(None, ge=0, le=2**31 - 1, description="0 keeps all.")
    min_p: Number | None = Field(None, ge=0, le=1)
    typical_p: Number | None = Field(None, gt=0, le=1, description="1 changes nothing.")
    top_n_sigma: Number | None = Field(None, ge=-1, le=100, description="0 or less is off.")
    dynatemp_range: Number | None = Field(
        None, ge=0, le=2, description="How far the temperature follows the entropy; 0 is off."
    )
    dynatemp_exponent: Number | None = Field(None, gt=0, le=10)
    xtc_probability: Number | None = Field(None, ge=0, le=1, description="0 is off.")
    xtc_threshold: Number | None = Field(None, ge=0, le=1)
    dry_multiplier: Number | None = Field(None, ge=0, le=100, description="0 is off.")
    dry_base: Number | None = Field(None, ge=1, le=100)
    dry_allowed_length: Whole | None = Field(None, ge=0, le=65536)
    dry_penalty_last_n: Whole | None = Field(
        None, ge=-1, le=2**20, description="-1 is the whole context, 0 is off."
    )
    dry_sequence_breakers: list[ShortText] | None = Field(None, max_length=64)
    mirostat: Whole | None = Field(None, ge=0, le=2, description="Version; 0 is off.")
    mirostat_tau: Number | None = Field(None, gt=0, le=100)
    mirostat_eta: Number | None = Field(None, gt=0, le=1)
    repeat_penalty: Number | None = Field(None, gt=0, le=2, description="1 changes nothing.")
    repeat_last_n: Whole | None = Field(
        None, ge=0, le=65536, description="Tokens that the penalties look back on."
    )
    presence_penalty: Number | None = Field(None, ge=-2, le=2)
    frequency_penalty: Number | None = Field(None, ge=-2, le=2)
    seed: Whole | None = Field(None, ge=-(2**63), le=2**63 - 1)


class SamplingParameters(SamplingSettings):
    """A parameter that is left out is as it was saved for the model, else for all models.

    Where nothing is saved the model file's own recommendation counts, its `general.sampling.*`;
    else temperature 0.8, top_k 40, top_p 0.95, min_p 0.05, as llama.cpp, whose README of its server
    explains each.
    """

    logit_bias: dict[ShortText, Bias] | None = Field(
        None,
        max_length=300,
        description="Added to the logits of tokens, which are named by id or by their text. "
        "-100 bans one.",
    )
    ignore_eos: Flag = Field(False, description="Go on until `max_tokens`.")

    def sampling(self) -> wire.Sampling:
        same = {name: getattr(self, name) for name in _SAME}
        return wire.Sampling(
            **same,
            logit_bias=[
                (int(key) if key.isascii() and key.isdigit() else key, -math.inf if b <= BAN else b)
                for key, b in (self.logit_bias or {}).items()
            ],
        )


_SAME: Final = [name for name in wire.Sampling.__struct_fields__ if name != "logit_bias"]
