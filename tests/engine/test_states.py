"""What stays on disk of computed prompts."""

from __future__ import annotations

import os
from pathlib import Path

from tabagent.engine.states import States
from tests.live import LiveServer, eventually, fake_model
from tests.worker.tiny_gguf import write_model


def keep(states: States, name: str, size: int, age: int) -> Path:
    folder = states.path(fake_model(name))
    folder.mkdir(parents=True)
    file = folder / "0.state"
    file.write_bytes(bytes(size))
    os.utime(file, (age, age))
    return folder


def test_what_was_kept_longest_ago_goes_first(tmp_path: Path) -> None:
    states = States(tmp_path, limit_bytes=250)
    old, middle, new = (keep(states, f"x/{n}", 100, n) for n in (1, 2, 3))
    states.trim()
    assert (old.exists(), middle.exists(), new.exists()) == (False, True, True)
    states.trim()
    assert middle.exists()


def test_one_that_is_too_large_alone_goes_too_and_leaves_the_others(tmp_path: Path) -> None:
    states = States(tmp_path, limit_bytes=250)
    small, large = keep(states, "x/1", 100, 1), keep(states, "x/2", 300, 2)
    states.trim()
    assert (small.exists(), large.exists()) == (True, False)


def test_nothing_kept_is_nothing_to_trim(tmp_path: Path) -> None:
    States(tmp_path / "none", limit_bytes=0).trim()


def test_a_load_that_keeps_nothing_removes_what_an_earlier_one_kept(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    write_model(models / "tiny.gguf")
    load, unload = "/v1/models/load", "/v1/models/unload"
    with LiveServer(tmp_path, models_dir=models, keep_state_bytes=0) as live:
        wish = {"model": "local/tiny", "keep_state": True}
        live.owner.post(load, json=wish)
        live.answer("in on an er the " * 10, "local/tiny", max_tokens=2)
        live.owner.post(unload, json={"model": "local/tiny"})
        # More than the limit: gone at once.
        eventually(lambda: not list((tmp_path / "states").glob("*/*.state")))
    with LiveServer(tmp_path, models_dir=models) as live:
        live.owner.post(load, json=wish)
        live.answer("in on an er the " * 10, "local/tiny", max_tokens=2)
        live.owner.post(unload, json={"model": "local/tiny"})
        assert list((tmp_path / "states").glob("*/*.state"))
        live.answer("hi", "local/tiny", max_tokens=2)
        assert not list((tmp_path / "states").glob("*/*.state"))
