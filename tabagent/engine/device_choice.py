"""Which graphics processors a load asks for: honoured, or refused with what is missing."""

from __future__ import annotations

from typing import Final, get_args

from tabagent.errors import InvalidRequest, NotAvailableHere
from tabagent.hardware.devices import KINDS, Accelerators, Device, Kind, how_to_build

BOUNDLESS: Final = 2**62  # bytes that are thought free where nothing says how many are


def choose(
    wish: str,
    machine: Accelerators,
    *,
    n_gpu_layers: int | None,
    main_gpu: int | None,
) -> list[Device]:
    """The devices that `wish` means; none means the CPU.

    `wish` is `auto`, `cpu`, `gpu`, a kind (`cuda`), or one device (`cuda:1`). A build that can use
    a kind of which nobody could say whether there is a device gets one whose memory is unknown. Raises InvalidRequest, and
    NotAvailableHere when this installation cannot do it.
    """
    devices, kinds = machine.devices, machine.kinds
    kind, _, number = wish.partition(":")
    if (kind not in KINDS and wish not in ("auto", "cpu", "gpu")) or (
        number and not number.isdigit()
    ):
        known = ", ".join(("auto", "cpu", "gpu", *get_args(Kind)))
        raise _refused("device", f"must be one of {known}, or one device such as cuda:0")
    if wish == "cpu" or n_gpu_layers == 0:
        if wish == "cpu" and n_gpu_layers:
            raise _refused("n_gpu_layers", "no layers lie on a device when `device` is cpu")
        return []
    usable = [device for device in devices if device.kind in kinds]
    if not usable:
        # Of torch nobody could say without importing it: what may be is no device yet.
        told = machine.engine != "torch"
        maybe = [o for o in KINDS if told and o in kinds and o not in machine.absent]
        usable = [Device(other, 0, "unknown", 0, BOUNDLESS) for other in maybe[:1]]
    if wish in KINDS or number:
        usable = [device for device in usable if device.kind == kind]
    elif usable:
        usable = [device for device in usable if device.kind == usable[0].kind]
    if number:
        usable = [device for device in usable if device.index == int(number)]
    if main_gpu is not None and usable:
        usable = [device for device in usable if device.index == main_gpu]
    if not usable and (wish != "auto" or n_gpu_layers or main_gpu is not None):
        raise _missing(wish, machine)
    return usable


def _missing(wish: str, machine: Accelerators) -> NotAvailableHere:
    kind, kinds = wish.partition(":")[0], machine.kinds
    if kind in KINDS and kind not in kinds:
        how = f": {how_to_build(kind)}" if machine.engine == "llama.cpp" else ""
        why = f"the installed {machine.engine} cannot use {kind}{how}"
    elif not kinds:
        why = f"the installed {machine.engine} was built for the processor alone" + (
            f": {how_to_build('cuda')}, or with its flag for another kind of device"
            if machine.engine == "llama.cpp"
            else ": `tabagent doctor` says which package is built for your device"
        )
    elif kinds <= machine.absent:
        why = f"no {' or '.join(sorted(kinds))} device is found; is its driver installed?"
    else:
        why = f"there is no such device: {', '.join(sorted(kinds))} devices are counted from 0"
    return NotAvailableHere(f"no model runs on {wish} here: {why}", what=wish, why=why)


def _refused(param: str, detail: str) -> InvalidRequest:
    return InvalidRequest(detail, param=param, errors=[{"pointer": f"/{param}", "detail": detail}])
