"""LoRA adapters, each request with its own."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tabagent.errors import ModelCorrupt
from tests.worker.gguf.conftest import Start
from tests.worker.gguf.driver import Engine
from tests.worker.tiny_lora import write_lora

EXACT = {"flash_attention": "off", "cache_type_k": "f32", "cache_type_v": "f32"}
PROMPT = "in on an er the " * 4


@pytest.fixture
def start(start: Start) -> Start:
    return partial(start, **EXACT)


@pytest.fixture
def engine(start: Start) -> Engine:
    return start()


@pytest.fixture
def one(tmp_path: Path) -> str:
    return str(write_lora(tmp_path / "one.gguf", seed=1))


@pytest.fixture
def two(tmp_path: Path) -> str:
    return str(write_lora(tmp_path / "two.gguf", seed=2))


def test_an_adapter_changes_what_is_said_by_its_scale(engine: Engine, one: str, two: str) -> None:
    said = {
        key: engine.say(PROMPT, max_tokens=30, loras=list(key)).text
        for key in [(), ((one, 1.0),), ((one, 2.0),), ((two, 1.0),), ((one, 1.0), (two, 1.0))]
    }
    assert len(set(said.values())) == 5
    assert engine.say(PROMPT, max_tokens=30, loras=[(one, 0.0)]).text == said[()]
    assert engine.say(PROMPT, max_tokens=30).text == said[()]


def test_requests_with_different_adapters_run_side_by_side(
    start: Start, engine: Engine, one: str, two: str
) -> None:
    alone = start(slots=1)
    kinds = [[], [(one, 1.0)], [(two, 1.0)], [], [(one, 1.0)], [(one, 0.5)]]
    ids = [engine.submit(PROMPT, max_tokens=40, loras=loras) for loras in kinds]
    engine.step()
    assert engine.slots_used == 6
    engine.run()
    for loras, id_ in zip(kinds, ids, strict=True):
        assert engine.told[id_].text == alone.say(PROMPT, max_tokens=40, loras=loras).text


def test_what_was_computed_with_one_adapter_is_not_used_with_another(
    engine: Engine, one: str, two: str
) -> None:
    engine.say(PROMPT, max_tokens=5, loras=[(one, 1.0)])
    assert engine.say(PROMPT, max_tokens=5).usage.cached_tokens == 0
    assert engine.say(PROMPT, max_tokens=5, loras=[(two, 1.0)]).usage.cached_tokens == 0
    assert engine.say(PROMPT, max_tokens=5, loras=[(one, 1.0)]).usage.cached_tokens > 10


def test_an_adapter_that_does_not_fit_is_refused_and_nothing_else_suffers(
    engine: Engine, tmp_path: Path
) -> None:
    running = engine.submit("hello", max_tokens=20)
    engine.step()
    wrong = str(write_lora(tmp_path / "wrong.gguf", width=32))
    for path in (wrong, str(tmp_path / "none.gguf")):
        with pytest.raises(ModelCorrupt) as refused:
            engine.submit("hello", loras=[(path, 1.0)])
        assert str(tmp_path) not in str(refused.value.members)
    engine.run()
    assert engine.told[running].usage.completion_tokens == 20
