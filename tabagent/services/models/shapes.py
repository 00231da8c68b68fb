"""Requests and replies about the models on this machine."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tabagent.catalog.models import BUILTIN, Task
from tabagent.catalog.places import Location
from tabagent.engine.loaded import State
from tabagent.engine.verdict import Fits
from tabagent.operation import Reply, Request
from tabagent.parameters import Flag
from tabagent.parameters.loading import LoadParameters


class Capabilities(Reply):
    """What a model can be asked for."""

    chat: bool
    completion: bool
    embeddings: bool
    rerank: bool
    classification: bool
    tools: bool = Field(
        description="Its chat template tells it of tools. Any chat model is told of them in words."
    )
    reasoning: bool = Field(description="It thinks before it answers.")
    vision: bool = Field(description="It sees pictures: none does in this version.")


class ModelInfo(Reply):
    """A model, in OpenAI's list shape and beyond."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Unix seconds: when the file was written.")
    owned_by: str
    format: str
    task: Task
    architecture: str
    quantization: str
    size_bytes: int = Field(description="Of all its files.")
    files: int
    location: Location = Field(description="Where it was found; what lies elsewhere is not ours.")
    parameters: int
    context_length: int = Field(description="Tokens the model was trained for.")
    dimensions: int | None = Field(description="Numbers in a vector, of a model that makes them.")
    license: str | None
    capabilities: Capabilities
    fits: Fits | None = Field(
        description="`smaller` is with less context than usual. Null where it was not asked for, "
        "and of what cannot be loaded anyhow."
    )
    loaded: bool
    state: State | None
    resident_bytes: int | None = Field(description="What it takes now, if it is loaded.")
    selected: bool = Field(description="Answers requests that name no model.")
    problem: dict[str, Any] | None = Field(description="Why it cannot be loaded, if it cannot.")


class ModelsRequest(Request):
    """What to say of each model."""

    model_config = {"json_schema_extra": {"examples": [{"fits": True}]}}

    fits: bool = Field(False, description="Also whether it would fit into memory now.")


class ModelList(Reply):
    """All models, the built-in one first."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]


class ModelName(Request):
    """A model's id, or its part after the slash where that is clear."""

    model_config = {"json_schema_extra": {"examples": [{"model_id": BUILTIN}]}}

    model_id: str = Field(max_length=200)


class LoadRequest(LoadParameters):
    """A model to load, and how; what is left out is as it was saved, else as the settings say."""

    model_config = {"json_schema_extra": {"examples": [{"model": BUILTIN}]}}

    model: str = Field(max_length=200)
    variant: str | None = Field(
        None, max_length=100, description="Such as `Q4_K_M`, where `model` is a repository."
    )
    quantization: str | None = Field(None, max_length=100, description="The same as `variant`.")
    force_reload: Flag = Field(
        False, description="Unload it first; its requests end with an error."
    )

    @model_validator(mode="after")
    def _one_variant(self) -> Self:
        named = self.model.partition(":")[2]
        if len({v.upper() for v in (named, self.variant, self.quantization) if v}) > 1:
            raise ValueError("model, variant and quantization name different variants")
        return self

    @property
    def name(self) -> str:
        """Repository and variant, or what `model` says alone."""
        variant = self.variant or self.quantization
        return f"{self.model.partition(':')[0]}:{variant}" if variant else self.model


class UnloadRequest(Request):
    """A model to let go."""

    model_config = {"json_schema_extra": {"examples": [{"model": BUILTIN}]}}

    model: str = Field(max_length=200)
    force: Flag = Field(False, description="Also while it answers; its requests end with an error.")


class Unloaded(Reply):
    """The model that was let go."""

    model: str
    unloaded: Literal[True] = True
