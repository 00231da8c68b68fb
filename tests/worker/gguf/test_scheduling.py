"""Many requests in one context: the same words as alone, no slot lost, no cell leaked."""

from __future__ import annotations

import random
from functools import partial

import pytest

from tabagent import wire
from tests.live import eventually
from tests.worker.gguf.conftest import Start
from tests.worker.gguf.driver import Engine

PROMPTS = [
    "hello",
    "the the the",
    "in on an er",
    "!" * 100,
    "a longer prompt, with words of several kinds in it",
    "Größe 漢字 🦙",
    "0123456789" * 7,
    "z",
]


EXACT = {"flash_attention": "off", "cache_type_k": "f32", "cache_type_v": "f32"}
"""Whole floats and plain attention: what differs then is a mistake and no rounding."""


@pytest.fixture(params=["shared", "auto"])
def start(start: Start, request: pytest.FixtureRequest) -> Start:
    """In one cache for all, and in parts of it where each has room."""
    return partial(start, kv_layout=request.param, **EXACT)


@pytest.fixture
def engine(start: Start) -> Engine:
    return start()


@pytest.fixture
def alone(start: Start) -> Engine:
    """Runs one at a time, with room for one: what everything is compared with."""
    return start(slots=1)


def test_a_batch_says_what_each_would_say_alone(start: Start, alone: Engine) -> None:
    together = start(slots=8)
    ids = [together.submit(prompt, max_tokens=60) for prompt in PROMPTS]
    together.step()
    assert together.slots_used == 8
    together.run()
    for prompt, id_ in zip(PROMPTS, ids, strict=True):
        assert together.told[id_].text == alone.say(prompt, max_tokens=60).text


def test_who_joins_later_says_the_same_and_disturbs_nobody(start: Start, alone: Engine) -> None:
    together = start(slots=8)
    ids = []
    for prompt in PROMPTS:
        ids.append(together.submit(prompt, max_tokens=40))
        for _ in range(5):
            together.step()
    together.run()
    for prompt, id_ in zip(PROMPTS, ids, strict=True):
        assert together.told[id_].text == alone.say(prompt, max_tokens=40).text


def test_more_requests_than_slots_wait_in_order(start: Start) -> None:
    engine = start(slots=2)
    ids = [engine.submit(prompt, max_tokens=10) for prompt in PROMPTS]
    engine.step()
    counts = engine.backend.counts()
    assert (counts.slots_used, counts.waiting) == (2, 6)
    engine.run()
    assert list(engine.ended) == ids
    assert engine.backend.counts().slots_used == 0


# ---- cancelling ---------------------------------------------------------------------------------
def test_cancelling_frees_the_slot_at_once(start: Start) -> None:
    engine = start(slots=1)
    running, waiting = engine.submit("hello"), engine.submit("the the", max_tokens=5)
    for _ in range(3):
        engine.step()
    assert engine.backend.cancel(running, halt=False) == []
    assert engine.slots_used == 0
    engine.run()
    assert engine.told[running].end is None
    assert engine.told[waiting].usage.completion_tokens == 5


def test_cancelling_in_the_middle_of_a_prompt_frees_the_slot(start: Start, alone: Engine) -> None:
    engine = start(slots=1)
    scheduler = engine.backend._turns
    assert scheduler is not None
    scheduler._speed = 1.0  # prompts in the smallest chunks
    long = engine.submit("!" * 200)
    engine.step()
    assert engine.told[long].counts == []
    halted = engine.halt(long)
    assert (halted.cause, halted.usage.completion_tokens) == ("halted", 0)
    assert engine.slots_used == 0
    assert engine.say("abc", max_tokens=40).text == alone.say("abc", max_tokens=40).text
    again = engine.say("!" * 200, max_tokens=30)
    assert again.text == alone.say("!" * 200, max_tokens=30).text


def test_a_halted_request_tells_how_far_it_came(engine: Engine) -> None:
    id_ = engine.submit("hello")
    for _ in range(6):
        engine.step()
    halted = engine.halt(id_)
    assert halted.usage.completion_tokens == halted.counts[-1] == 6
    assert not engine.backend.busy


def test_cancelling_what_is_not_there_is_nothing(engine: Engine) -> None:
    assert engine.backend.cancel(99, halt=True) == []


def test_who_waits_can_be_cancelled(start: Start) -> None:
    engine = start(slots=1)
    engine.submit("hello", max_tokens=5)
    engine.step()
    waiting = engine.submit("hello")
    assert engine.halt(waiting).usage.completion_tokens == 0
    assert engine.backend.counts().waiting == 0


def test_no_slot_is_lost_in_a_storm_of_requests_and_cancels(start: Start, alone: Engine) -> None:
    draw = random.Random(1)
    engine = start(slots=3, kv_tokens=400)
    open_ids: list[int] = []
    for _ in range(400):
        if draw.random() < 0.4:
            prompt = draw.choice(PROMPTS)
            open_ids.append(engine.submit(prompt, max_tokens=draw.randint(1, 120)))
        if open_ids and draw.random() < 0.3:
            id_ = open_ids.pop(draw.randrange(len(open_ids)))
            engine.halt(id_) if draw.random() < 0.5 else engine.backend.cancel(id_, halt=False)
        engine.step()
    engine.run()
    assert all(engine.told[id_].end for id_ in open_ids)
    assert engine.slots_used == 0
    ids = [engine.submit(prompt, max_tokens=20) for prompt in PROMPTS]
    engine.step()
    assert engine.slots_used == 3
    engine.run()
    for prompt, id_ in zip(PROMPTS, ids, strict=True):
        assert engine.told[id_].text == alone.say(prompt, max_tokens=20).text


# ---- what slots remember ------------------------------------------------------------------------
def test_a_prompt_said_again_is_mostly_remembered_and_says_the_same(engine: Engine) -> None:
    first = engine.say("in on an er" * 5, max_tokens=40)
    second = engine.say("in on an er" * 5, max_tokens=40)
    assert first.usage.cached_tokens == 0
    assert second.usage.cached_tokens == second.usage.prompt_tokens - 1
    assert second.text == first.text


def test_a_conversation_goes_on_where_it_was(engine: Engine, alone: Engine) -> None:
    start = "in on an er" * 5
    first = engine.say(start, max_tokens=20)
    prompt = f"{start}{first.text} and then?"
    second = engine.say(prompt, max_tokens=40)
    assert second.usage.cached_tokens >= first.usage.prompt_tokens
    assert second.text == alone.say(prompt, max_tokens=40).text


def test_only_the_common_beginning_is_used(engine: Engine, alone: Engine) -> None:
    engine.say("x" * 60 + "one", max_tokens=30)
    second = engine.say("x" * 60 + "two", max_tokens=30)
    assert second.usage.cached_tokens == 60
    assert second.text == alone.say("x" * 60 + "two", max_tokens=30).text


def test_a_short_common_beginning_does_not_cost_another_conversation_its_memory(
    start: Start,
) -> None:
    engine = start(slots=2)
    first = "You are kind. " + "in on an er" * 12
    engine.say(first, max_tokens=3)
    engine.say("You are kind. " + "z" * 120, max_tokens=3)
    again = engine.say(first, max_tokens=3)
    assert again.usage.cached_tokens == again.usage.prompt_tokens - 1


def test_a_cancelled_prompt_is_remembered_as_far_as_it_was_computed(
    engine: Engine, alone: Engine
) -> None:
    id_ = engine.submit("in on an er" * 5)
    for _ in range(4):
        engine.step()
    engine.backend.cancel(id_, halt=False)
    again = engine.say("in on an er" * 5, max_tokens=40)
    assert again.usage.cached_tokens == again.usage.prompt_tokens - 1
    assert again.text == alone.say("in on an er" * 5, max_tokens=40).text


# ---- too little room ----------------------------------------------------------------------------
def test_with_too_little_room_everyone_still_says_the_same(start: Start, alone: Engine) -> None:
    engine = start(slots=8, kv_tokens=256)  # for one in full, or eight of 32
    ids = [engine.submit(prompt, max_tokens=90) for prompt in PROMPTS]
    preempted, before = 0, 0
    while engine.backend.busy:
        engine.step()
        counts = engine.backend.counts()
        preempted += counts.waiting > before
        before = counts.waiting
    assert preempted > 1
    for prompt, id_ in zip(PROMPTS, ids, strict=True):
        told = engine.told[id_]
        assert told.text == alone.say(prompt, max_tokens=90).text
        assert told.usage.completion_tokens == 90
        assert told.counts == sorted(set(told.counts))
    assert engine.slots_used == 0


def test_sampling_goes_on_undisturbed_after_losing_its_place(start: Start, alone: Engine) -> None:
    sampling = {"temperature": 1.0, "seed": 4, "repeat_penalty": 1.3}
    engine = start(slots=4, kv_tokens=256)
    ids = [engine.submit(p, max_tokens=100, sampling=sampling) for p in PROMPTS[:4]]
    engine.run()
    for prompt, id_ in zip(PROMPTS, ids, strict=False):
        assert engine.told[id_].text == alone.say(prompt, max_tokens=100, sampling=sampling).text


def test_full_contexts_one_after_another_fit_into_room_for_one(start: Start) -> None:
    engine = start(slots=4, kv_tokens=256)
    ids = [engine.submit(prompt) for prompt in PROMPTS[:4]]
    engine.run()
    assert {engine.told[id_].cause for id_ in ids} == {"context"}


def test_a_step_never_computes_more_than_the_context_takes_at_once(start: Start) -> None:
    engine = start(slots=2, kv_tokens=256)
    context, scheduler = engine.backend._context, engine.backend._turns
    assert scheduler is not None
    assert context.batch_size == 256
    scheduler._speed = 1e9  # chunks as large as they can be
    scheduler._fits = lambda sequence: True  # type: ignore[method-assign]  # more than there is room for
    ids = [engine.submit("!" * 200, max_tokens=3) for _ in range(2)]
    engine.run()
    assert all(engine.told[id_].usage.completion_tokens == 3 for id_ in ids)


def test_losing_a_place_costs_little_work(start: Start) -> None:
    engine = start(slots=4, kv_tokens=256)
    context = engine.backend._context
    computed, add = 0, context.add

    def counted(sequence: int, at: int, tokens: list[int], logits: int) -> int:
        nonlocal computed
        computed += len(tokens)
        return add(sequence, at, tokens, logits)

    context.add = counted  # type: ignore[method-assign,assignment]  # to count
    ids = [engine.submit("!" * 60, max_tokens=100) for _ in range(4)]
    engine.run()
    needed = sum(60 + engine.told[id_].usage.completion_tokens for id_ in ids)
    assert computed < 3 * needed


def test_who_waits_too_long_is_turned_away_and_nobody_else(start: Start) -> None:
    engine = start(slots=1, queue_wait_s=0.05)
    running = engine.submit("hello", max_tokens=200)
    engine.step()
    late = [engine.submit("the", max_tokens=5) for _ in range(2)]
    began = engine.told[running]

    def stepped() -> bool:
        engine.step()
        return all(engine.told[id_].end for id_ in late)

    eventually(stepped, 5)
    assert began.end is None
    for id_ in late:
        end = engine.told[id_].end
        assert isinstance(end, wire.Failed)
        assert (end.slug, end.members["retry_after"]) == ("queue-timeout", 5)
    engine.run()
    assert began.usage.completion_tokens == 200
    assert engine.say("the", max_tokens=5).usage.completion_tokens == 5


def test_a_free_slot_is_given_even_when_nobody_may_wait(start: Start) -> None:
    engine = start(slots=1, queue_wait_s=0.0)
    assert engine.say("the", max_tokens=5).usage.completion_tokens == 5


def test_who_lost_its_place_is_not_turned_away(start: Start) -> None:
    engine = start(slots=4, kv_tokens=256, queue_wait_s=0.0)
    ids = [engine.submit("!" * 30, max_tokens=150) for _ in range(4)]
    engine.run()
    assert all(engine.told[id_].usage.completion_tokens == 150 for id_ in ids)
