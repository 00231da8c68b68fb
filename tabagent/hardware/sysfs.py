"""Graphics processors as Linux lists them: AMD's and Intel's, and cards that have no driver.

Source: `sysfs-driver-amdgpu` and the KFD's topology in the kernel's documentation; the regions of a
PCI device (`resource`); pci.ids for names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from tabagent.hardware.findings import Gpu, Note, Vendor
from tabagent.hardware.machine import Machine

VENDORS: Final[dict[str, Vendor]] = {"1002": "amd", "8086": "intel", "10de": "nvidia"}
NAMES: Final = {"amd": "AMD", "intel": "Intel", "nvidia": "NVIDIA"}
PCI_IDS: Final = ("usr/share/hwdata/pci.ids", "usr/share/misc/pci.ids", "usr/share/pci.ids")
NODES: Final = "sys/class/kfd/kfd/topology/nodes"
HIDING: Final = (
    "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL",
)  # fmt: skip
DISPLAY: Final = "0x03"  # the PCI class


def sysfs_gpus(machine: Machine) -> tuple[list[Gpu], list[Note]]:
    """What the kernel sees, in the order of the bus."""
    notes: list[Note] = []
    found = {}
    for folder, source in _folders(machine.root):
        facts = _pairs(_read(folder / "uevent"), "=")
        vendor_id, _, device_id = facts.get("PCI_ID", "").lower().partition(":")
        slot = facts.get("PCI_SLOT_NAME", folder.name)
        vendor = VENDORS.get(vendor_id)
        if vendor is not None and slot not in found:
            gpu = _gpu(machine, folder, vendor, device_id, facts.get("DRIVER"))
            found[slot] = replace(gpu, pci=slot, source=source)
            if not gpu.driver:
                notes.append(Note(source, f"{gpu.name} at {slot} has no driver"))
    gpus = [found[slot] for slot in sorted(found)]
    return _count_rocm(machine, gpus), notes


def _folders(root: Path) -> Iterator[tuple[Path, str]]:
    """Devices with a driver for graphics, then all that are made for it."""
    for card in sorted((root / "sys/class/drm").glob("card*")):
        if card.name.removeprefix("card").isdigit() and (card / "device/uevent").is_file():
            yield card / "device", f"/sys/class/drm/{card.name}"
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        if _read(device / "class").startswith(DISPLAY):
            yield device, f"/sys/bus/pci/devices/{device.name}"


def _gpu(machine: Machine, folder: Path, vendor: Vendor, device_id: str, driver: str | None) -> Gpu:
    name = _read(folder / "product_name").strip() or _listed(machine, vendor, device_id)
    gpu = Gpu(
        vendor=vendor,
        name=name or f"{NAMES[vendor]} 0x{device_id}",
        driver=driver,
        source="",
    )
    if vendor == "amd":
        return _amd(machine, folder, gpu)
    if vendor == "intel":
        return _intel(folder, gpu)
    return gpu


def _amd(machine: Machine, folder: Path, gpu: Gpu) -> Gpu:
    total = _number(folder / "mem_info_vram_total")
    used = _number(folder / "mem_info_vram_used")
    node = _node(machine, folder)
    # A processor's own graphics have a little of main memory set aside, and may use half of it.
    unified = node is not None and int(node.get("cpu_cores_count", 0)) > 0
    version = int(node.get("gfx_target_version", 0)) if node else 0
    return replace(
        gpu,
        unified=unified,
        total_bytes=total,
        free_bytes=total - used if total is not None and used is not None else None,
        capability=_gfx(version) if version else None,
    )


def _gfx(version: int) -> str:
    """110000 is gfx1100, 90010 is gfx90a: the last digits are hexadecimal."""
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"


def _node(machine: Machine, folder: Path) -> dict[str, str] | None:
    """What the KFD, which computes, knows of a device."""
    minors = {path.name.removeprefix("renderD") for path in (folder / "drm").glob("renderD*")}
    for _, node in _kfd(machine):
        if node.get("drm_render_minor") in minors:
            return node
    return None


def _kfd(machine: Machine) -> list[tuple[int, dict[str, str]]]:
    """Nodes that can compute, in the order in which ROCm counts them."""
    nodes = (
        (int(folder.name), _pairs(_read(folder / "properties"), " "))
        for folder in (machine.root / NODES).glob("*")
    )
    return [pair for pair in sorted(nodes, key=lambda pair: pair[0]) if _computes(pair[1])]


def _computes(node: dict[str, str]) -> bool:
    return int(node.get("simd_count", 0)) > 0


def _count_rocm(machine: Machine, gpus: list[Gpu]) -> list[Gpu]:
    """The same, with the number that ROCm gives each; without where variables hide some."""
    if any(name in machine.environment for name in HIDING):
        return gpus
    places = {_place(node): index for index, (_, node) in enumerate(_kfd(machine))}
    return [
        replace(gpu, device=f"rocm:{places[_slot(gpu.pci)]}")
        if gpu.vendor == "amd" and _slot(gpu.pci) in places
        else gpu
        for gpu in gpus
    ]


def _place(node: dict[str, str]) -> tuple[int, int]:
    return int(node.get("domain", 0)), int(node.get("location_id", 0))


def _slot(pci: str | None) -> tuple[int, int]:
    """(domain, bus and function as the KFD writes them) of 0000:03:00.0."""
    domain, bus, rest = (pci or "0:0:0.0").split(":")
    device, function = rest.split(".")
    return int(domain, 16), int(bus, 16) << 8 | int(device, 16) << 3 | int(function, 16)


def _intel(folder: Path, gpu: Gpu) -> Gpu:
    """A card of its own has memory; Intel's drivers say how much, or its largest region does."""
    slot = _pairs(_read(folder / "uevent"), "=").get("PCI_SLOT_NAME", folder.name)
    if slot.split(":")[1] == "00":
        return replace(gpu, unified=True)
    tiles = [_number(tile / "physical_vram_size_bytes") for tile in folder.glob("tile*")]
    total = sum(filter(None, tiles)) or _number(folder / "lmem_total_bytes") or _region(folder)
    return replace(gpu, total_bytes=total)


def _region(folder: Path) -> int | None:
    """The size of the region that shows the card's memory: all of it, if the region is resizable."""
    lines = _read(folder / "resource").splitlines()[:6]
    spans = [[int(number, 16) for number in line.split()[:2]] for line in lines]
    sizes = [end - start + 1 for start, end in spans if end]
    return max(sizes, default=None)


def _listed(machine: Machine, vendor: Vendor, device_id: str) -> str:
    """The name that pci.ids has of a device, with its maker's."""
    maker = next(number for number, name in VENDORS.items() if name == vendor)
    text = next(filter(None, map(machine.text, PCI_IDS)), "")
    _, _, rest = f"\n{text}".partition(f"\n{maker}  ")
    for line in rest.splitlines()[1:]:
        if not line.startswith(("\t", "#")):
            break  # the next maker
        if line.lower().startswith(f"\t{device_id}  "):
            return f"{NAMES[vendor]} {line.partition('  ')[2].strip()}"
    return ""


def _pairs(text: str, separator: str) -> dict[str, str]:
    parts = (line.partition(separator) for line in text.splitlines())
    return {key: value.strip() for key, _, value in parts}


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None
