"""How a model is laid into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tabagent.catalog.models import Model
from tabagent.catalog.shape import Layer, Shape
from tabagent.config import Settings
from tabagent.engine.gate import place
from tabagent.engine.placement import (
    LARGEST_DEFAULT_CONTEXT,
    LoadOptions,
    Placement,
    cores,
)
from tabagent.errors import InvalidRequest


def model(kv_bytes_per_token: int = 0, **facts: int) -> Model:
    """With f16 keys and values of so many bytes a token."""
    layer = Layer(
        weight_bytes=0, key_row=kv_bytes_per_token // 4, value_row=kv_bytes_per_token // 4
    )
    shape = Shape(
        width=64, heads=1, feed_forward=64, vocabulary=0, layers=(layer,), input_bytes=0,
        output_bytes=0, other_bytes=0,
    )  # fmt: skip
    known = shape if kv_bytes_per_token else None
    return Model(id="x/y", path=Path("/x"), backend="gguf", shape=known, **facts)  # type: ignore[arg-type]  # numbers all


def placed(model: Model, **options: Any) -> Placement:
    return place(model, LoadOptions(**options), Settings())


def test_every_sequence_gets_its_context_where_memory_allows() -> None:
    small = placed(model(context_length=2048, kv_bytes_per_token=4))
    assert (small.n_ctx, small.slots, small.kv_tokens) == (2048, 8, 8 * 2048)
    assert small.threads == small.threads_batch == cores() >= 1


def test_a_long_context_is_given_only_when_asked_for() -> None:
    long = model(context_length=131072, kv_bytes_per_token=4)
    assert placed(long).n_ctx == LARGEST_DEFAULT_CONTEXT
    asked = placed(long, n_ctx=65536, slots=1, threads=3, threads_batch=5)
    assert (asked.n_ctx, asked.threads, asked.threads_batch) == (65536, 3, 5)


def test_a_tiny_model_gets_one_thread() -> None:
    assert placed(model(size_bytes=6_000_000)).threads == 1
    assert placed(model(size_bytes=6_000_000), threads=2).threads == 2
    assert placed(model(size_bytes=600_000_000)).threads == cores()


def test_sequences_share_room_when_memory_is_short() -> None:
    huge = placed(model(context_length=4096, kv_bytes_per_token=2**40))
    assert huge.kv_tokens == huge.n_ctx == 4096


def test_smaller_numbers_make_more_room() -> None:
    wide = model(context_length=8192, kv_bytes_per_token=2**18)
    half, byte = placed(wide), placed(wide, cache_type_k="q8_0", cache_type_v="q8_0")
    assert 1.5 < byte.kv_tokens / half.kv_tokens < 2.2


def test_what_a_caller_leaves_open_is_what_the_settings_say() -> None:
    settings = Settings(slots=3, flash_attention="on", cache_type_k="q8_0", mlock=True)
    found = place(model(), LoadOptions(slots=5), settings)
    assert (found.slots, found.flash_attention, found.cache_type_k) == (5, "on", "q8_0")
    assert (found.mlock, found.mmap) == (True, True)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"flash_attention": "off", "cache_type_v": "q8_0"}, "cache_type_v"),
        ({"speculation": "draft"}, "draft_model"),
    ],
)
def test_what_cannot_go_together_is_refused_by_name(options: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        placed(model(), **options)
    assert refused.value.param == param


def test_a_draft_model_is_a_wish_to_speculate() -> None:
    found = placed(model(), draft=model())
    assert (found.speculation, found.draft_tokens) == ("draft", 3)
