"""Which of the recommended models would run well here: they fit, and a token does not take long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Final, Literal

from pydantic import Field

from tabagent.catalog.models import Model, Task
from tabagent.catalog.recommended import Recommended, RecommendedList, Variant
from tabagent.engine.verdict import Fits, Verdict, guessed
from tabagent.operation import Reply, Request

Pace = Literal["fast", "fair", "slow"]
MEMORY_RATE: Final = (
    20e9  # bytes a second that a processor reads; two channels of DDR4 give 25 to 50
)
ARITHMETIC: Final = 40e9  # operations a second of a thread; each weight takes two a token
WRITING: Final = (10, 3)  # tokens a second that are fast, as people read, and fair
READING: Final = (1000, 50)  # a passage has a few hundred
PACES: Final[tuple[Pace, ...]] = ("fast", "fair", "slow")
RANK: Final[dict[Fits, int]] = {"yes": 0, "unknown": 1, "smaller": 1, "no": 2}
POOLING: Final = ("embedding", "rerank")

Judge = Callable[[Model | int], Verdict]


class RecommendationsRequest(Request):
    """What the model is for."""

    model_config = {"json_schema_extra": {"examples": [{"task": "chat", "fits": "anywhere"}]}}

    task: Literal["chat", "completion", "embedding", "rerank"] | None = Field(
        None, description="All tasks when left out."
    )
    fits: Literal["here", "anywhere"] = Field(
        "here", description="`anywhere` lists models too that are too large or too slow."
    )


class RecommendedVariant(Reply):
    """One quantisation, and whether it would fit now."""

    name: str
    size_bytes: int = Field(description="Rounded to megabytes.")
    fits: Fits
    required_bytes: int = Field(description="Of main memory, guessed from its size.")


class RecommendedModel(Reply):
    """A model on the hub, and how it would run here."""

    repo: str
    task: Task
    parameters: int
    active_parameters: int = Field(description="Of a mixture of experts: what a token reads.")
    context_length: int
    license: str
    tools: bool
    reasoning: bool
    about: str
    fits: Fits
    pace: Pace = Field(
        description="A guess. `fast` writes as people read, or makes three vectors a second; `slow` "
        "writes under three tokens a second, or takes several seconds for a vector."
    )
    device: str = Field(description="Where it would run.")
    pull: str = Field(description="What to pull: the best variant that fits.")
    size_bytes: int = Field(description="Of that variant.")
    reason: str | None = Field(description="Why it does not fit.")
    variants: list[RecommendedVariant]


class RecommendedModels(Reply):
    """Models by task, those that run best first."""

    dated: date = Field(description="When the list was made: newer models are not on it.")
    data: list[RecommendedModel]


def recommendations(
    known: RecommendedList, judge: Judge, request: RecommendationsRequest
) -> RecommendedModels:
    """The list for this machine."""
    found = [
        _judged(model, judge)
        for model in known.models
        if request.task is None or model.task == request.task
    ]
    if request.fits == "here":
        found = [model for model in found if model.fits != "no" and model.pace != "slow"]
    return RecommendedModels(dated=known.dated, data=sorted(found, key=_order))


def _order(model: RecommendedModel) -> tuple[int, bool, int, int]:
    tasks = ("chat", "completion", "embedding", "rerank")
    poor = model.pace == "slow"
    return tasks.index(model.task), poor, RANK[model.fits], -model.parameters


def _judged(model: Recommended, judge: Judge) -> RecommendedModel:
    verdicts = [(variant, judge(_as_model(model, variant))) for variant in model.variants]
    paces = {variant.name: _pace(model, variant, verdict) for variant, verdict in verdicts}
    # The fastest that fits, and of those the largest; else the one that comes nearest to fitting.
    variant, verdict = min(
        verdicts,
        key=lambda pair: (
            RANK[pair[1].fits],
            PACES.index(paces[pair[0].name]),
            -pair[0].size_bytes if pair[1].fits != "no" else pair[0].size_bytes,
        ),
    )
    return RecommendedModel(
        repo=model.repo,
        task=model.task,
        parameters=model.parameters,
        active_parameters=model.active_parameters,
        context_length=model.context_length,
        license=model.license,
        tools=model.tools,
        reasoning=model.reasoning,
        about=model.about,
        fits=verdict.fits,
        pace=paces[variant.name],
        device=verdict.device,
        pull=f"{model.repo}:{variant.name}",
        size_bytes=variant.size_bytes,
        reason=verdict.reason,
        variants=[
            RecommendedVariant(
                name=one.name,
                size_bytes=one.size_bytes,
                fits=said.fits,
                required_bytes=said.required_bytes,
            )
            for one, said in verdicts
        ],
    )


def _as_model(model: Recommended, variant: Variant) -> Model:
    """Shaped as models of that size are."""
    made = guessed(
        f"{model.repo}:{variant.name}",
        weight_bytes=variant.size_bytes,
        parameters=model.parameters,
        context=model.context_length,
    )
    if model.task not in POOLING:
        return made
    return replace(made, task=model.task, pooling="mean")


def _pace(model: Recommended, variant: Variant, verdict: Verdict) -> Pace:
    """Writing waits for memory, reading for arithmetic; what lies on a card does neither here."""
    placed, left = verdict.placement, 1.0
    if placed is not None and placed.devices and placed.every_layer:
        left = 1 - placed.n_gpu_layers / placed.every_layer
    if model.task in POOLING:
        threads = placed.threads if placed is not None else 1
        rate = threads * ARITHMETIC / max(2 * model.active_parameters * left, 1)
        return _word(rate, READING)
    read = variant.size_bytes * left * model.active_parameters / model.parameters
    return _word(MEMORY_RATE / max(read, 1), WRITING)


def _word(rate: float, bounds: tuple[int, int]) -> Pace:
    fast, fair = bounds
    return "fast" if rate >= fast else "fair" if rate >= fair else "slow"
