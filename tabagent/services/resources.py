"""Memory: what models take, what is free, and whether more would fit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from pydantic import Field, model_validator

from tabagent.catalog.models import BUILTIN, Model
from tabagent.catalog.shape import Layer, Shape
from tabagent.config import Settings
from tabagent.engine.estimate import Estimate
from tabagent.engine.gate import place
from tabagent.engine.offload import OVERHEAD, Share
from tabagent.engine.placement import LoadOptions, Placement
from tabagent.engine.residency import reclaimable
from tabagent.engine.supervisor import Supervisor
from tabagent.engine.verdict import BITS, Fits, Verdict, guessed, judge
from tabagent.operation import Call, NoParameters, Reply, Request
from tabagent.parameters import Whole
from tabagent.wire import CacheType, FlashAttention

Resolve = Callable[[str | None], Awaitable[Model]]
Siblings = Callable[[Model], list[Model]]
"""Other variants of a model that are on this machine, the largest first."""

UNNAMED: Final = "as described"


class Measures(Request):
    """A decoder's measures, as its file's header or `config.json` has them."""

    layers: Whole = Field(ge=1, le=1000)
    width: Whole = Field(ge=1, le=2**20, description="Numbers a token: the hidden size.")
    heads: Whole = Field(ge=1, le=4096)
    kv_heads: Whole | None = Field(None, ge=1, le=4096, description="As many as heads if unset.")
    head_dim: Whole | None = Field(None, ge=1, le=2**16, description="Width / heads if unset.")
    feed_forward: Whole = Field(ge=1, le=2**22, description="The intermediate size.")
    vocabulary: Whole = Field(ge=1, le=2**24)

    def shape(self, weight_bytes: int) -> Shape:
        row = (self.kv_heads or self.heads) * (self.head_dim or self.width // self.heads)
        inside = weight_bytes // (self.layers + 1)
        return Shape(
            width=self.width,
            heads=self.heads,
            feed_forward=self.feed_forward,
            vocabulary=self.vocabulary,
            layers=(Layer(weight_bytes=inside, key_row=row, value_row=row),) * self.layers,
            input_bytes=weight_bytes - inside * self.layers,
            output_bytes=0,
            other_bytes=0,
        )


class Sizing(Request):
    """A model, and how it would be loaded; what is left out is as the settings say.

    Of a model that is not here, `size_bytes` or `parameters` is enough to guess the rest as models
    of that size are made; `measures` say it exactly.
    """

    model_config = {"json_schema_extra": {"examples": [{"model": BUILTIN, "n_ctx": 1024}]}}

    model: str | None = Field(
        None, max_length=200, description="Model id; the selected model when left out."
    )
    size_bytes: Whole | None = Field(
        None, ge=1, le=2**50, description="Of the weights of a model that is not here."
    )
    parameters: Whole | None = Field(None, ge=1, le=2**50, description="Their number.")
    bits_per_weight: float | None = Field(
        None, gt=0, le=64, description=f"With `parameters`; {BITS} if unset, which is Q4_K_M's."
    )
    measures: Measures | None = None
    n_ctx: Whole | None = Field(
        None, ge=16, le=2**22, description="Context of one sequence in tokens."
    )
    slots: Whole | None = Field(None, ge=1, le=64, description="Sequences decoded together.")
    cache_type_k: CacheType | None = Field(None, description="How keys are kept.")
    cache_type_v: CacheType | None = Field(None, description="How values are kept.")
    flash_attention: FlashAttention | None = None
    device: str | None = Field(None, max_length=32, description="As for a load.")
    n_gpu_layers: Whole | None = Field(None, ge=0, le=10_000)

    @model_validator(mode="after")
    def _one_subject(self) -> Self:
        described = self.size_bytes or self.parameters
        if self.model and (described or self.measures):
            raise ValueError("give a model, or the size of one that is not here, not both")
        if self.measures and not described:
            raise ValueError("measures need size_bytes or parameters beside them")
        if self.bits_per_weight and (not self.parameters or self.size_bytes):
            raise ValueError("bits_per_weight goes with parameters alone")
        return self

    def options(self) -> LoadOptions:
        names = (
            "n_ctx", "slots", "cache_type_k", "cache_type_v", "flash_attention", "device",
            "n_gpu_layers",
        )  # fmt: skip
        return LoadOptions(**{name: getattr(self, name) for name in names})

    def described(self) -> Model | None:
        """The model that is not here, if the request describes one."""
        if not (self.size_bytes or self.parameters):
            return None
        model = guessed(
            UNNAMED,
            weight_bytes=self.size_bytes,
            parameters=self.parameters,
            bits=self.bits_per_weight or BITS,
            context=self.n_ctx,
        )
        if self.measures:
            model = replace(model, path=Path(), shape=self.measures.shape(model.size_bytes))
        return model


class Memory(Reply):
    """Bytes of main memory by what they are for."""

    total_bytes: int
    weights_bytes: int
    kv_cache_bytes: int
    state_bytes: int = Field(description="Of recurrent layers.")
    compute_bytes: int
    logits_bytes: int
    vocabulary_bytes: int
    prompt_cache_bytes: int = Field(description="Computed prompts outside the KV cache, at most.")
    process_bytes: int


class DeviceShare(Reply):
    """Bytes of a graphics processor's memory by what they are for."""

    device: str
    layers: int = Field(description="That lie there, the output's among them.")
    total_bytes: int
    weights_bytes: int
    kv_cache_bytes: int
    state_bytes: int
    compute_bytes: int
    driver_bytes: int


class Estimated(Reply):
    """What a model would take in this layout."""

    model: str
    device: str
    n_ctx: int = Field(description="Context of one sequence in tokens.")
    slots: int
    kv_tokens: int = Field(description="Room of all sequences together, in tokens.")
    n_gpu_layers: int
    threads: int
    memory: Memory | None = Field(description="Nothing where the file says too little.")
    devices: list[DeviceShare] = Field(description="What lies on graphics processors.")


class Feasibility(Reply):
    """The gate's answer, before anything is loaded."""

    model: str
    fits: bool
    verdict: Fits = Field(description="`smaller`: with less than it would have else; see notes.")
    needs_eviction: bool = Field(description="Whether models that nobody uses have to go first.")
    required_bytes: int
    available_bytes: int
    device: str = Field(description="Whose memory decides.")
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
    mapped_bytes: int = Field(description="Of them: pages of its file, which can be read again.")
    asleep: bool = Field(description="Whether its KV cache is given back until it is asked.")
    requests: int = Field(description="That use it or wait for it.")
    pinned: bool


class DeviceUse(Reply):
    """A graphics processor's memory."""

    device: str
    name: str
    total_bytes: int
    free_bytes: int
    models_bytes: int = Field(description="That loaded models were given there.")


class ResourceUse(Reply):
    """Memory as it is used now."""

    total_bytes: int
    available_bytes: int
    limit_bytes: int | None = Field(description="That all models may take, if there is a limit.")
    budget_bytes: int = Field(description="That models may take together, as things are.")
    free_for_models_bytes: int
    devices: list[DeviceUse]
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
        memory, room = self._supervisor.memory(), self._supervisor.room
        loaded = self._supervisor.loaded()
        budget, free = room.budget()
        return ResourceUse(
            total_bytes=memory.total_bytes,
            available_bytes=memory.available_bytes,
            limit_bytes=room.limit(),
            budget_bytes=budget,
            free_for_models_bytes=free,
            devices=[
                DeviceUse(
                    device=device.id,
                    name=device.name,
                    total_bytes=device.total_bytes,
                    free_bytes=device.free_bytes,
                    models_bytes=sum(entry.device_bytes.get(device.id, 0) for entry in loaded),
                )
                for device in room.accelerators().devices
            ],
            models=[
                ModelMemory(
                    model=entry.model.id,
                    estimated_bytes=entry.reserved_bytes,
                    resident_bytes=entry.process.beat.resident_bytes if entry.process else 0,
                    mapped_bytes=entry.process.beat.mapped_bytes if entry.process else 0,
                    asleep=entry.asleep,
                    requests=entry.users,
                    pinned=entry.pinned,
                )
                for entry in loaded
            ],
        )

    async def estimate(self, request: Sizing, call: Call) -> Estimated:
        """Say how many bytes a model would take, from its file's header or its measures alone."""
        model = request.described() or await self._known(request.model)
        machine = self._supervisor.room.accelerators()
        return _estimated(model, place(model, request.options(), self._settings, None, machine))

    async def feasibility(self, request: Sizing, call: Call) -> Feasibility:
        """Say whether a model would fit now, how it would be loaded, and if not, what would."""
        model = request.described() or await self._known(request.model)
        free, most = self._free(model)
        found = self._judge(model, most, request.options())
        placed = found.placement
        fits = found.fits != "no"
        return Feasibility(
            model=model.id,
            fits=fits,
            verdict=found.fits,
            needs_eviction=fits and found.required_bytes > free,
            required_bytes=found.required_bytes,
            available_bytes=found.available_bytes,
            device=found.device,
            layout=_estimated(model, placed) if placed else None,
            notes=list(found.notes),
            reason=found.reason,
            largest_context=found.largest_context,
            fitting_variants=[] if fits else self._fitting(model, most),
        )

    async def compatibility(self, request: Compatibility, call: Call) -> Compatible:
        """Say whether models fit into memory together, each as it would be loaded by default."""
        models = [await self._known(name) for name in dict.fromkeys(request.models)]
        machine = self._supervisor.room.accelerators()
        placed = [place(model, LoadOptions(), self._settings, None, machine) for model in models]
        available = self._supervisor.room.budget()[0]
        required = sum(one.bytes for one in placed)
        free = {device.id: device.free_bytes for device in machine.devices}
        for share in (share for one in placed for share in one.shares):
            if share.device in free:
                free[share.device] -= share.total
        return Compatible(
            fits=required <= available and all(left >= 0 for left in free.values()),
            required_bytes=required,
            available_bytes=available,
            models=[_estimated(*pair) for pair in zip(models, placed, strict=True)],
        )

    async def _known(self, name: str | None) -> Model:
        model = await self._resolve(name)
        if model.problem is not None:
            raise model.problem.with_traceback(None)
        return model

    def _judge(self, model: Model, available: int, options: LoadOptions) -> Verdict:
        machine = self._supervisor.room.accelerators()
        return judge(model, self._settings, available, machine, options)

    def _free(self, model: Model) -> tuple[int, int]:
        """Bytes free now for a model, and when every model that nobody uses has gone."""
        others = [e.resident() for e in self._supervisor.loaded() if e.model.id != model.id]
        own = self._supervisor.get(model.id)
        free = self._supervisor.room.budget()[1] + (own.reserved_bytes if own else 0)
        return free, free + reclaimable(others, busy=False)

    def _fitting(self, model: Model, available: int) -> list[str]:
        return [
            sibling.id
            for sibling in self._siblings(model)
            if self._judge(sibling, available, LoadOptions()).fits != "no"
        ]


def _estimated(model: Model, placed: Placement) -> Estimated:
    return Estimated(
        model=model.id,
        device=placed.device,
        n_ctx=placed.n_ctx,
        slots=placed.slots,
        kv_tokens=placed.kv_tokens,
        n_gpu_layers=placed.n_gpu_layers,
        threads=placed.threads,
        memory=memory_of(placed.estimate) if placed.estimate else None,
        devices=[_share(share) for share in placed.shares],
    )


def _share(share: Share) -> DeviceShare:
    return DeviceShare(
        device=share.device,
        layers=share.layers,
        total_bytes=share.total,
        weights_bytes=share.weights,
        kv_cache_bytes=share.cache,
        state_bytes=share.state,
        compute_bytes=share.compute,
        driver_bytes=OVERHEAD,
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
