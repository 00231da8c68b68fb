"""A model that has a process, as callers see it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from pydantic import Field

from tabagent.engine.loaded import Loaded, State
from tabagent.operation import Reply
from tabagent.wire import CacheType, FlashAttention, KvLayout, Speculation


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


def loaded_info(entry: Loaded) -> LoadedInfo:
    process, placement = entry.process, entry.placement
    beat = process.beat if process else None
    return LoadedInfo(
        model=entry.model.id,
        state=entry.state,
        progress=entry.progress,
        pid=process.pid if process else None,
        engine=process.engine if process else None,
        device=_device_of(entry),
        asleep=entry.asleep,
        mapped_bytes=beat.mapped_bytes if beat else 0,
        memory=_memory_of(entry),
        n_gpu_layers=placement.n_gpu_layers,
        execution_provider=entry.facts.get("execution_provider"),
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
        notes=[*entry.fallbacks, *placement.notes, *entry.facts.get("notes", ())],
        loaded_at=datetime.fromtimestamp(entry.loaded_at, UTC) if entry.loaded_at else None,
        load_seconds=round(entry.load_s, 3),
    )


def _device_of(entry: Loaded) -> str:
    """Where it runs: not where it was meant to when its engine could not."""
    found: str = entry.facts.get("device", "cpu")
    return entry.placement.device if entry.placement.n_gpu_layers and found != "cpu" else found


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
