"""Memory: what models take, what is free, and whether more would fit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

from pydantic import Field

from tabagent.catalog.models import BUILTIN, Model
from tabagent.config import Settings
from tabagent.engine.estimate import Estimate
from tabagent.engine.placement import LoadOptions, Placement, place
from tabagent.engine.residency import reclaimable
from tabagent.engine.supervisor import Supervisor
from tabagent.errors import OutOfMemory
from tabagent.operation import Call, NoParameters, Reply, Request
from tabagent.parameters import Whole
from tabagent.wire import CacheType

Resolve = Callable[[str | None], Awaitable[Model]]
Siblings = Callable[[Model], list[Model]]
"""Other variants of a model that are on this machine, the largest first."""


class Sizing(Request):
    """A model, and how it would be loaded; what is left out is as the settings say."""

    model_config = {"json_schema_extra": {"examples": [{"model": BUILTIN, "n_ctx": 1024}]}}

    model: str | None = Field(
        None, max_length=200, description="Model id; the selected model when left out."
    )
    n_ctx: Whole | None = Field(
        None, ge=16, le=2**22, description="Context of one sequence in tokens."
    )
    slots: Whole | None = Field(None, ge=1, le=64, description="Sequences decoded together.")
    cache_type_k: CacheType | None = Field(None, description="How keys are kept.")
    cache_type_v: CacheType | None = Field(None, description="How values are kept.")

    def options(self) -> LoadOptions:
        return LoadOptions(**self.model_dump(exclude={"model"}))


class Memory(Reply):
    """Bytes by what they are for."""

    total_bytes: int
    weights_bytes: int
    kv_cache_bytes: int
    state_bytes: int = Field(description="Of recurrent layers.")
    compute_bytes: int
    logits_bytes: int
    vocabulary_bytes: int
    prompt_cache_bytes: int = Field(description="Computed prompts outside the KV cache, at most.")
    process_bytes: int


class Estimated(Reply):
    """What a model would take in this layout."""

    model: str
    device: Literal["cpu"] = "cpu"
    n_ctx: int = Field(description="Context of one sequence in tokens.")
    slots: int
    kv_tokens: int = Field(description="Room of all sequences together, in tokens.")
    memory: Memory | None = Field(description="Nothing where the file says too little.")


class Feasibility(Reply):
    """The gate's answer, before anything is loaded."""

    model: str
    fits: bool
    needs_eviction: bool = Field(description="Whether models that nobody uses have to go first.")
    required_bytes: int
    available_bytes: int
    layout: Estimated | None = Field(description="How it would be loaded, if it fits.")
    notes: list[str] = Field(description="What is less than it would be with more memory.")
    reason: str | None = Field(description="Why it does not fit.")
    largest_context: int | None = Field(description="Tokens that would fit, if any.")
    fitting_variants: list[str] = Field(description="Other variants here that would fit.")


class Compatibility(Request):
    """Models to have loaded together."""

    model_config = {"json_schema_extra": {"examples": [{"models": [BUILTIN]}]}}

    models: list[str] = Field(min_length=1, max_length=32)


class Compatible(Reply):
    """Whether they fit beside each other, when nothing else is loaded."""

    fits: bool
    required_bytes: int
    available_bytes: int
    models: list[Estimated]


class ModelMemory(Reply):
    """A loaded model's memory."""

    model: str
    estimated_bytes: int
    resident_bytes: int
    requests: int = Field(description="That use it or wait for it.")
    pinned: bool


class ResourceUse(Reply):
    """Memory as it is used now."""

    total_bytes: int
    available_bytes: int
    limit_bytes: int | None = Field(description="That all models may take, if there is a limit.")
    free_for_models_bytes: int
    models: list[ModelMemory]


class Resources:
    """`siblings` finds other variants of a model."""

    def __init__(
        self, resolve: Resolve, siblings: Siblings, supervisor: Supervisor, settings: Settings
    ) -> None:
        self._resolve, self._siblings = resolve, siblings
        self._supervisor, self._settings = supervisor, settings

    async def use(self, request: NoParameters, call: Call) -> ResourceUse:
        """Say how much memory there is, and which model takes how much of it."""
        memory = self._supervisor.memory()
        return ResourceUse(
            total_bytes=memory.total_bytes,
            available_bytes=memory.available_bytes,
            limit_bytes=self._settings.memory_limit or None,
            free_for_models_bytes=self._supervisor.budget()[1],
            models=[
                ModelMemory(
                    model=entry.model.id,
                    estimated_bytes=entry.reserved_bytes,
                    resident_bytes=entry.process.beat.resident_bytes if entry.process else 0,
                    requests=entry.users,
                    pinned=entry.pinned,
                )
                for entry in self._supervisor.loaded()
            ],
        )

    async def estimate(self, request: Sizing, call: Call) -> Estimated:
        """Say how many bytes a model would take, from its file's header alone."""
        model = await self._known(request.model)
        return _estimated(model, place(model, request.options(), self._settings))

    async def feasibility(self, request: Sizing, call: Call) -> Feasibility:
        """Say whether a model would fit now, how it would be loaded, and if not, what would."""
        model = await self._known(request.model)
        free, most = self._room(model)
        try:
            placed = place(model, request.options(), self._settings, most)
        except OutOfMemory as error:
            return Feasibility(
                model=model.id,
                fits=False,
                needs_eviction=False,
                required_bytes=error.members["required_bytes"],
                available_bytes=most,
                layout=None,
                notes=[],
                reason=error.detail,
                largest_context=error.members["largest_context"],
                fitting_variants=self._fitting(model, most),
            )
        return Feasibility(
            model=model.id,
            fits=True,
            needs_eviction=placed.bytes > free,
            required_bytes=placed.bytes,
            available_bytes=most,
            layout=_estimated(model, placed),
            notes=list(placed.notes),
            reason=None,
            largest_context=None,
            fitting_variants=[],
        )

    async def compatibility(self, request: Compatibility, call: Call) -> Compatible:
        """Say whether models fit into memory together, each as it would be loaded by default."""
        models = [await self._known(name) for name in dict.fromkeys(request.models)]
        placed = [place(model, LoadOptions(), self._settings) for model in models]
        available = self._supervisor.budget()[0]
        required = sum(one.bytes for one in placed)
        return Compatible(
            fits=required <= available,
            required_bytes=required,
            available_bytes=available,
            models=[_estimated(*pair) for pair in zip(models, placed, strict=True)],
        )

    async def _known(self, name: str | None) -> Model:
        model = await self._resolve(name)
        if model.problem is not None:
            raise model.problem.with_traceback(None)
        return model

    def _room(self, model: Model) -> tuple[int, int]:
        """Bytes free now for a model, and when every model that nobody uses has gone."""
        others = [e.resident() for e in self._supervisor.loaded() if e.model.id != model.id]
        own = self._supervisor.get(model.id)
        free = self._supervisor.budget()[1] + (own.reserved_bytes if own else 0)
        return free, free + reclaimable(others, busy=False)

    def _fitting(self, model: Model, available: int) -> list[str]:
        found = []
        for sibling in self._siblings(model):
            try:
                place(sibling, LoadOptions(), self._settings, available)
            except OutOfMemory:
                continue
            found.append(sibling.id)
        return found


def _estimated(model: Model, placed: Placement) -> Estimated:
    return Estimated(
        model=model.id,
        n_ctx=placed.n_ctx,
        slots=placed.slots,
        kv_tokens=placed.kv_tokens,
        memory=memory_of(placed.estimate) if placed.estimate else None,
    )


def memory_of(estimate: Estimate) -> Memory:
    return Memory(
        total_bytes=estimate.total,
        weights_bytes=estimate.weights,
        kv_cache_bytes=estimate.cache,
        state_bytes=estimate.state,
        compute_bytes=estimate.compute,
        logits_bytes=estimate.logits,
        vocabulary_bytes=estimate.vocabulary,
        prompt_cache_bytes=estimate.kept,
        process_bytes=estimate.process,
    )
