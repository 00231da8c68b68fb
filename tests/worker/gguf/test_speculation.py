"""Guessing ahead: the same text in fewer steps."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tabagent.app import GUIDE
from tabagent.errors import InvalidRequest
from tabagent.worker.gguf import speculation
from tests.worker.gguf.conftest import Start
from tests.worker.gguf.driver import Engine
from tests.worker.tiny_gguf import write_model
from tests.worker.tiny_mamba import write_mamba

EXACT = {"flash_attention": "off", "cache_type_k": "f32", "cache_type_v": "f32"}
REPETITIVE = "one two three four five six seven " * 4
PROMPTS = [REPETITIVE, "hello hello hello hello", "in on an er the", "zzzzzzzzzz", "Größe 漢字"]


@pytest.fixture
def start(start: Start) -> Start:
    return partial(start, **EXACT)


def ways(tiny: Path) -> list[dict[str, Any]]:
    return [
        {"speculation": "ngram", "draft_tokens": 8},
        {"speculation": "draft", "draft_tokens": 4, "draft_path": str(tiny)},
    ]


@pytest.mark.parametrize("way", [0, 1], ids=["ngram", "draft"])
@pytest.mark.parametrize(
    "sampling",
    [{}, {"temperature": 1.2, "seed": 3}, {"repeat_penalty": 1.3, "seed": 1, "temperature": 0.7}],
    ids=["greedy", "seeded", "penalised"],
)
def test_the_text_is_the_same_with_and_without(
    start: Start, tiny: Path, way: int, sampling: dict[str, Any]
) -> None:
    plain, guessing = start(), start(**ways(tiny)[way])
    ids = [guessing.submit(prompt, max_tokens=60, sampling=sampling) for prompt in PROMPTS]
    guessing.run()
    for prompt, id_ in zip(PROMPTS, ids, strict=True):
        told = plain.say(prompt, max_tokens=60, sampling=sampling)
        assert guessing.told[id_].text == told.text
        assert guessing.told[id_].usage.completion_tokens == 60


def test_what_repeats_itself_takes_fewer_steps(start: Start) -> None:
    engine = start(speculation="ngram", draft_tokens=8)
    told = engine.say("hello", max_tokens=100, sampling={"logit_bias": [("z", 1e3)]})
    assert told.text == "z" * 100
    assert engine.backend.counts().steps < 40
    usage = told.usage
    assert usage.accepted_tokens > 60
    assert usage.drafted_tokens >= usage.accepted_tokens


def test_a_draft_model_that_knows_the_answer_is_believed(
    start: Start, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speculation, "SURE", 0.0)  # random weights are sure of nothing
    engine = start(speculation="draft", draft_tokens=4, draft_path=str(tiny))
    usage = engine.say("the hello", max_tokens=100).usage
    assert usage.accepted_tokens > 0
    assert usage.accepted_tokens > 0.9 * usage.drafted_tokens  # it is the model, in half floats
    assert engine.backend.counts().steps < 30


def test_guessing_ends_where_the_caller_said(start: Start) -> None:
    engine = start(speculation="ngram", draft_tokens=16)
    bias = {"logit_bias": [("z", 1e3)]}
    for most in range(1, 30):
        assert engine.say("z" * 30, max_tokens=most, sampling=bias).text == "z" * most
    assert engine.say("z" * 30, max_tokens=50, stop=["zzzz"], sampling=bias).text == ""


def test_cancels_and_pressure_lose_nothing(start: Start, tiny: Path) -> None:
    plain = start(slots=1)
    for way in ways(tiny):
        engine = start(slots=3, kv_tokens=300, **way)
        ids = [engine.submit(PROMPTS[n % 5], max_tokens=50) for n in range(12)]
        for step in range(30):
            engine.step()
            if step % 10 == 9:
                engine.backend.cancel(ids.pop(0), halt=False)
        engine.run()
        assert engine.slots_used == 0
        for prompt in PROMPTS:
            said = engine.say(prompt, max_tokens=40).text
            assert said == plain.say(prompt, max_tokens=40).text


def test_a_draft_model_of_another_vocabulary_is_refused(start: Start) -> None:
    with pytest.raises(InvalidRequest, match="vocabulary"):
        start(speculation="draft", draft_tokens=4, draft_path=str(GUIDE))


def test_a_recurrent_model_cannot_guess(start: Start, tmp_path: Path, tiny: Path) -> None:
    mamba = write_mamba(tmp_path / "mamba.gguf")
    with pytest.raises(InvalidRequest, match="recurrent"):
        start(mamba, speculation="ngram", draft_tokens=4)
    with pytest.raises(InvalidRequest, match="recurrent"):
        start(tiny, speculation="draft", draft_tokens=4, draft_path=str(mamba))


def test_another_model_of_the_same_vocabulary_only_costs_time(start: Start, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other.gguf", seed=11)
    engine: Engine = start(speculation="draft", draft_tokens=4, draft_path=str(other))
    assert (
        engine.say("the hello", max_tokens=60).text == start().say("the hello", max_tokens=60).text
    )
