"""Which models there are, which are loaded, and loading and unloading them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tabagent.catalog.models import BUILTIN, Catalog, Model, Task
from tabagent.catalog.places import Location
from tabagent.engine.supervisor import Loaded, State, Supervisor
from tabagent.engine.verdict import Fits, Verdict
from tabagent.errors import WrongModelTask, problem
from tabagent.operation import Call, NoParameters, Reply, Request
from tabagent.parameters import Flag
from tabagent.parameters.loading import LoadParameters
from tabagent.wire import CacheType, FlashAttention, KvLayout, Speculation


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


class DeviceMemory(Reply):
    """What a model takes of one device's memory, in bytes."""

    device: str
    layers: int | None = Field(description="That lie there; nothing for main memory.")
    estimated_bytes: int
    actual_bytes: int | None = Field(description="As the engine or the system says; none yet.")


class LoadedInfo(Reply):
    """A model with a process of its own."""

    model: str
    state: State
    progress: float = Field(description="Of the load, 0 to 1.")
    pid: int | None
    engine: str | None
    device: str
    n_ctx: int = Field(description="Context of one sequence in tokens.")
    slots: int
    slots_used: int
    queue: int = Field(description="Requests waiting for a slot.")
    requests: int = Field(description="That use it or wait for it.")
    asleep: bool = Field(description="Whether its KV cache is given back until it is asked.")
    resident_bytes: int
    mapped_bytes: int = Field(description="Of them: pages of its file, which can be read again.")
    estimated_bytes: int = Field(description="Main memory it was given room for.")
    memory: list[DeviceMemory] = Field(description="By device: what was expected and what is.")
    n_gpu_layers: int = Field(description="Layers on graphics processors.")
    execution_provider: str | None = Field(description="Of engines that have such.")
    kv_tokens: int = Field(description="Room of all sequences together, in tokens.")
    threads: int
    threads_batch: int
    flash_attention: FlashAttention
    cache_type_k: CacheType
    cache_type_v: CacheType
    kv_layout: KvLayout
    speculation: Speculation
    draft_model: str | None
    restarts: int
    loaded_at: datetime | None
    load_seconds: float
    pinned: bool
    expires_at: datetime | None = Field(
        description="When it goes if nobody uses it until then; nothing while it is in use."
    )
    notes: list[str] = Field(description="What is less than it would be with more memory.")


class LoadedList(Reply):
    """Every model that has a process."""

    object: Literal["list"] = "list"
    data: list[LoadedInfo]


class Unloaded(Reply):
    """The model that was let go."""

    model: str
    unloaded: Literal[True] = True


class Models:
    """The catalogue as callers see it."""

    def __init__(
        self, catalog: Catalog, supervisor: Supervisor, selected: Callable[[], str]
    ) -> None:
        self._catalog, self._supervisor, self._selected = catalog, supervisor, selected

    @property
    def selected(self) -> str:
        """The id of the model that answers requests which name none."""
        return self._selected()

    async def resolve(self, name: str | None) -> Model:
        """The model a request names; the selected one when it names none."""
        return await self.find(name or self.selected)

    async def find(self, name: str) -> Model:
        """Known and unchanged costs a `stat`; else directories and headers are read, in a thread."""
        known = self._catalog.known(name)
        return known if known else await asyncio.to_thread(self._catalog.find, name)

    async def resolve_for(self, name: str | None, task: Task) -> Model | None:
        """The model a request names. Without a name one for `task`, or None when there is none:
        the selected model, else one that is loaded, else the first in the list.
        """
        if name:
            return await self.find(name)
        able = [
            (model, loaded)
            for model, loaded in await self.with_state()
            if model.task == task and model.problem is None
        ]
        able.sort(key=lambda pair: (pair[0].id != self.selected, not pair[1]))
        return able[0][0] if able else None

    async def with_state(self) -> list[tuple[Model, bool]]:
        """All models, and whether each is loaded."""
        models = await asyncio.to_thread(self._catalog.scan)
        ready = {entry.model.id for entry in self._supervisor.loaded() if entry.state == "ready"}
        return [(model, model.id in ready) for model in models]

    async def adapter(self, name: str) -> Model:
        """A LoRA adapter by name. Raises ModelNotFound or WrongModelTask, as its file deserves."""
        found = await self.find(name)
        if found.problem is not None:
            raise found.problem.with_traceback(None)
        if found.task != "adapter":
            raise WrongModelTask(f"{found.id} is a model, not an adapter", param="lora")
        return found

    def context_length(self, model: Model) -> int:
        """Tokens one sequence may have, as loaded now."""
        entry = self._supervisor.get(model.id)
        if entry is None:
            return model.context_length
        length: int = entry.facts.get("n_ctx", entry.placement.n_ctx)
        return length

    async def list(self, request: ModelsRequest, call: Call) -> ModelList:
        """List the models on this machine."""
        models = await asyncio.to_thread(self._catalog.scan)
        judge = self._supervisor.room.judge() if request.fits else None
        return ModelList(data=[self._info(m, judge) for m in models if m.task != "adapter"])

    async def info(self, request: ModelName, call: Call) -> ModelInfo:
        """Describe one model."""
        return self._info(await self.find(request.model_id), self._supervisor.room.judge())

    async def load(self, request: LoadRequest, call: Call) -> LoadedInfo:
        """Load a model and wait until it can answer.

        Naming a model in a request loads it too; this is for choosing how, or for doing it early.
        """
        model = await self.find(request.name)
        draft = await self.find(request.draft_model) if request.draft_model else None
        entry = await self._supervisor.load(
            model,
            request.options(draft),
            force_reload=request.force_reload,
            keep_alive_s=request.keep_alive,
            pin=request.pin,
        )
        return _loaded_info(entry)

    async def unload(self, request: UnloadRequest, call: Call) -> Unloaded:
        """Let a model go and give its memory back."""
        model = await self.find(request.model)
        await self._supervisor.unload(model.id, force=request.force)
        return Unloaded(model=model.id)

    async def loaded(self, request: NoParameters, call: Call) -> LoadedList:
        """List the models that have a process: memory, slots, queue."""
        return LoadedList(data=[_loaded_info(entry) for entry in self._supervisor.loaded()])

    def _info(self, model: Model, judge: Callable[[Model], Verdict] | None) -> ModelInfo:
        able = judge and model.problem is None and model.task != "adapter"
        entry = self._supervisor.get(model.id)
        return ModelInfo(
            id=model.id,
            created=model.modified,
            owned_by=model.id.partition("/")[0],
            format=model.format,
            task=model.task,
            architecture=model.architecture,
            quantization=model.quantisation,
            size_bytes=model.size_bytes,
            files=model.files,
            location=model.location,
            parameters=model.parameters,
            context_length=model.context_length,
            dimensions=model.embedding_length or None,
            license=model.license,
            capabilities=Capabilities(
                chat=model.task == "chat",
                completion=model.task in ("chat", "completion"),
                embeddings=model.task == "embedding",
                rerank=model.task == "rerank",
                classification=model.task == "classification",
                tools=model.abilities.tools,
                reasoning=model.abilities.reasoning,
                vision=False,
            ),
            fits=judge(model).fits if judge and able else None,
            loaded=entry is not None and entry.state == "ready",
            state=entry.state if entry else None,
            resident_bytes=entry.process.beat.resident_bytes if entry and entry.process else None,
            selected=model.id == self.selected,
            problem=_short(model),
        )


def _short(model: Model) -> dict[str, Any] | None:
    if model.problem is None:
        return None
    document = problem(model.problem, "")
    return {k: v for k, v in document.items() if k not in ("instance", "error", "retryable")}


def _loaded_info(entry: Loaded) -> LoadedInfo:
    process, placement = entry.process, entry.placement
    beat = process.beat if process else None
    return LoadedInfo(
        model=entry.model.id,
        state=entry.state,
        progress=entry.progress,
        pid=process.pid if process else None,
        engine=process.engine if process else None,
        device=placement.device if placement.n_gpu_layers else entry.facts.get("device", "cpu"),
        asleep=entry.asleep,
        mapped_bytes=beat.mapped_bytes if beat else 0,
        memory=_memory_of(entry),
        n_gpu_layers=placement.n_gpu_layers,
        execution_provider=placement.execution_provider,
        n_ctx=entry.facts.get("n_ctx", placement.n_ctx),
        slots=placement.slots,
        slots_used=beat.slots_used if beat else 0,
        queue=beat.waiting if beat else 0,
        resident_bytes=beat.resident_bytes if beat else 0,
        kv_tokens=entry.facts.get("kv_tokens", placement.kv_tokens),
        threads=placement.threads,
        threads_batch=placement.threads_batch,
        flash_attention=placement.flash_attention,
        cache_type_k=placement.cache_type_k,
        cache_type_v=placement.cache_type_v,
        kv_layout=entry.facts.get("kv_layout", placement.kv_layout),
        speculation=placement.speculation,
        draft_model=placement.draft.id if placement.draft else None,
        restarts=entry.restarts,
        requests=entry.users,
        estimated_bytes=entry.reserved_bytes,
        pinned=entry.pinned,
        expires_at=datetime.fromtimestamp(entry.leaves_at, UTC) if entry.leaves_at else None,
        notes=[*entry.fallbacks, *placement.notes],
        loaded_at=datetime.fromtimestamp(entry.loaded_at, UTC) if entry.loaded_at else None,
        load_seconds=round(entry.load_s, 3),
    )


def _memory_of(entry: Loaded) -> list[DeviceMemory]:
    process = entry.process
    found = [
        DeviceMemory(
            device="cpu",
            layers=None,
            estimated_bytes=entry.reserved_bytes,
            actual_bytes=process.beat.resident_bytes if process else None,
        )
    ]
    said: dict[str, dict[str, int]] = entry.facts.get("buffers", {})
    for share in entry.placement.shares:
        kind, _, index = share.device.partition(":")
        here = [sum(kinds.values()) for name, kinds in said.items() if _is_on(name, kind, index)]
        found.append(
            DeviceMemory(
                device=share.device,
                layers=share.layers,
                estimated_bytes=share.total,
                actual_bytes=sum(here) if here else None,
            )
        )
    return found


def _is_on(buffer: str, kind: str, index: str) -> bool:
    """Whether llama.cpp's name of a buffer (CUDA0, ROCm1, Vulkan0, Metal) is of this device."""
    name = buffer.lower()
    return name == f"{kind}{index}" or (name.startswith(kind) and name.rstrip("_") == kind)
