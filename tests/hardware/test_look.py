"""What models can be laid on, in the order in which a worker's llama.cpp counts it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from tabagent.hardware.devices import Accelerators, Kind
from tabagent.hardware.look import MOMENT_S, Looker
from tabagent.hardware.machine import Machine
from tests.hardware.recorded import Nvml, machine, record
from tests.live import LiveServer, fake_model

CUDA: frozenset[Kind] = frozenset({"cuda"})


def look(root: Path, name: str, *kinds: Kind, **changes: Any) -> Accelerators:
    said = record(name) | changes
    return Looker(machine(said, root, kinds=frozenset(kinds)))()


def test_a_build_for_the_processor_alone_asks_no_driver(tmp_path: Path) -> None:
    made = machine(record("rtx_4060"), tmp_path)
    assert Looker(made)() == Accelerators()
    assert cast(Nvml, made.nvml()).asked == 0


def test_a_card_comes_with_what_is_free_there(tmp_path: Path) -> None:
    (card,) = look(tmp_path, "rtx_4060", "cuda").devices
    assert (card.id, card.name) == ("cuda:0", "NVIDIA GeForce RTX 4060")
    assert (card.total_bytes, card.free_bytes) == (8585740288, 7612661760)


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({}, ["4090", "3060"]),  # by the bus, whatever NVML's order
        ({"CUDA_VISIBLE_DEVICES": "1,0"}, ["3060", "4090"]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["3060"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-9b1d,0"}, ["3060", "4090"]),
        ({"CUDA_VISIBLE_DEVICES": "0,7,1"}, ["4090"]),  # nothing counts after the first wrong one
        ({"CUDA_VISIBLE_DEVICES": "0,0"}, ["4090"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-"}, []),  # means two
        ({"CUDA_VISIBLE_DEVICES": "-1"}, []),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, None),  # the driver's own idea of fast
    ],
)
def test_cards_are_counted_as_cuda_counts_them(
    tmp_path: Path, environment: dict[str, str], names: list[str] | None
) -> None:
    found = look(tmp_path, "two_cards", "cuda", environment=environment)
    assert [card.name[-4:] for card in found.devices] == (names or [])
    assert [card.index for card in found.devices] == list(range(len(found.devices)))
    assert found.absent == (CUDA if names == [] else frozenset())


def test_cards_of_one_kind_are_counted_in_any_order(tmp_path: Path) -> None:
    found = look(
        tmp_path, "h200_server", "cuda", environment={"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    )
    assert [card.free_bytes // 10**9 for card in found.devices] == [150, 61, 150, 150]


def test_of_a_card_in_parts_nothing_is_said(tmp_path: Path) -> None:
    said = record("h200_server")
    said["nvml"]["cards"][1]["mig"] = 1
    found = Looker(machine(said, tmp_path, kinds=CUDA))()
    assert (found.kinds, found.devices, found.absent) == (CUDA, (), frozenset())


def test_a_card_without_memory_of_its_own_has_the_machines(tmp_path: Path) -> None:
    said = record("rtx_4060")
    del said["nvml"]["cards"][0]["total"]
    (card,) = Looker(machine(said, tmp_path, kinds=CUDA))().devices
    assert card.free_bytes == said["counts"]["available_bytes"]


def test_without_a_driver_there_is_certainly_none(tmp_path: Path) -> None:
    assert look(tmp_path, "laptop", "cuda", "rocm", "vulkan").absent == {"cuda", "rocm"}
    # Where a device file is, NVML's silence proves nothing.
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/dxg").touch()
    assert look(tmp_path, "laptop", "cuda").absent == frozenset()


def test_a_driver_that_fails_is_no_error(tmp_path: Path) -> None:
    def broken() -> Any:
        raise OSError("a library of the wrong kind")

    made = replace(machine(record("rtx_4060"), tmp_path, kinds=CUDA), nvml=broken)
    assert Looker(made)() == Accelerators(CUDA)


def test_rocm_and_metal_are_found_too(tmp_path: Path) -> None:
    (radeon,) = look(tmp_path / "a", "radeon_7900_xtx", "rocm").devices
    assert (radeon.id, radeon.free_bytes) == ("rocm:0", 24559259648)
    hidden = {"HIP_VISIBLE_DEVICES": "0"}
    found = look(tmp_path / "b", "radeon_7900_xtx", "rocm", environment=hidden)
    assert (found.devices, found.absent) == ((), frozenset())
    (apple,) = look(tmp_path / "c", "apple_m2_pro", "metal").devices
    assert (apple.id, apple.name, apple.free_bytes) == ("metal:0", "Apple M2 Pro", 18253611008)


def test_a_mac_may_give_metal_more_or_less(tmp_path: Path) -> None:
    said = record("apple_m2_pro")
    name = "/usr/sbin/sysctl hw machdep.cpu iogpu"
    said["commands"][name] = said["commands"][name].replace("limit_mb: 0", "limit_mb: 8192")
    (apple,) = Looker(machine(said, tmp_path, kinds=frozenset({"metal"})))().devices
    assert (apple.total_bytes, apple.free_bytes) == (8 * 2**30, 8 * 2**30)


def counting(made: Machine) -> tuple[Machine, Callable[[], int]]:
    nvml = cast(Nvml, made.nvml())
    return made, lambda: nvml.asked


def test_what_was_seen_holds_for_a_moment(tmp_path: Path) -> None:
    made, asked = counting(machine(record("rtx_4060"), tmp_path, kinds=CUDA))
    now = [0.0]
    looker = Looker(made, lambda: now[0])
    first = looker()
    assert looker() is first
    assert asked() == 1
    now[0] += MOMENT_S * 2
    assert looker() == first
    assert asked() == 2


def test_a_server_shows_the_cards_and_its_workers_count_as_it_does(tmp_path: Path) -> None:
    made = machine(record("two_cards"), tmp_path / "root", kinds=CUDA)
    with LiveServer(tmp_path / "data", extra=[fake_model()], look=Looker(made)) as live:
        shown = live.client.get("/v1/resources").json()["devices"]
        assert [(card["device"], card["name"][-4:]) for card in shown] == [
            ("cuda:0", "3060"),
            ("cuda:1", "4090"),
        ]
        assert shown[1]["free_bytes"] == 24805113856
        assert live.answer("2") == "1 2 "
        assert live.worker().environ()["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
