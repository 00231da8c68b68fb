"""Measures of models from their headers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tabagent.catalog.gguf_header import read_gguf_header
from tabagent.catalog.shape import Shape, shape_of
from tests.catalog.gguf_files import BOOL, U32, Tensor, gguf, pair
from tests.worker.sized_gguf import Measures, write_sized
from tests.worker.tiny_mamba import write_mamba
from tests.worker.tiny_pooling import write_bert


def shape(path: Path) -> Shape:
    return shape_of(read_gguf_header(path))


def test_grouped_attention_keeps_a_row_for_each_group(tmp_path: Path) -> None:
    found = shape(write_sized(tmp_path / "x.gguf", Measures(width=512, heads=8, kv_heads=2)))
    assert found.rows == (4 * 128, 4 * 128)
    assert (found.width, found.feed_forward, len(found.layers)) == (512, 1536, 4)
    assert found.weight_bytes == read_gguf_header(tmp_path / "x.gguf").weight_bytes


def test_a_tied_output_takes_nothing_of_its_own(tmp_path: Path) -> None:
    apart = shape(write_sized(tmp_path / "a.gguf", Measures()))
    tied = shape(write_sized(tmp_path / "t.gguf", replace(Measures(), tied=True)))
    assert apart.output_bytes == apart.input_bytes == tied.input_bytes
    assert tied.output_bytes == 0


def test_recurrent_layers_keep_a_state_and_no_rows(tmp_path: Path) -> None:
    found = shape(write_mamba(tmp_path / "m.gguf"))
    assert found.rows == (0, 0)
    assert all(layer.state > 0 for layer in found.layers)


def test_an_encoder_keeps_nothing(tmp_path: Path) -> None:
    assert shape(write_bert(tmp_path / "b.gguf")).rows == (0, 0)


@pytest.mark.parametrize(
    ("tensors", "rows"),
    [
        ([("attn_qkv", (64, 192))], (2 * 16, 2 * 16)),
        ([("attn_kv_a_mqa", (64, 40))], (40, 0)),
        ([("ffn_up", (64, 256))], (0, 0)),
    ],
)
def test_fused_and_latent_attention(
    tmp_path: Path, tensors: list[tuple[str, tuple[int, ...]]], rows: tuple[int, int]
) -> None:
    pairs = [
        pair("general.architecture", 8, "any"),
        pair("any.block_count", U32, 1),
        pair("any.embedding_length", U32, 64),
        pair("any.attention.head_count", U32, 4),
        pair("any.attention.head_count_kv", U32, 2),
        pair("any.attention.causal", BOOL, 1),
        pair("any.expert_used_count", U32, 2),
    ]
    made = [Tensor(f"blk.0.{name}.weight", size) for name, size in tensors]
    (tmp_path / "x.gguf").write_bytes(gguf(pairs, made))
    found = shape(tmp_path / "x.gguf")
    assert found.rows == rows
    assert found.feed_forward == (512 if tensors[0][0] == "ffn_up" else 0)
