"""Models that nobody uses give their context back first, and nobody notices."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tabagent.config import Settings
from tabagent.engine.gate import place
from tabagent.engine.placement import LoadOptions
from tests.engine.test_memory import SHAPE, A, B, loaded, sized
from tests.live import LiveServer, eventually
from tests.worker.sized_gguf import Measures, write_sized
from tests.worker.tiny_gguf import write_model
from tests.worker.tiny_pooling import write_bert

MB = 2**20
PLACED = place(sized(A), LoadOptions(), Settings(prompt_cache_bytes=0))
assert PLACED.estimate is not None
WHOLE, ASLEEP = PLACED.bytes, PLACED.estimate.asleep
assert any(SHAPE.rows)


def test_an_unused_model_gives_its_context_back_and_then_goes(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=[sized(A)], sleep_s=0.1, keep_alive_s=1.0) as live:
        live.answer("1", A)
        row = eventually(lambda: (row := live.loaded(A)).get("asleep") and row)
        assert row["estimated_bytes"] == ASLEEP
        assert row["expires_at"] is not None
        assert live.client.get("/v1/resources").json()["models"][0]["asleep"]
        eventually(lambda: loaded(live) == [])


def test_the_next_request_wakes_it_unnoticed(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=[sized(A)], sleep_s=0.05) as live:
        for _ in range(3):
            assert live.answer("3", A) == "1 2 3 "
            pid = eventually(lambda: (row := live.loaded(A)).get("asleep") and row["pid"])
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: live.answer("3 sleep", A), range(4)))
        assert answers == ["1 2 3 "] * 4
        assert live.loaded(A)["pid"] == pid
        assert live.loaded(A)["restarts"] == 0


def test_a_model_at_work_and_a_pinned_one_stay_awake(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=[sized(A), sized(B)], sleep_s=0.05) as live:
        live.owner.post("/v1/models/load", json={"model": B, "pin": True})
        assert live.answer("9 sleep", A) == "1 2 3 4 5 6 7 8 9 "
        eventually(lambda: live.loaded(A)["asleep"])
        assert not live.loaded(B)["asleep"]


def test_contexts_make_room_before_models_go(tmp_path: Path) -> None:
    room = WHOLE + ASLEEP + MB
    with LiveServer(
        tmp_path, extra=[sized(A), sized(B)], memory_limit=room, prompt_cache_bytes=0
    ) as live:
        live.answer("1", A)
        live.answer("1", B)
        assert loaded(live) == [A, B]
        assert (live.loaded(A)["asleep"], live.loaded(B)["asleep"]) == (True, False)
        # And the other way about: who wakes sends the other one to sleep.
        assert live.answer("2", A) == "1 2 "
        assert (live.loaded(A)["asleep"], live.loaded(B)["asleep"]) == (False, True)


def test_both_wake_at_once_where_only_one_can_and_both_answer(tmp_path: Path) -> None:
    room = WHOLE + ASLEEP + MB
    with (
        LiveServer(
            tmp_path, extra=[sized(A), sized(B)], memory_limit=room, prompt_cache_bytes=0
        ) as live,
        ThreadPoolExecutor(8) as pool,
    ):
        models = (A, B) * 4
        answers = list(pool.map(lambda name: live.answer("3 sleep", name), models))
        assert answers == ["1 2 3 "] * 8


def test_a_worker_that_dies_asleep_is_started_again(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=[sized(A)], sleep_s=0.05) as live:
        live.answer("1", A)
        eventually(lambda: live.loaded(A)["asleep"])
        live.worker(A).kill()
        eventually(lambda: (row := live.loaded(A)).get("restarts") and row["state"] == "ready")
        assert not live.loaded(A)["asleep"]
        assert live.answer("2", A) == "1 2 "


def test_a_real_model_gives_real_memory_back_and_says_the_same_again(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    write_sized(models / "wide.gguf", Measures())
    write_model(models / "tiny.gguf")
    wish = {"model": "local/wide", "n_ctx": 4096, "slots": 4}  # 128 MiB of cache
    say = {"temperature": 0, "max_tokens": 20, "ignore_eos": True}
    with LiveServer(tmp_path, models_dir=models, sleep_s=0.3) as live:
        pid = live.owner.post("/v1/models/load", json=wish).json()["pid"]
        before = psutil.Process(pid).memory_info().rss
        text = live.answer("hello", "local/tiny", **say)
        eventually(lambda: live.loaded("local/wide")["asleep"])
        assert psutil.Process(pid).memory_info().rss < before - 110 * MB
        eventually(lambda: live.loaded("local/tiny")["asleep"])
        assert live.answer("hello", "local/tiny", **say) == text
        assert live.chat("hello", "local/wide", max_tokens=2).status_code in (200, 400)
        assert psutil.Process(pid).memory_info().rss > before - 20 * MB


def test_an_embedder_wakes_with_the_same_vectors_and_the_same_limit(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    write_bert(models / "bert.gguf")
    body = {"model": "local/bert", "input": ["the cat sat", "a green river"]}
    with LiveServer(tmp_path, models_dir=models, sleep_s=0.05) as live:
        first = live.client.post("/v1/embeddings", json=body).json()["data"]
        row = eventually(lambda: (row := live.loaded("local/bert")).get("asleep") and row)
        again = live.client.post("/v1/embeddings", json=body).json()["data"]
        assert [one["embedding"] for one in again] == [
            pytest.approx(one["embedding"]) for one in first
        ]
        assert live.loaded("local/bert")["n_ctx"] == row["n_ctx"]


def test_computed_prompts_outlive_a_nap_where_they_are_kept(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    write_model(models / "tiny.gguf")
    long = "in on an er the " * 10
    with LiveServer(tmp_path, models_dir=models, sleep_s=0.05, keep_state=True) as live:

        def cached() -> int:
            usage = live.chat(long, "local/tiny", max_tokens=2).json()["usage"]
            return int(usage["prompt_tokens_details"]["cached_tokens"])

        assert cached() == 0
        eventually(lambda: live.loaded("local/tiny")["asleep"])
        assert cached() > 32
