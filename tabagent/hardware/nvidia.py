"""NVIDIA's cards through NVML, and the order in which CUDA counts them.

Source: NVML's reference, and "CUDA Environment Variables" in the CUDA programming guide. Workers
are started with `CUDA_DEVICE_ORDER=PCI_BUS_ID` where nothing else is said, so that CUDA counts as
NVML does; else it takes the fastest first, and says of the others nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tabagent.hardware.findings import Gpu, Note
from tabagent.hardware.machine import Machine, Unreadable

NODES: Final = ("dev/nvidiactl", "dev/nvhost-gpu", "dev/dxg")
"""Where one of these is, there is a card even if NVML does not answer: Linux, Jetson, WSL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One card as NVML describes it."""

    name: str
    uuid: str
    pci: str
    total_bytes: int | None
    free_bytes: int | None
    capability: tuple[int, int] | None
    partitioned: bool  # by MIG: CUDA then counts its parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Nvidia:
    """All cards in the order of their bus; `notes` of what NVML would not say."""

    driver: str | None
    cuda: str | None
    cards: tuple[Card, ...]
    notes: tuple[Note, ...] = ()


class NoDriver(Unreadable):
    """There is no NVIDIA driver, so certainly no card that could be used."""


def read(machine: Machine) -> Nvidia:
    """Ask NVML. Raises NoDriver or Unreadable."""
    nvml, notes = machine.nvml(), []
    try:
        nvml.nvmlInit()  # counted: every further one is cheap
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        absent = {nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED}
        if error.value in absent and not machine.exists(*NODES):
            raise NoDriver(str(error)) from None
        raise Unreadable(str(error)) from None

    def ask(what: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return what(*arguments)
        except nvml.NVMLError as error:
            notes.append(Note("nvml", f"{what.__name__}: {error}"))
            return None

    cards = []
    for index in range(count):
        handle = ask(nvml.nvmlDeviceGetHandleByIndex, index)
        if handle is not None:
            cards.append(_card(nvml, handle, ask))
    version = ask(nvml.nvmlSystemGetCudaDriverVersion)
    return Nvidia(
        driver=ask(nvml.nvmlSystemGetDriverVersion),
        cuda=f"{version // 1000}.{version % 1000 // 10}" if version else None,
        cards=tuple(sorted(cards, key=lambda card: card.pci)),
        notes=tuple(dict.fromkeys(notes)),
    )


def _card(nvml: Any, handle: Any, ask: Callable[..., Any]) -> Card:
    memory, pci = ask(nvml.nvmlDeviceGetMemoryInfo, handle), ask(nvml.nvmlDeviceGetPciInfo, handle)
    capability = ask(nvml.nvmlDeviceGetCudaComputeCapability, handle)
    return Card(
        name=ask(nvml.nvmlDeviceGetName, handle) or "unknown",
        uuid=ask(nvml.nvmlDeviceGetUUID, handle) or "",
        pci=_slot(pci.busId) if pci else "",
        total_bytes=memory.total if memory else None,
        free_bytes=memory.free if memory else None,
        capability=tuple(capability) if capability else None,
        partitioned=_partitioned(nvml, handle),
    )


def _slot(bus_id: str | bytes) -> str:
    """As sysfs writes it: NVML's domain has four digits more."""
    text = bus_id.decode() if isinstance(bus_id, bytes) else bus_id
    return text.lower()[-12:]


def _partitioned(nvml: Any, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except nvml.NVMLError:
        return False  # most cards cannot


def cuda_order(found: Nvidia, machine: Machine) -> list[Card] | None:
    """The cards as CUDA counts them for a worker; None where that cannot be told."""
    cards, environment = list(found.cards), machine.environment
    if any(card.partitioned for card in cards):
        return None
    order = environment.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    if order != "PCI_BUS_ID" and len({card.name for card in cards}) > 1:
        return None
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    return cards if visible is None else _visible(cards, visible)


def _visible(cards: list[Card], wish: str) -> list[Card]:
    """Those named, in that order, up to the first name that means none."""
    chosen: list[Card] = []
    for name in (part.strip() for part in wish.split(",")):
        if name.isdigit():
            meant = cards[int(name) : int(name) + 1]
        else:
            meant = [card for card in cards if name and card.uuid.startswith(name)]
        if len(meant) != 1 or meant[0] in chosen:
            break
        chosen += meant
    return chosen


def nvidia_gpus(machine: Machine) -> tuple[list[Gpu], Nvidia]:
    """The cards as findings. Raises NoDriver or Unreadable."""
    found = read(machine)
    counted = cuda_order(found, machine) or []
    numbers = {card.uuid: index for index, card in enumerate(counted)}
    gpus = [
        Gpu(
            vendor="nvidia",
            name=card.name,
            device=f"cuda:{numbers[card.uuid]}" if card.uuid in numbers else None,
            unified=card.total_bytes is None,
            total_bytes=card.total_bytes,
            free_bytes=card.free_bytes,
            driver=found.driver,
            capability=".".join(map(str, card.capability)) if card.capability else None,
            pci=card.pci or None,
            source="nvml",
        )
        for card in found.cards
    ]
    return gpus, found
