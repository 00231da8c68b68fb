"""How a model is laid into memory."""

from __future__ import annotations

from pathlib import Path

from tabagent.catalog.models import Model
from tabagent.engine.placement import LARGEST_DEFAULT_CONTEXT, cores, place


def model(**facts: int) -> Model:
    return Model(id="x/y", path=Path("/x"), backend="gguf", **facts)  # type: ignore[arg-type]  # numbers all


def test_every_sequence_gets_its_context_where_memory_allows() -> None:
    small = place(model(context_length=2048, kv_bytes_per_token=1), n_ctx=0, slots=8, threads=0)
    assert (small.n_ctx, small.slots, small.kv_tokens) == (2048, 8, 8 * 2048)
    assert small.threads == cores() >= 1


def test_a_long_context_is_given_only_when_asked_for() -> None:
    long = model(context_length=131072, kv_bytes_per_token=1)
    assert place(long, n_ctx=0, slots=1, threads=3).n_ctx == LARGEST_DEFAULT_CONTEXT
    asked = place(long, n_ctx=65536, slots=1, threads=3)
    assert (asked.n_ctx, asked.threads) == (65536, 3)


def test_a_tiny_model_gets_one_thread() -> None:
    assert place(model(size_bytes=6_000_000), n_ctx=0, slots=1, threads=0).threads == 1
    assert place(model(size_bytes=6_000_000), n_ctx=0, slots=1, threads=2).threads == 2
    assert place(model(size_bytes=600_000_000), n_ctx=0, slots=1, threads=0).threads == cores()


def test_sequences_share_room_when_memory_is_short() -> None:
    huge = model(context_length=4096, kv_bytes_per_token=2**40)
    placed = place(huge, n_ctx=0, slots=8, threads=0)
    assert placed.kv_tokens == placed.n_ctx == 4096
