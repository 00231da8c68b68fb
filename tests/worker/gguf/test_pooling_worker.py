"""Models that pool in the real worker process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tabagent import wire
from tests.live import eventually
from tests.worker.child import Child, generate

SLOW = ["dog " * 1000] * 60  # a step each


@pytest.fixture
def child(files: dict[str, Path]) -> Iterator[Child]:
    with Child("gguf-pooling") as started:
        started.load(str(files["bert"]), n_ctx=1024, pooling="mean")
        yield started


def test_vectors_cross_the_pipe_as_their_bytes(child: Child) -> None:
    child.say(wire.Embed(2, ["the cat", "a dog"]))
    done = child.answer(2)
    assert isinstance(done, wire.Done)
    assert done.result["tokens"] == [4, 4]
    found = [np.frombuffer(vector, "<f4") for vector in done.result["vectors"]]
    assert [vector.shape for vector in found] == [(64,), (64,)]
    assert np.linalg.norm(found[0]) == pytest.approx(1, abs=1e-6)


def test_ranks_cross_the_pipe(files: dict[str, Path]) -> None:
    with Child("gguf-pooling") as child:
        facts = child.load(str(files["ranker"]), n_ctx=1024, pooling="rank")
        assert (facts["pooling"], facts["dimensions"]) == ("rank", 1)
        child.say(wire.Rank(2, "cat", ["the cat", "a dog", "tree"]))
        done = child.answer(2)
        assert isinstance(done, wire.Done)
        assert len(done.result["scores"]) == 3


def test_a_refusal_crosses_the_pipe_and_the_next_request_is_answered(child: Child) -> None:
    child.say(wire.Embed(2, ["a", "the " * 3000]), generate(3, "a"), wire.Label(4, ["a"]))
    long, text, rank = child.answer(2), child.answer(3), child.answer(4)
    assert isinstance(long, wire.Failed)
    assert (long.slug, long.members["param"]) == ("context-length-exceeded", "input")
    assert isinstance(text, wire.Failed) and isinstance(rank, wire.Failed)
    assert text.slug == rank.slug == "wrong-model-task"
    child.say(wire.Embed(5, ["a"]))
    assert isinstance(child.answer(5), wire.Done)


def test_a_cancel_ends_the_work_without_an_answer(child: Child) -> None:
    child.say(wire.Embed(2, SLOW))
    eventually(lambda: child.beats and child.beats[-1].slots_used == 1)
    child.say(wire.Cancel(2), wire.Embed(3, ["the cat"]))
    first = child.event()
    assert isinstance(first, wire.Done)
    assert first.id == 3
    eventually(lambda: child.beats[-1].slots_used == 0)


def test_a_model_that_generates_refuses_to_pool(tiny: Path) -> None:
    with Child("gguf") as child:
        child.load(str(tiny))
        child.say(wire.Embed(2, ["a"]), wire.Rank(3, "a", ["b"]))
        for id_ in (2, 3):
            failed = child.answer(id_)
            assert isinstance(failed, wire.Failed)
            assert failed.slug == "wrong-model-task"
        child.say(generate(4, "a", max_tokens=2))
        assert isinstance(child.answer(4), wire.Finished)
