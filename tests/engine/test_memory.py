"""More models than memory: who waits, who goes, and that nobody's answer is cut."""

from __future__ import annotations

import contextlib
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from pydantic import ValidationError

from tabagent import wire
from tabagent.catalog.models import Model
from tabagent.catalog.shape import Layer, Shape
from tabagent.config import Settings
from tabagent.engine.gate import place
from tabagent.engine.loaded import Loaded
from tabagent.engine.placement import LoadOptions
from tabagent.engine.process import WorkerProcess
from tabagent.engine.room import Room
from tabagent.hardware.devices import Accelerators
from tabagent.hardware.findings import Memory
from tests.live import LiveServer, eventually, fake_model
from tests.worker.sized_gguf import Measures, write_sized

MB = 2**20
SHAPE = Shape(
    width=64,
    heads=4,
    feed_forward=128,
    vocabulary=1000,
    layers=(Layer(weight_bytes=50 * MB, key_row=64, value_row=64),) * 2,
    input_bytes=0,
    output_bytes=0,
    other_bytes=0,
)
A, B, C = "fake/a", "fake/b", "fake/c"


def sized(name: str, **facts: Any) -> Model:
    return fake_model(name, shape=SHAPE, **facts)


SIZE = place(sized(A), LoadOptions(), Settings(prompt_cache_bytes=0)).bytes
"""What one of them takes."""


def server(tmp_path: Path, *, room: float, **settings: Any) -> LiveServer:
    """Three models of one size, and memory for `room` of them."""
    settings = {"memory_limit": int(SIZE * room), "prompt_cache_bytes": 0} | settings
    return LiveServer(tmp_path, extra=[sized(name) for name in (A, B, C)], **settings)


def loaded(live: LiveServer) -> list[str]:
    rows = live.client.get("/v1/models/loaded").json()["data"]
    return sorted(row["model"] for row in rows)


def test_thirty_requests_for_three_models_of_which_two_fit_are_all_answered(tmp_path: Path) -> None:
    with server(tmp_path, room=2.2) as live:
        most, done = [0], threading.Event()

        def watch() -> None:
            while not done.wait(0.005):
                use = live.client.get("/v1/resources").json()
                most.append(sum(model["estimated_bytes"] for model in use["models"]))

        watcher = threading.Thread(target=watch)
        watcher.start()
        with ThreadPoolExecutor(30) as pool:
            answers = list(
                pool.map(lambda n: live.answer("5 sleep", model=(A, B, C)[n % 3]), range(30))
            )
        done.set()
        watcher.join()
        assert answers == ["1 2 3 4 5 "] * 30
        assert SIZE < max(most) <= int(live.settings.memory_limit)


def test_real_models_take_turns_within_the_limit_as_measured(tmp_path: Path) -> None:
    """Thirty requests for three models of which one and a half fit."""
    models = tmp_path / "models"
    models.mkdir()
    names = [f"local/m{n}" for n in range(3)]
    for n in range(3):
        write_sized(models / f"m{n}.gguf", Measures(layers=8, words=1000 * n, context=1024))
    settings: dict[str, Any] = {"models_dir": models, "slots": 2, "prompt_cache_bytes": 0}
    with LiveServer(tmp_path, **settings) as live:
        sizes = [
            live.client.post("/v1/resources/estimate", json={"model": name}).json()["memory"]
            for name in names
        ]
    limit = int(max(size["total_bytes"] for size in sizes) * 1.5)
    with LiveServer(tmp_path, memory_limit=limit, **settings) as live:
        peak, done = [0], threading.Event()
        gateway = psutil.Process()

        def watch() -> None:
            while not done.wait(0.01):
                peak.append(sum(_resident(child) for child in _workers(gateway)))

        watcher = threading.Thread(target=watch)
        watcher.start()

        def ask(n: int) -> tuple[int, int]:
            body = {"model": names[n % 3], "prompt": "!" * (100 + n), "max_tokens": 3}
            reply = live.client.post("/v1/completions", json=body | {"ignore_eos": True})
            assert reply.status_code == 200, reply.text
            usage = reply.json()["usage"]
            return usage["prompt_tokens"] - n, usage["completion_tokens"]

        with ThreadPoolExecutor(30) as pool:
            answers = list(pool.map(ask, range(30)))
        done.set()
        watcher.join()
    assert len(set(answers)) == 1
    assert answers[0][1] == 3
    assert sizes[0]["total_bytes"] * 0.8 < max(peak) <= limit


def _workers(gateway: psutil.Process) -> list[psutil.Process]:
    return [child for child in gateway.children() if "tabagent.worker" in _command(child)]


def _command(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _resident(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def test_a_load_that_fails_takes_no_room_from_the_next(tmp_path: Path) -> None:
    bad = [fake_model(f"fake/{kind}", f"/{kind}", shape=SHAPE) for kind in ("corrupt", "die")]
    with LiveServer(
        tmp_path, extra=[sized(A), *bad], memory_limit=int(SIZE * 1.2), prompt_cache_bytes=0
    ) as live:
        for model in bad:
            assert live.chat("1", model.id).status_code in (422, 503)
            assert live.client.get("/v1/resources").json()["free_for_models_bytes"] == (
                live.settings.memory_limit
            )
        assert live.answer("1", A) == "1 "


def test_a_worker_killed_while_loading_gives_its_room_back(tmp_path: Path) -> None:
    slow = fake_model("fake/slow", "/slow", shape=SHAPE)
    with (
        LiveServer(
            tmp_path, extra=[slow, sized(A)], memory_limit=int(SIZE * 1.2), prompt_cache_bytes=0
        ) as live,
        ThreadPoolExecutor() as pool,
    ):
        first = pool.submit(live.chat, "1", "fake/slow")
        live.worker("fake/slow").kill()
        second = pool.submit(live.answer, "2", A)
        assert first.result().json()["code"] == "worker-crashed"
        assert second.result() == "1 2 "


def test_the_limit_can_be_a_share_of_this_machine(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=[sized(A)], memory_limit="50%") as live:
        use = live.client.get("/v1/resources").json()
        assert use["limit_bytes"] == use["total_bytes"] // 2
        assert live.answer("1", A) == "1 "
    for nonsense in ("0%", "101%", "half", "-5", "5GB"):
        with pytest.raises(ValidationError):
            Settings(memory_limit=nonsense)


def test_a_limit_makes_no_memory_where_the_machine_has_less(tmp_path: Path) -> None:
    half = Memory(total_bytes=SIZE, available_bytes=SIZE // 2)
    with LiveServer(
        tmp_path, extra=[sized(A)], memory_limit=SIZE * 10, memory=lambda: half
    ) as live:
        problem = live.chat("1", A).json()
        assert problem["code"] == "out-of-memory"
        assert problem["available_bytes"] < SIZE // 2


def test_weights_that_are_mapped_are_counted_although_the_system_calls_them_free() -> None:
    """Pages of files count as available: a second model must not be given the first one's."""
    free = Memory(total_bytes=2 * SIZE, available_bytes=2 * SIZE)
    entry = Loaded(sized(A), LoadOptions(), place(sized(A), LoadOptions(), Settings()), 300.0)
    entry.reserved_bytes = SIZE
    process = types.SimpleNamespace(beat=wire.Beat(resident_bytes=SIZE, mapped_bytes=SIZE))
    entry.process = cast(WorkerProcess, process)

    async def nothing(_: Loaded) -> None:
        pass

    room = Room(Settings(), lambda: free, Accelerators, lambda: [entry], nothing, nothing)
    assert room.budget()[1] <= SIZE
    process.beat = wire.Beat(resident_bytes=SIZE, mapped_bytes=0)  # read into memory instead
    assert SIZE < room.budget()[1] <= 2 * SIZE


def test_a_model_that_answers_is_waited_for_and_not_cut(tmp_path: Path) -> None:
    with server(tmp_path, room=1.2) as live, ThreadPoolExecutor() as pool:
        first = pool.submit(live.answer, "12 sleep", A)
        eventually(lambda: live.loaded(A).get("slots_used"))
        second = pool.submit(live.answer, "2", B)
        assert first.result() == "1 2 3 4 5 6 7 8 9 10 11 12 "
        assert second.result() == "1 2 "
        assert loaded(live) == [B]


def test_who_waits_for_memory_too_long_is_told_what_is_missing(tmp_path: Path) -> None:
    with server(tmp_path, room=1.2, queue_wait_s=0.3) as live, ThreadPoolExecutor() as pool:
        first = pool.submit(live.answer, "30 sleep", A)
        eventually(lambda: live.loaded(A).get("slots_used"))
        problem = live.chat("2", B).json()
        assert problem["code"] == "out-of-memory"
        assert problem["required_bytes"] > problem["available_bytes"]
        assert first.result().startswith("1 2 3 ")
        assert live.answer("2", B) == "1 2 "


def test_the_longest_unused_goes_and_a_pinned_one_stays(tmp_path: Path) -> None:
    with server(tmp_path, room=2.2) as live:
        assert live.owner.post("/v1/models/load", json={"model": A, "pin": True}).json()["pinned"]
        live.answer("1", B)
        live.answer("1", C)
        assert loaded(live) == [A, C]
        live.answer("1", A)
        live.answer("1", B)
        assert loaded(live) == [A, B]
        live.owner.post("/v1/models/load", json={"model": A, "pin": False})
        live.answer("1", B)
        live.answer("1", C)
        assert loaded(live) == [B, C]


def test_nothing_can_make_room_among_pinned_models(tmp_path: Path) -> None:
    with server(tmp_path, room=1.2, queue_wait_s=0.2) as live:
        live.owner.post("/v1/models/load", json={"model": A, "pin": True})
        began = time.monotonic()
        assert live.chat("1", B).json()["code"] == "out-of-memory"
        assert time.monotonic() - began < 2
        assert live.answer("1", A) == "1 "


def test_a_model_that_nobody_uses_goes_when_its_time_is_up(tmp_path: Path) -> None:
    with server(tmp_path, room=4, keep_alive_s=0.3) as live:
        live.answer("1", A)
        assert live.loaded(A)["expires_at"] is not None
        live.answer("1", B, keep_alive="1h")
        eventually(lambda: loaded(live) == [B])
        assert live.answer("2", A) == "1 2 "


@pytest.mark.parametrize(("wish", "stays"), [(0, False), ("0s", False), (-1, True), ("-1", True)])
def test_a_request_says_how_long_its_model_stays(tmp_path: Path, wish: Any, stays: bool) -> None:
    with server(tmp_path, room=4) as live:
        live.answer("1", A, keep_alive=wish)
        if stays:
            assert live.loaded(A)["expires_at"] is None
            time.sleep(0.1)
            assert loaded(live) == [A]
        else:
            eventually(lambda: loaded(live) == [])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "1"}),
        ("/v1/responses", {"input": "1"}),
    ],
)
def test_every_way_to_generate_says_how_long_its_model_stays(
    tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    with server(tmp_path, room=4) as live:
        answer = live.client.post(path, json=body | {"model": A, "keep_alive": 0})
        assert answer.status_code == 200, answer.text
        eventually(lambda: loaded(live) == [])


def test_a_model_stays_while_it_answers_however_short_its_time(tmp_path: Path) -> None:
    with server(tmp_path, room=4, keep_alive_s=0) as live:
        with ThreadPoolExecutor() as pool:
            answers = [pool.submit(live.answer, f"{n} sleep", A) for n in (2, 9)]
            assert answers[1].result() == "1 2 3 4 5 6 7 8 9 "
        eventually(lambda: loaded(live) == [])


@pytest.mark.parametrize("wish", ["soon", "5 minutes", True, [], "m", ""])
def test_nonsense_is_no_time(tmp_path: Path, wish: Any) -> None:
    with server(tmp_path, room=4) as live:
        problem = live.chat("1", A, keep_alive=wish).json()
        assert problem["code"] == "invalid-request"
        assert problem["errors"][0]["pointer"] == "/keep_alive"


def test_a_model_that_never_fits_is_refused_before_a_process_starts(tmp_path: Path) -> None:
    with server(tmp_path, room=0.5) as live:
        for _ in range(2):
            problem = live.chat("1", A).json()
            assert (problem["status"], problem["code"]) == (507, "out-of-memory")
            least = place(sized(A), LoadOptions(slots=1), Settings(prompt_cache_bytes=0)).bytes
            assert problem["required_bytes"] == pytest.approx(least, rel=0.2)
            assert problem["available_bytes"] == live.settings.memory_limit
            assert problem["largest_context"] is None
        assert loaded(live) == []


def test_less_room_is_given_and_said_where_that_is_enough(tmp_path: Path) -> None:
    wide = Shape(
        **{name: getattr(SHAPE, name) for name in SHAPE.__slots__}
        | {"layers": (Layer(weight_bytes=MB, key_row=4096, value_row=4096),) * 4}
    )
    model = fake_model(A, shape=wide)
    one = place(model, LoadOptions(slots=1, n_ctx=1024), Settings(prompt_cache_bytes=0)).bytes + MB
    with LiveServer(tmp_path, extra=[model], memory_limit=one, prompt_cache_bytes=0) as live:
        live.answer("1", A)
        row = live.loaded(A)
        assert row["n_ctx"] == 1024
        assert "1024 tokens instead of 4096" in row["notes"][0]
        asked = live.owner.post(
            "/v1/models/load", json={"model": A, "n_ctx": 4096, "force_reload": True}
        )
        assert asked.json()["code"] == "out-of-memory"
        assert asked.json()["largest_context"] == 1024
        assert "a context of 1024 tokens would fit" in asked.json()["detail"]


def test_feasibility_says_what_a_load_would_do(tmp_path: Path) -> None:
    with server(tmp_path, room=1.2) as live:

        def ask(**more: Any) -> dict[str, Any]:
            reply = live.client.post("/v1/hardware/feasibility", json={"model": B, **more})
            assert reply.status_code == 200, reply.text
            found: dict[str, Any] = reply.json()
            return found

        assert (ask()["fits"], ask()["needs_eviction"]) == (True, False)
        live.answer("1", A)
        assert (ask()["fits"], ask()["needs_eviction"]) == (True, True)
        no = ask(n_ctx=2**20)
        assert not no["fits"]
        assert no["reason"]
        assert no["largest_context"] > 4096
        whole = live.client.post("/v1/resources/estimate", json={"model": B}).json()
        memory = whole["memory"]
        parts = [count for name, count in memory.items() if name != "total_bytes"]
        assert memory["total_bytes"] == sum(parts) == SIZE
        both = live.client.post("/v1/resources/compatibility", json={"models": [A, B]}).json()
        assert (both["fits"], both["required_bytes"]) == (False, 2 * SIZE)


def test_what_a_model_that_is_not_here_would_take_is_guessed_from_its_size(tmp_path: Path) -> None:
    with server(tmp_path, room=60) as live:

        def ask(path: str = "/v1/hardware/feasibility", **more: Any) -> dict[str, Any]:
            reply = live.client.post(path, json=more)
            found: dict[str, Any] = reply.json()
            return found

        small = ask(size_bytes=700 * MB)
        assert (small["fits"], small["model"]) == (True, "as described")
        large = ask(parameters=70_000_000_000)
        assert (large["fits"], large["verdict"]) == (False, "no")
        assert 40e9 < large["required_bytes"] < 60e9
        assert ask(parameters=70_000_000_000, bits_per_weight=16)["required_bytes"] > 140e9
        measures = {
            "layers": 32, "width": 4096, "heads": 32, "kv_heads": 8,
            "feed_forward": 14336, "vocabulary": 128256,
        }  # fmt: skip
        known = ask(
            "/v1/resources/estimate",
            size_bytes=4_900_000_000,
            measures=measures,
            n_ctx=8192,
            slots=1,
        )
        assert known["memory"]["kv_cache_bytes"] == 8192 * 32 * 2 * 8 * 128 * 2
        assert known["memory"]["weights_bytes"] == 4_900_000_000
        for nonsense in (
            {"model": A, "size_bytes": 5},
            {"measures": measures},
            {"bits_per_weight": 4.0},
        ):
            assert ask(**nonsense)["code"] == "invalid-request"


def test_a_verdict_on_many_models_takes_little_time(tmp_path: Path) -> None:
    with server(tmp_path, room=2.2) as live:
        room = live.gateway.supervisor.room
        live.answer("1", A)
        began = time.monotonic()
        judge = room.judge()
        verdicts = [judge(sized(f"x/{n}")).fits for n in range(500)]
        assert time.monotonic() - began < 1
        assert verdicts == ["yes"] * 500
        assert room.fits(10**9).fits == "no"
        assert room.fits(10**6).required_bytes > 10**6
