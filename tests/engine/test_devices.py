"""Models on graphics processors: what lies where, what is refused, and what a full one leads to."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tabagent.catalog.models import Model
from tabagent.catalog.shape import Layer, Shape
from tabagent.config import Settings
from tabagent.engine.gate import place
from tabagent.engine.offload import OVERHEAD
from tabagent.engine.placement import LoadOptions, Placement
from tabagent.errors import InvalidRequest, NotAvailableHere, OutOfMemory
from tabagent.hardware.devices import Accelerators, Device, Kind
from tabagent.hardware.findings import Memory
from tests.live import LiveServer, eventually, fake_model

MB = 2**20
GB = 2**30
LAYERS = 32
SHAPE = Shape(
    width=1024,
    heads=8,
    feed_forward=4096,
    vocabulary=1000,
    layers=(Layer(weight_bytes=100 * MB, key_row=256, value_row=256),) * LAYERS,
    input_bytes=60 * MB,
    output_bytes=50 * MB,
    other_bytes=0,
)
MODEL = Model(id="x/y", path=Path("/x"), backend="gguf", context_length=4096, shape=SHAPE)
SETTINGS = Settings(prompt_cache_bytes=0, slots=1)


def card(index: int, free: int, kind: Any = "cuda") -> Device:
    return Device(kind, index, "a card", 24 * GB, free)


def machine(*devices: Device) -> Accelerators:
    return Accelerators(frozenset(device.kind for device in devices), devices)


ONE = machine(card(0, 20 * GB))
ROOMY = Memory(total_bytes=64 * GB, available_bytes=64 * GB)
TWO = machine(card(0, 3 * GB), card(1, GB))


def placed(found: Accelerators, available: int | None = 64 * GB, /, **options: Any) -> Placement:
    return place(MODEL, LoadOptions(**options), SETTINGS, available, found)


def test_a_card_with_room_takes_every_layer() -> None:
    found = placed(ONE)
    assert (found.device, found.n_gpu_layers, found.notes) == ("cuda:0", LAYERS + 1, ())
    (share,) = found.shares
    assert share.weights == LAYERS * 100 * MB + 50 * MB
    assert share.layers == LAYERS + 1
    assert found.estimate is not None
    assert (found.estimate.weights, found.estimate.cache) == (60 * MB, 0)


def test_what_a_card_has_no_room_for_stays_in_main_memory() -> None:
    found = placed(machine(card(0, 2 * GB)))
    assert 0 < found.n_gpu_layers < LAYERS
    (share,) = found.shares
    assert share.total <= 2 * GB
    assert share.total + 110 * MB > 2 * GB  # and not one layer less than fits
    assert found.estimate is not None
    total = LAYERS * 100 * MB + 110 * MB
    assert found.estimate.weights + share.weights == total
    assert f"{found.n_gpu_layers} of {LAYERS + 1} layers are on cuda:0" in found.notes[0]


def test_two_cards_share_as_their_memory_is() -> None:
    found = placed(TWO)
    assert found.device == "cuda:0+cuda:1"
    first, second = found.shares
    assert first.layers == pytest.approx(3 * second.layers, abs=3)
    assert first.total <= 3 * GB
    assert second.total <= GB


def test_how_two_cards_share_can_be_said() -> None:
    even = machine(card(0, 20 * GB), card(1, 20 * GB))
    found = placed(even, tensor_split=(3.0, 1.0))
    assert [share.layers for share in found.shares] == [25, 8]
    assert found.tensor_split == (3.0, 1.0)
    only = placed(even, main_gpu=1)
    assert (only.device, only.main_gpu, only.tensor_split) == ("cuda:1", 1, ())
    assert placed(even, device="cuda:1").device == "cuda:1"


def test_the_cpu_can_be_chosen_beside_a_card() -> None:
    for options in ({"device": "cpu"}, {"n_gpu_layers": 0}):
        found = placed(ONE, **options)
        assert (found.device, found.n_gpu_layers, found.shares) == ("cpu", 0, ())


def test_layers_that_were_asked_for_are_given_or_refused() -> None:
    assert placed(ONE, n_gpu_layers=5).n_gpu_layers == 5
    assert placed(ONE, n_gpu_layers=999).n_gpu_layers == LAYERS + 1
    with pytest.raises(OutOfMemory) as refused:
        placed(machine(card(0, GB)), n_gpu_layers=20)
    members = refused.value.members
    assert (members["device"], members["available_bytes"]) == ("cuda:0", GB)
    assert members["required_bytes"] > 19 * 100 * MB + OVERHEAD


def test_a_model_too_large_for_main_memory_fits_with_a_card() -> None:
    with pytest.raises(OutOfMemory):
        placed(Accelerators(), 2 * GB)
    assert placed(ONE, 2 * GB).n_gpu_layers == LAYERS + 1


def test_a_build_that_can_use_cards_of_unknown_memory_tries_all_layers() -> None:
    found = placed(Accelerators(frozenset({"vulkan"})))
    assert found.n_gpu_layers == LAYERS + 1
    assert "not known" in found.notes[0]


def test_a_build_for_cards_of_which_there_are_none_uses_the_processor() -> None:
    """As after moving an installation: the build can, and the machine has nothing for it."""
    cuda: frozenset[Kind] = frozenset({"cuda"})
    found = Accelerators(cuda, (), absent=cuda)
    assert placed(found).device == "cpu"
    with pytest.raises(NotAvailableHere, match="no cuda device is found; is its driver"):
        placed(found, device="cuda:0")
    both = Accelerators(frozenset({"cuda", "vulkan"}), (), absent=cuda)
    assert placed(both).device == "vulkan:0"


@pytest.mark.parametrize("wish", ["cuda", "cuda:0", "gpu", "rocm"])
def test_a_device_that_the_build_cannot_use_is_refused_with_what_to_install(wish: str) -> None:
    with pytest.raises(NotAvailableHere) as refused:
        placed(Accelerators(), device=wish)
    flag = "GGML_HIP" if wish == "rocm" else "GGML_CUDA"
    assert flag in refused.value.detail
    assert "pip install" in refused.value.members["why"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"device": "cuda:7"}, NotAvailableHere),
        ({"main_gpu": 3}, NotAvailableHere),
        ({"device": "toaster"}, InvalidRequest),
        ({"device": "cuda:x"}, InvalidRequest),
        ({"device": "cpu", "n_gpu_layers": 3}, InvalidRequest),
        ({"tensor_split": (1.0, 2.0, 3.0)}, InvalidRequest),
        ({"tensor_split": (0.0, 0.0)}, InvalidRequest),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        placed(TWO, **options)


def test_layers_without_a_card_are_refused() -> None:
    with pytest.raises(NotAvailableHere):
        placed(Accelerators(), n_gpu_layers=10)


def refusing(name: str, layers: int) -> Model:
    """A fake that has no memory for more than so many layers, whatever the arithmetic says."""
    return fake_model(name, f"/layers-{layers}", shape=SHAPE)


def test_a_card_that_is_full_at_load_gets_fewer_layers_and_that_is_said(tmp_path: Path) -> None:
    models = [refusing("fake/some", 20), refusing("fake/none", 0)]
    with LiveServer(tmp_path, extra=models, look=lambda: ONE, memory=lambda: ROOMY) as live:
        loaded = live.owner.post("/v1/models/load", json={"model": "fake/some"}).json()
        assert loaded["n_gpu_layers"] == 18  # 33, 24, 18
        assert loaded["device"] == "cuda:0"
        assert [note.split(",")[0] for note in loaded["notes"][:2]] == [
            "24 layers are on cuda:0 instead of 33",
            "18 layers are on cuda:0 instead of 24",
        ]
        assert live.loaded("fake/some")["notes"] == loaded["notes"]
        cpu, card_ = loaded["memory"]
        assert (cpu["device"], card_["device"], card_["layers"]) == ("cpu", "cuda:0", 18)
        assert live.answer("2", "fake/some") == "1 2 "
        # What was asked for is not changed; and a refusal leaves the next load possible.
        wish = {"model": "fake/none", "n_gpu_layers": 10, "n_ctx": 1024}
        problem = live.owner.post("/v1/models/load", json=wish).json()
        assert problem["code"] == "out-of-memory"
        assert live.answer("2", "fake/some") == "1 2 "


def test_steps_down_end_on_the_cpu(tmp_path: Path) -> None:
    with LiveServer(
        tmp_path, extra=[refusing("fake/none", 0)], look=lambda: ONE, memory=lambda: ROOMY
    ) as live:
        loaded = live.owner.post("/v1/models/load", json={"model": "fake/none"}).json()
        assert loaded["n_gpu_layers"] == 0
        assert loaded["notes"][-1].startswith("0 layers are on cuda:0 instead of 13")
        assert len(loaded["notes"]) == 4
        assert live.answer("2", "fake/none") == "1 2 "


def test_an_idle_model_leaves_a_card_to_the_next_and_a_busy_one_does_not(tmp_path: Path) -> None:
    models = [fake_model(name, shape=SHAPE) for name in ("fake/a", "fake/b")]
    taken = 0  # as the driver says

    def look() -> Accelerators:
        return machine(card(0, 8 * GB - taken))

    with LiveServer(tmp_path, extra=models, look=look, memory=lambda: ROOMY) as live:
        live.answer("1", "fake/a")
        assert live.loaded("fake/a")["n_gpu_layers"] == LAYERS + 1
        taken = 6 * GB
        with ThreadPoolExecutor() as pool:
            busy = pool.submit(live.answer, "15 sleep", "fake/a")
            eventually(lambda: live.loaded("fake/a").get("slots_used"))
            live.answer("1", "fake/b")
            assert busy.result().startswith("1 2 3")
        # Beside the busy one it got what was left, and says so.
        assert live.loaded("fake/b")["n_gpu_layers"] < LAYERS
        assert "there is no room for more" in live.loaded("fake/b")["notes"][0]
        live.owner.post("/v1/models/unload", json={"model": "fake/b"})
        live.answer("1", "fake/b")
        assert live.loaded("fake/a") == {}


def test_resources_show_the_cards(tmp_path: Path) -> None:
    model = fake_model("fake/card", shape=SHAPE)
    with LiveServer(tmp_path, extra=[model], look=lambda: ONE, memory=lambda: ROOMY) as live:
        live.answer("1", "fake/card")
        (device,) = live.client.get("/v1/resources").json()["devices"]
        assert (device["device"], device["free_bytes"]) == ("cuda:0", 20 * GB)
        assert device["models_bytes"] > LAYERS * 100 * MB
        layout = live.client.post("/v1/resources/estimate", json={"model": "fake/card"}).json()
        (share,) = layout["devices"]
        parts = ("weights", "kv_cache", "state", "compute", "driver")
        assert share["total_bytes"] == sum(share[f"{part}_bytes"] for part in parts)


def test_asking_for_the_device_that_it_has_is_no_conflict(tmp_path: Path) -> None:
    model = fake_model("fake/card", shape=SHAPE)
    with LiveServer(tmp_path, extra=[model], look=lambda: ONE, memory=lambda: ROOMY) as live:
        live.answer("1", "fake/card")
        for wish in ("auto", "gpu", "cuda", "cuda:0"):
            same = live.owner.post("/v1/models/load", json={"model": "fake/card", "device": wish})
            assert same.status_code == 200, same.text
        other = live.owner.post("/v1/models/load", json={"model": "fake/card", "device": "cpu"})
        assert other.json()["code"] == "conflict"


def test_a_device_missing_here_is_refused_over_http(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=[fake_model()], look=Accelerators) as live:
        wish = {"model": "fake/counter", "device": "cuda"}
        problem = live.owner.post("/v1/models/load", json=wish).json()
        assert (problem["status"], problem["code"]) == (501, "not-available-here")
        assert "GGML_CUDA" in problem["why"]
        asked = live.client.post("/v1/hardware/feasibility", json=wish).json()
        assert asked["code"] == "not-available-here"
