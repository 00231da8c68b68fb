"""How a model is loaded, as callers say it."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from tabagent.catalog.models import Model
from tabagent.engine.placement import LoadOptions
from tabagent.operation import Request
from tabagent.parameters import Flag, Whole
from tabagent.parameters.keep_alive import KeepAlive
from tabagent.wire import CacheType, FlashAttention, KvLayout, Speculation

APART: Final = {"draft_model", "keep_alive", "pin", "tensor_split"}
"""Parameters that the engine knows otherwise, or that are none of its business."""


class LoadParameters(Request):
    """How to load; what is left out is as the settings say, then as it fits."""

    device: str | None = Field(
        None,
        max_length=32,
        description="`auto`, `cpu`, `gpu`, a kind such as `cuda`, or one device such as `cuda:1`.",
    )
    n_gpu_layers: Whole | None = Field(
        None, ge=0, le=10_000, description="Layers on graphics processors, the output's among them."
    )
    main_gpu: Whole | None = Field(None, ge=0, le=63, description="The only one to use.")
    tensor_split: list[Annotated[float, Field(ge=0, le=1e15)]] | None = Field(
        None, min_length=1, max_length=16, description="What part of those layers each gets."
    )
    n_ctx: Whole | None = Field(
        None, ge=16, le=2**22, description="Context of one sequence in tokens."
    )
    slots: Whole | None = Field(None, ge=1, le=64, description="Sequences decoded together.")
    threads: Whole | None = Field(None, ge=1, le=512, description="Threads for answers.")
    threads_batch: Whole | None = Field(None, ge=1, le=512, description="Threads for prompts.")
    flash_attention: FlashAttention | None = None
    cache_type_k: CacheType | None = Field(None, description="How keys are kept.")
    cache_type_v: CacheType | None = Field(None, description="How values are kept.")
    kv_layout: KvLayout | None = Field(
        None, description="One KV cache for all sequences, or a part for each."
    )
    mmap: Flag | None = Field(None, description="Map the file instead of reading it.")
    mlock: Flag | None = Field(None, description="Keep it from being swapped out.")
    speculation: Speculation | None = Field(
        None, description="Check several guessed tokens at once; the text is the same."
    )
    draft_model: str | None = Field(
        None, max_length=200, description="A small model of the same vocabulary that guesses."
    )
    draft_tokens: Whole | None = Field(None, ge=1, le=64, description="Most tokens guessed.")
    keep_state: Flag | None = Field(
        None, description="Keep computed prompts on disk when it is unloaded."
    )
    keep_alive: KeepAlive = None
    pin: Flag | None = Field(None, description="Never make room with it for another model.")

    def options(self, draft: Model | None) -> LoadOptions:
        """For the engine. `draft` is the model that `draft_model` names."""
        given = self.model_dump(include=set(LoadParameters.model_fields) - APART)
        split = tuple(self.tensor_split) if self.tensor_split else None
        return LoadOptions(draft=draft, tensor_split=split, **given)
