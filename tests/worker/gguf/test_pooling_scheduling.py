"""Many requests for vectors at once: fair, nothing lost, nobody's numbers in another's answer."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tabagent import wire
from tabagent.errors import InvalidRequest
from tabagent.worker.pooling.scheduler import Job, PoolingScheduler
from tests.live import eventually
from tests.worker.gguf.conftest import Open
from tests.worker.gguf.pooling_driver import Pooler, as_rows, cosines

MANY = [f"the cat {'sat ' * (n % 30)}" for n in range(256)]
LONG = "the dog is on a mat. " * 45  # more than half of the context in Qwen's tokens


def scheduler_of(pooler: Pooler) -> PoolingScheduler:
    found = pooler.backend._scheduler
    assert found is not None
    return found


def check_empty(pooler: Pooler) -> None:
    """Nothing runs, and every place is free again."""
    scheduler = scheduler_of(pooler)
    assert not pooler.backend.busy
    assert scheduler._taken == 0
    assert sorted(scheduler._free) == list(range(scheduler._context.sequences))


@pytest.mark.parametrize(("name", "pooling"), [("bert", "mean"), ("qwen", "last")])
def test_one_text_does_not_wait_for_the_256_of_another(
    open_: Open, name: str, pooling: wire.Pooling
) -> None:
    pooler = open_(name, pooling)
    many = pooler.embed(MANY)
    pooler.step()
    one = pooler.embed(["green tree"])
    pooler.step()
    assert list(pooler.ended) == [one]
    pooler.run()
    assert list(pooler.ended) == [one, many]


def test_a_request_without_an_input_ends_at_once(bert: Pooler) -> None:
    scheduler = scheduler_of(bert)
    nothing: dict[str, Any] = {"spans": []}
    scheduler.submit(Job(1, [], lambda rows: nothing, lambda index, why: InvalidRequest(why)))
    assert scheduler.step() == [wire.Done(1, nothing)]
    check_empty(bert)


def test_many_requests_of_one_text_each_share_batches(bert: Pooler) -> None:
    ids = [bert.embed([text]) for text in MANY[:60]]
    before = scheduler_of(bert).steps
    bert.run()
    assert scheduler_of(bert).steps - before < 8
    found = [as_rows(bert.result(id_)["vectors"])[0] for id_ in ids]
    together = bert.vectors(MANY[:60])
    assert min(cosines(a, b) for a, b in zip(found, together, strict=True)) > 0.99999


def test_the_texts_of_one_request_share_batches(bert: Pooler) -> None:
    id_ = bert.embed(["the cat sat"] * 100)  # 500 tokens
    bert.run()
    assert len(bert.result(id_)["vectors"]) == 100
    assert scheduler_of(bert).steps < 8


def test_a_long_text_has_its_turn_among_short_ones(bert: Pooler) -> None:
    bert.embed(MANY)
    bert.step()
    long = bert.embed(["dog " * 1000])
    for _ in range(3):
        bert.embed(MANY)
        bert.step()
    assert long in bert.ended


@pytest.mark.parametrize(("name", "pooling"), [("bert", "mean"), ("qwen", "last")])
def test_a_cancel_frees_everything_at_once(open_: Open, name: str, pooling: wire.Pooling) -> None:
    pooler = open_(name, pooling)
    expected = pooler.vectors([LONG, "a"])
    scheduler_of(pooler)._speed = 1.0  # the smallest batches
    running, waiting = pooler.embed([LONG] * 8), pooler.embed(["the cat"])
    pooler.step()
    assert pooler.backend.counts().slots_used > 0
    assert pooler.backend.cancel(running, halt=False) == []
    assert pooler.backend.cancel(waiting, halt=False) == []
    assert pooler.backend.counts().slots_used == pooler.backend.counts().waiting == 0
    check_empty(pooler)
    assert pooler.backend.cancel(99, halt=False) == []
    assert cosines(pooler.vectors([LONG, "a"]), expected).min() > 0.99999
    assert set(pooler.ended).isdisjoint({running, waiting})


def test_long_texts_share_a_context_that_holds_one_and_a_half(qwen: Pooler) -> None:
    expected = qwen.vectors([LONG])[0]
    ids = [qwen.embed([LONG, "the cat", LONG]) for _ in range(5)]
    qwen.run()
    for id_ in ids:
        found = as_rows(qwen.result(id_)["vectors"])
        assert cosines(found[0], expected) > 0.99999
        assert cosines(found[2], expected) > 0.99999
    check_empty(qwen)


def test_nothing_is_lost_in_a_storm_of_requests_and_cancels(open_: Open) -> None:
    draw = random.Random(2)
    for name, pooling in (("bert", "mean"), ("qwen", "last")):
        pooler = open_(name, pooling)
        alone = dict(zip(MANY, pooler.vectors(MANY), strict=True))
        alone |= dict(zip([LONG], pooler.vectors([LONG]), strict=True))
        open_ids: dict[int, list[str]] = {}
        for _ in range(150):
            if draw.random() < 0.5:
                texts = draw.choices([*MANY, LONG], k=draw.choice([1, 1, 3, 20]))
                open_ids[pooler.embed(texts)] = texts
            if open_ids and draw.random() < 0.2:
                id_ = draw.choice(list(open_ids))
                if id_ not in pooler.ended:
                    pooler.backend.cancel(id_, halt=False)
                    del open_ids[id_]
            scheduler_of(pooler)._speed = draw.choice([1.0, 300.0, 1e6])
            pooler.step()
        pooler.run()
        assert set(pooler.ended) >= set(open_ids)
        for id_, texts in open_ids.items():
            found = as_rows(pooler.result(id_)["vectors"])
            for text, vector in zip(texts, found, strict=True):
                assert cosines(vector, alone[text]) > 0.99999
        check_empty(pooler)


def test_who_waits_too_long_is_turned_away_and_nobody_else(open_: Open) -> None:
    pooler = open_("bert", "mean", queue_wait_s=0.05)
    scheduler_of(pooler)._speed = 1.0
    first = pooler.embed(["dog " * 1000])
    late = [pooler.embed(["dog " * 900]) for _ in range(2)]
    scheduler_of(pooler)._jobs[1].queued_at -= 1.0
    pooler.step()
    assert isinstance(pooler.ended[first], wire.Done)
    refused = pooler.ended[late[0]]
    assert isinstance(refused, wire.Failed)
    assert (refused.slug, refused.members["retry_after"]) == ("queue-timeout", 5)
    assert late[1] not in pooler.ended
    pooler.run()
    assert isinstance(pooler.ended[late[1]], wire.Done)


def test_a_turn_that_comes_is_given_even_when_nobody_may_wait(open_: Open) -> None:
    pooler = open_("bert", "mean", queue_wait_s=0.0)
    ids = [pooler.embed(["the cat"]) for _ in range(10)]
    pooler.run()
    assert all(isinstance(pooler.ended[id_], wire.Done) for id_ in ids)


def test_a_long_batch_shows_progress_while_it_is_computed(bert: Pooler) -> None:
    bert.vectors(["the cat"])
    before = bert.backend.counts().steps
    bert.vectors(["dog " * 1000])
    assert bert.backend.counts().steps > before + 10


def test_counts_tell_who_runs_and_who_waits(bert: Pooler) -> None:
    scheduler_of(bert)._speed = 1.0
    bert.embed(["dog " * 20] * 3)
    bert.embed(["dog " * 900])
    bert.step()
    counts = bert.backend.counts()
    assert (counts.slots_used, counts.waiting) == (1, 1)
    bert.run()
    eventually(lambda: bert.backend.counts().slots_used == 0)
