"""What was computed outlives a reload where that is asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.worker.gguf.conftest import Start
from tests.worker.tiny_gguf import write_model
from tests.worker.tiny_mamba import write_mamba

SYSTEM = "in on an er the " * 10


@pytest.mark.parametrize("write", [write_model, write_mamba], ids=["llama", "mamba"])
def test_a_reload_goes_on_where_it_was(start: Start, tmp_path: Path, write: type[object]) -> None:
    model, folder = write(tmp_path / "model.gguf"), tmp_path / "größe state"  # type: ignore[call-arg]
    before = start(model, state_path=str(folder))
    assert before.facts["restored_tokens"] == 0
    first = before.say(SYSTEM, max_tokens=20)
    before.say("something else " * 8, max_tokens=20)
    before.close()
    after = start(model, state_path=str(folder))
    assert after.facts["restored_tokens"] > 2 * len(SYSTEM) // 4
    again = after.say(SYSTEM, max_tokens=20)
    assert again.usage.cached_tokens > first.usage.prompt_tokens // 2
    assert again.text == first.text
    assert list(folder.iterdir()) == []  # taken up once


def test_nothing_is_written_unless_asked(start: Start, tiny: Path, tmp_path: Path) -> None:
    engine = start(tiny)
    engine.say(SYSTEM, max_tokens=5)
    engine.close()
    assert list(tmp_path.iterdir()) == []


def test_what_another_model_computed_is_not_used(start: Start, tmp_path: Path) -> None:
    model, folder = write_model(tmp_path / "model.gguf"), tmp_path / "state"
    before = start(model, state_path=str(folder))
    before.say(SYSTEM, max_tokens=20)
    before.close()
    write_model(model, seed=8)
    after = start(model, state_path=str(folder))
    assert after.facts["restored_tokens"] == 0
    assert after.say(SYSTEM, max_tokens=20).usage.cached_tokens == 0


@pytest.mark.parametrize("harm", ["cut", "lost", "noise", "no list"])
def test_a_damaged_file_costs_the_speed_and_nothing_else(
    start: Start, tiny: Path, tmp_path: Path, harm: str
) -> None:
    before = start(tiny, state_path=str(tmp_path))
    text = before.say(SYSTEM, max_tokens=20).text
    before.close()
    file = tmp_path / "0.state"
    match harm:
        case "cut":
            os.truncate(file, file.stat().st_size // 2)
        case "lost":
            file.unlink()
        case "noise":
            file.write_bytes(b"\xff" * file.stat().st_size)
        case _:
            (tmp_path / "list.json").write_text("{")
    after = start(tiny, state_path=str(tmp_path))
    assert after.facts["restored_tokens"] == 0
    assert after.say(SYSTEM, max_tokens=20).text == text
    assert after.backend.counts().slots_used == 0
