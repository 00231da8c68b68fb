"""A KV cache in parts: who runs sits side by side, who ended makes way and comes back."""

from __future__ import annotations

from functools import partial

import pytest

from tabagent.errors import InvalidRequest
from tabagent.worker.gguf.streams import WORTH_KEEPING, Streams
from tests.worker.gguf.conftest import Start
from tests.worker.gguf.driver import Engine
from tests.worker.tiny_mamba import write_mamba

EXACT = {"flash_attention": "off", "cache_type_k": "f32", "cache_type_v": "f32"}
TALKS = [f"{name} " + "in on an er the " * 6 for name in ("one", "two", "three", "four", "five")]


@pytest.fixture
def start(start: Start) -> Start:
    return partial(start, kv_layout="separate", **EXACT)


@pytest.fixture
def alone(start: Start) -> Engine:
    return start(slots=1, kept_bytes=0, kv_layout="shared")


def streams(engine: Engine) -> Streams:
    cells = engine.backend._cells
    assert isinstance(cells, Streams)
    return cells


def places(engine: Engine) -> list[int]:
    """Where those that run sit."""
    return sorted(streams(engine)._running())


def test_conversations_that_take_turns_are_all_remembered(start: Start, alone: Engine) -> None:
    engine = start(slots=2)
    talks, read = list(TALKS), dict.fromkeys(range(len(TALKS)), 1)
    for _ in range(3):
        for number, talk in enumerate(talks):
            told = engine.say(talk, max_tokens=6)
            assert told.usage.cached_tokens >= read[number] - 1
            read[number] = told.usage.prompt_tokens
            assert told.text == alone.say(talk, max_tokens=6).text
            talks[number] = f"{talk}{told.text} z"


def test_what_lies_outside_is_bounded_and_the_oldest_goes_first(start: Start) -> None:
    engine = start(slots=1)
    engine.say(TALKS[0], max_tokens=2)
    engine.say(TALKS[1], max_tokens=2)
    (parked,) = [kept for kept in streams(engine).kept if kept.state is not None]
    assert parked.state is not None
    engine = start(slots=1, kept_bytes=int(parked.state.nbytes * 2.5))
    for talk in TALKS:
        engine.say(talk, max_tokens=2)
    sizes = [kept.state.nbytes for kept in streams(engine).kept if kept.state is not None]
    assert len(sizes) == 2
    for number, remembered in ((3, True), (2, True), (0, False)):
        cached = engine.say(TALKS[number], max_tokens=2).usage.cached_tokens
        assert (cached > WORTH_KEEPING) is remembered


def test_without_memory_for_it_nothing_lies_outside(start: Start) -> None:
    engine = start(slots=1, kept_bytes=0)
    for talk in TALKS:
        engine.say(talk, max_tokens=2)
    assert [kept.state is None for kept in streams(engine).kept] == [True]


def test_who_comes_sits_beside_who_runs(start: Start) -> None:
    engine = start(slots=6)
    first = [engine.submit(talk, max_tokens=200) for talk in TALKS]
    engine.step()
    assert places(engine) == [0, 1, 2, 3, 4]
    for id_ in (first[0], first[2], first[4]):
        engine.halt(id_)
    assert places(engine) == [1, 3]
    engine.submit("another " + TALKS[0], max_tokens=200)
    engine.submit("and another " + TALKS[0], max_tokens=200)
    engine.step()
    engine.step()
    assert len(places(engine)) == 4
    assert max(places(engine)) - min(places(engine)) <= 4


def test_holes_between_those_that_run_change_no_word(start: Start, alone: Engine) -> None:
    engine = start(slots=6)
    ids = [engine.submit(talk, max_tokens=30) for talk in [*TALKS, "six"]]
    for _ in range(12):
        engine.step()
    for number in (1, 2, 4):
        engine.halt(ids[number])
    bridged = streams(engine).bridges(places(engine))
    assert [id_ for id_, _ in bridged] == [1, 2, 4]
    engine.run()
    for number in (0, 3):
        assert engine.told[ids[number]].text == alone.say(TALKS[number], max_tokens=30).text
    # What was kept in the holes is what it was.
    again = engine.say(TALKS[2], max_tokens=20)
    assert again.usage.cached_tokens == again.usage.prompt_tokens - 1
    assert again.text == alone.say(TALKS[2], max_tokens=20).text


def test_a_hole_that_is_full_is_not_bridged(start: Start) -> None:
    engine = start(slots=3, n_ctx=256)
    cells = streams(engine)
    assert cells.bridges([0, 2]) == [(1, 0)]
    full = engine.submit("!" * 250, max_tokens=6)
    engine.run()
    assert engine.told[full].cause in ("length", "context")
    (kept,) = cells.kept
    kept.done, kept.id = 256, 1  # as if it sat in the middle
    assert cells.bridges([0, 2]) == []
    kept.id = 0


def test_a_wide_gap_is_not_bridged(start: Start) -> None:
    cells = streams(start(slots=8))
    assert cells.bridges([0, 4]) == []
    assert cells.bridges([0, 3, 4]) == [(1, 0), (2, 0)]


def test_what_two_share_is_the_same_for_both(start: Start, alone: Engine) -> None:
    engine = start(slots=3)
    base = TALKS[0]
    first = engine.submit(base + "hello", max_tokens=40)
    for _ in range(8):
        engine.step()
    second = engine.submit(base + "what now", max_tokens=40)
    engine.run()
    assert engine.told[second].usage.cached_tokens > WORTH_KEEPING
    assert engine.told[first].text == alone.say(base + "hello", max_tokens=40).text
    assert engine.told[second].text == alone.say(base + "what now", max_tokens=40).text


def test_a_recurrent_model_cannot_be_kept_in_parts(
    start: Start, tmp_path_factory: pytest.TempPathFactory
) -> None:
    mamba = write_mamba(tmp_path_factory.mktemp("mamba") / "mamba.gguf")
    with pytest.raises(InvalidRequest) as refusal:
        start(mamba)
    assert refusal.value.param == "kv_layout"
    assert start(mamba, kv_layout="auto").facts["kv_layout"] == "shared"
