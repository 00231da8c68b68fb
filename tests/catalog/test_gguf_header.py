"""The GGUF reader: what it makes of sound files, and that nothing else gets past it."""

from __future__ import annotations

import io
import os
import random
import struct
import time
from pathlib import Path

import pytest

from tabagent.catalog import gguf_header
from tabagent.catalog.gguf_header import ArraySummary, GgufHeader, TensorInfo, read_gguf_header
from tabagent.errors import ModelCorrupt
from tests.catalog.gguf_files import (
    ARRAY,
    BOOL,
    F64,
    I8,
    I32,
    STRING,
    TENSOR_F32,
    TENSOR_Q4_K,
    TENSOR_Q6_K,
    TENSOR_Q8_0,
    U8,
    U16,
    U32,
    U64,
    Tensor,
    array,
    basics,
    gguf,
    pair,
    scalar,
    small_model,
    small_tensors,
    split_model,
    string,
    vocabulary,
)

SECRET_FOLDER = "home-of-someone"
"""Stands in every path here and must stand in no problem."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / SECRET_FOLDER
    path.mkdir()
    return path


def read(folder: Path, content: bytes, name: str = "model.gguf") -> GgufHeader:
    path = folder / name
    path.write_bytes(content)
    return read_gguf_header(path)


def refused(folder: Path, content: bytes, name: str = "model.gguf") -> ModelCorrupt:
    with pytest.raises(ModelCorrupt) as caught:
        read(folder, content, name)
    return sound_problem(caught.value, name)


def sound_problem(error: ModelCorrupt, name: str) -> ModelCorrupt:
    """`error`, once it is clear that it names its file and check, and no directory."""
    assert error.members["file"] == name
    assert error.members["check"]
    assert {"file", "check", "expected", "actual"} == set(error.members)
    assert SECRET_FOLDER not in f"{error.detail} {error.members}"
    assert all(isinstance(value, str | int) for value in error.members.values())
    return error


# --- sound files


def test_a_sound_file_is_read_back_as_it_was_written(folder: Path) -> None:
    header = read(folder, small_model())
    assert header.version == 3
    assert header.file_size == (folder / "model.gguf").stat().st_size
    assert header.parts == 1
    assert header.metadata["general.name"] == "Small Bläck Model"
    assert header.metadata["llama.rope.freq_base"] == 10000.0
    assert header.metadata["tokenizer.ggml.add_bos_token"] is True
    assert [header.metadata[f"test.{k}"] for k in ("i8", "u8", "i16", "u16")] == [-8, 8, -16, 16]
    assert [header.metadata[f"test.{k}"] for k in ("i32", "i64", "f64")] == [-32, -64, 0.5]
    assert header.metadata["test.flags"] == ArraySummary("bool", 2)
    assert header.metadata["test.nothing"] == ArraySummary("uint8", 0)
    assert header.metadata["tokenizer.ggml.tokens"] == ArraySummary("string", 12)
    assert header.tensors == (
        TensorInfo("token_embd.weight", (256, 12), "Q6_K", 0, 2520),
        TensorInfo("blk.0.attn_q.weight", (256, 64), "Q4_K", 2528, 9216),
        TensorInfo("output_norm.weight", (256,), "F32", 11744, 1024),
    )
    assert header.data_offset % 32 == 0
    assert header.data_offset + 11744 + 1024 == header.file_size


def test_the_properties_say_what_the_file_says(folder: Path) -> None:
    header = read(folder, small_model())
    assert header.architecture == "llama"
    assert header.name == "Small Bläck Model"
    assert header.license == "mit"
    assert header.block_count == 2
    assert header.context_length == 2048
    assert header.embedding_length == 256
    assert header.vocab_size == 12
    assert header.pooling_type is None
    assert header.chat_template == "{{ messages[0].content }}"
    assert header.parameters == 256 * 12 + 256 * 64 + 256
    assert header.weight_bytes == 2520 + 9216 + 1024
    assert header.quantisation == "Q4_K_M"


def test_what_a_file_does_not_say_is_none(folder: Path) -> None:
    header = read(folder, gguf(basics()))
    assert (header.name, header.license, header.chat_template) == (None, None, None)
    assert (header.context_length, header.embedding_length, header.vocab_size) == (None, None, None)
    assert (header.pooling_type, header.quantisation) == (None, None)
    assert header.parameters == header.weight_bytes == 0


def test_a_value_of_the_wrong_kind_counts_as_not_said(folder: Path) -> None:
    pairs = [pair("general.name", U32, 7), pair("llama.context_length", STRING, "long")]
    header = read(folder, gguf([*basics(), *pairs, pair("llama.pooling_type", BOOL, True)]))
    assert (header.name, header.context_length, header.pooling_type) == (None, None, None)


def test_an_embedding_model_tells_its_pooling(folder: Path) -> None:
    pairs = [*basics("bert"), pair("bert.pooling_type", U32, 2), pair("bert.vocab_size", U32, 99)]
    header = read(folder, gguf(pairs))
    assert (header.architecture, header.pooling_type, header.vocab_size) == ("bert", 2, 99)


def test_version_2_is_read_like_version_3(folder: Path) -> None:
    assert read(folder, gguf(basics(), small_tensors(), version=2)).tensors == (
        read(folder, gguf(basics(), small_tensors())).tensors
    )


@pytest.mark.parametrize("alignment", [1, 8, 64, 4096])
def test_any_power_of_two_is_an_alignment(folder: Path, alignment: int) -> None:
    pairs = [*basics(), pair("general.alignment", U32, alignment)]
    header = read(folder, gguf(pairs, small_tensors(), alignment=alignment))
    assert header.data_offset % alignment == 0
    assert all(tensor.offset % alignment == 0 for tensor in header.tensors)


@pytest.mark.parametrize(
    ("file_type", "tensor_type", "expected"),
    [
        (15, TENSOR_Q4_K, "Q4_K_M"),
        (7, TENSOR_Q8_0, "Q8_0"),
        (15, TENSOR_Q8_0, "Q8_0"),  # the file type is wrong: it has no such tensor
        (0, TENSOR_Q6_K, "Q6_K"),
        (9999, TENSOR_Q8_0, "Q8_0"),
        (None, TENSOR_F32, "F32"),
    ],
)
def test_the_quantisation_is_the_file_type_when_the_tensors_agree(
    folder: Path, file_type: int | None, tensor_type: int, expected: str
) -> None:
    pairs = (
        basics() if file_type is None else [*basics(), pair("general.file_type", U32, file_type)]
    )
    tensors = [Tensor("norm", (16,)), Tensor("big", (256, 8), tensor_type)]
    assert read(folder, gguf(pairs, tensors)).quantisation == expected


@pytest.mark.parametrize("blocks", [1, 512])
def test_the_outermost_layer_counts_are_accepted(folder: Path, blocks: int) -> None:
    assert read(folder, gguf(basics(blocks=blocks))).block_count == blocks


def test_a_chat_template_of_a_mebibyte_is_kept_whole(folder: Path) -> None:
    template = "x" * (1024 * 1024)
    pairs = [*basics(), pair("tokenizer.chat_template", STRING, template)]
    assert read(folder, gguf(pairs)).chat_template == template


def test_arrays_larger_than_the_read_window_are_walked_over(folder: Path) -> None:
    long = [string("y" * size) for size in (1_000_000, 0, 1_048_576, 3, 700_000)]
    numbers = [scalar(U64, n) for n in range(200_000)]
    pairs = [array("a", STRING, long * 2), array("b", U64, numbers), array("c", STRING, long)]
    header = read(folder, gguf([*pairs, *basics()], small_tensors()))
    assert header.metadata["a"] == ArraySummary("string", 10)
    assert header.metadata["b"] == ArraySummary("uint64", 200_000)
    assert [tensor.type for tensor in header.tensors] == ["Q6_K", "Q4_K", "F32"]


def test_a_vocabulary_of_151000_tokens_is_counted(folder: Path) -> None:
    merges = array("tokenizer.ggml.merges", STRING, [string("ab cd")] * 151_000)
    path = folder / "model.gguf"
    path.write_bytes(gguf([*basics(), *vocabulary(151_000), merges]))
    assert read_gguf_header(path).vocab_size == 151_000


def test_bytes_after_the_last_tensor_are_no_matter(folder: Path) -> None:
    assert read(folder, small_model() + b"trailing").architecture == "llama"


# --- broken files, one rule each

BROKEN: dict[str, tuple[str, bytes]] = {
    "another magic": ("magic", gguf(basics(), magic=b"GGML")),
    "a web page": ("magic", b"<!DOCTYPE html><html><body>404</body></html>"),
    "a Git LFS pointer": ("magic", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
    "big-endian": ("byte-order", b"GGUF" + struct.pack(">IQQ", 3, 0, 0)),
    "version 0": ("version", gguf(basics(), version=0)),
    "version 1": ("version", gguf(basics(), version=1)),
    "version 4": ("version", gguf(basics(), version=4)),
    "three bytes": ("truncated", b"GGU"),
    "nothing but the magic": ("truncated", b"GGUF"),
    "65,537 pairs": ("metadata-count", gguf(basics(), pair_count=65_537)),
    "2**64-1 pairs": ("metadata-count", gguf(basics(), pair_count=2**64 - 1)),
    "more pairs than fit": ("truncated", gguf(basics(), pair_count=65_536)),
    "1,048,577 tensors": ("tensor-count", gguf(basics(), tensor_count=1_048_577)),
    "2**63 tensors": ("tensor-count", gguf(basics(), tensor_count=2**63)),
    "more tensors than fit": ("truncated", gguf(basics(), tensor_count=1_048_576)),
    "an empty key": ("key", gguf([*basics(), pair("", U8, 1)])),
    "a NUL in a key": ("key", gguf([*basics(), pair("general.alignment\0", U32, 8)])),
    "a key of 64 KiB": ("string-length", gguf([*basics(), pair("k" * 65_536, U8, 1)])),
    "a key that is not UTF-8": ("utf-8", gguf([*basics(), pair(b"k\xff\xfe", U8, 1)])),
    "a value that is not UTF-8": ("utf-8", gguf([*basics(), pair("k", STRING, b"\xc3\x28")])),
    "a key twice": ("duplicate-key", gguf([*basics(), pair("k", U8, 1), pair("k", U8, 1)])),
    "a string of 1 MiB + 1": (
        "string-length",
        gguf([*basics(), pair("k", STRING, "x" * (2**20 + 1))]),
    ),
    "a string longer than the file": (
        "truncated",
        gguf([*basics(), string("k") + struct.pack("<I", STRING) + string("abc", 2**20)]),
    ),
    "a string length of 2**64-1": (
        "string-length",
        gguf([*basics(), string("k") + struct.pack("<I", STRING) + string("abc", 2**64 - 1)]),
    ),
    "an unknown value type": (
        "value-type",
        gguf([*basics(), string("k") + b"\x0d\0\0\0" + b"1234"]),
    ),
    "an unknown element type": ("value-type", gguf([*basics(), array("k", 99, [b"1"])])),
    "a nested array": ("value-type", gguf([*basics(), array("k", ARRAY, [b"1" * 12])])),
    "an array longer than the file": ("array-length", gguf([*basics(), array("k", U64, [], 99)])),
    "an array of 2**64-1 bytes": ("array-length", gguf([*basics(), array("k", U8, [], 2**64 - 1)])),
    "2**61 strings": ("array-length", gguf([*basics(), array("k", STRING, [], 2**61)])),
    "an array with a long string": (
        "string-length",
        gguf([*basics(), array("k", STRING, [string("x" * (2**20 + 1))])]),
    ),
    "an array with an endless string": (
        "string-length",
        gguf([*basics(), array("k", STRING, [string("x", 2**64 - 9)] * 3)]),
    ),
    "an array with a string past the end": (
        "truncated",
        gguf([*basics(), array("k", STRING, [string("x", 2**20)])]),
    ),
    "alignment 0": ("alignment", gguf([*basics(), pair("general.alignment", U32, 0)])),
    "alignment 48": ("alignment", gguf([*basics(), pair("general.alignment", U32, 48)])),
    "a negative alignment": ("alignment", gguf([*basics(), pair("general.alignment", I32, -32)])),
    "an alignment in words": (
        "alignment",
        gguf([*basics(), pair("general.alignment", STRING, "8")]),
    ),
    "an alignment of another width": (
        "alignment",
        gguf([*basics(), pair("general.alignment", U64, 32)]),
    ),
    "a tensor without a name": ("tensor-name", gguf(basics(), [Tensor("")])),
    "a NUL in a tensor name": ("tensor-name", gguf(basics(), [Tensor("a\0b")])),
    "a tensor name of 64 bytes": ("string-length", gguf(basics(), [Tensor("t" * 64)])),
    "a tensor name that is not UTF-8": ("utf-8", gguf(basics(), [Tensor(b"\xff")])),
    "a tensor name twice": ("duplicate-tensor", gguf(basics(), [Tensor("t"), Tensor("t")])),
    "no dimensions": ("tensor-dimensions", gguf(basics(), [Tensor("t", ())])),
    "five dimensions": ("tensor-dimensions", gguf(basics(), [Tensor("t", (1,) * 5)])),
    "a dimension of 0": ("tensor-shape", gguf(basics(), [Tensor("t", (32, 0))])),
    "a dimension of 2**64-1": (
        "tensor-shape",
        gguf(basics(), [Tensor("t", (2**64 - 1,))], data=b""),
    ),
    "dimensions that wrap to 0": (
        "tensor-shape",
        gguf(basics(), [Tensor("t", (2**32, 2**32))], data=b""),
    ),
    "sizes that overflow": (
        "tensor-shape",
        gguf(basics(), [Tensor("t", (2**62,)), Tensor("u", (2**62,), offset=0)], data=b""),
    ),
    "half a block": ("tensor-shape", gguf(basics(), [Tensor("t", (100,), TENSOR_Q4_K)])),
    "a withdrawn tensor type": ("tensor-type", gguf(basics(), [Tensor("t", (32,), 31)])),
    "an unknown tensor type": ("tensor-type", gguf(basics(), [Tensor("t", (32,), 2**32 - 1)])),
    "a misaligned tensor": ("tensor-offset", gguf(basics(), [Tensor("t", offset=8)])),
    "overlapping tensors": (
        "tensor-overlap",
        gguf(basics(), [Tensor("t", (64,)), Tensor("u", (64,), offset=128)]),
    ),
    "a hole between tensors": (
        "tensor-gap",
        gguf(basics(), [Tensor("t", (64,)), Tensor("u", (64,), offset=512)]),
    ),
    "a tensor far away": ("tensor-gap", gguf(basics(), [Tensor("t", offset=2**64 - 32)], data=b"")),
    "no tensor data": ("truncated", gguf(basics(), small_tensors(), data=b"")),
    "no architecture": ("architecture", gguf([pair("llama.block_count", U32, 2)])),
    "a number for an architecture": (
        "architecture",
        gguf([pair("general.architecture", U32, 2), *basics()[1:]]),
    ),
    "an architecture with a NUL": (
        "architecture",
        gguf([pair("general.architecture", STRING, "llama\0"), *basics()[1:]]),
    ),
    "an empty architecture": ("architecture", gguf([pair("general.architecture", STRING, "")])),
    "no block count": ("block-count", gguf(basics()[:1])),
    "another's block count": (
        "block-count",
        gguf([*basics()[:1], pair("bert.block_count", U32, 2)]),
    ),
    "0 blocks": ("block-count", gguf(basics(blocks=0))),
    "513 blocks": ("block-count", gguf(basics(blocks=513))),
    "2**31-1 blocks": ("block-count", gguf(basics(blocks=2**31 - 1))),
    "half a block count": (
        "block-count",
        gguf([*basics()[:1], pair("llama.block_count", F64, 2.5)]),
    ),
    "a true block count": (
        "block-count",
        gguf([*basics()[:1], pair("llama.block_count", BOOL, True)]),
    ),
    "tokens that are numbers": (
        "vocabulary",
        gguf([*basics(), array("tokenizer.ggml.tokens", U32, [scalar(U32, 1)])]),
    ),
    "tokens that are a string": (
        "vocabulary",
        gguf([*basics(), pair("tokenizer.ggml.tokens", 8, "x")]),
    ),
    "scores that are bytes": (
        "vocabulary",
        gguf([*basics(), array("tokenizer.ggml.scores", I8, [b"1"])]),
    ),
    "fewer token types than tokens": (
        "vocabulary",
        gguf(
            [
                *basics(),
                *vocabulary(3)[:2],
                array("tokenizer.ggml.token_type", I32, [scalar(I32, 1)] * 2),
            ]
        ),
    ),
    "a part of a split model under its own name": ("split", split_model(2)[0]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_by_the_rule_it_breaks(folder: Path, case: str) -> None:
    check, content = BROKEN[case]
    assert refused(folder, content).members["check"] == check


def test_a_big_endian_file_and_version_1_are_refused_by_name(folder: Path) -> None:
    assert "big-endian" in refused(folder, BROKEN["big-endian"][1]).detail
    assert "version 1" in refused(folder, BROKEN["version 1"][1]).detail
    assert "Git LFS pointer" in refused(folder, BROKEN["a Git LFS pointer"][1]).detail


def test_an_incomplete_download_says_how_many_bytes_are_missing(folder: Path) -> None:
    whole = small_model()
    problem = refused(folder, whole[:-1000])
    assert problem.members["check"] == "truncated"
    assert "1000 bytes" in problem.detail
    assert (problem.members["expected"], problem.members["actual"]) == (
        len(whole),
        len(whole) - 1000,
    )


def test_what_stands_in_the_file_is_shown_short_and_escaped(folder: Path) -> None:
    problem = refused(folder, gguf([pair("general.architecture", STRING, "\x1b[2J" + "a" * 5000)]))
    assert "\x1b" not in f"{problem.detail}{problem.members['actual']}"
    assert len(str(problem.members["actual"])) <= 100


def test_the_text_kept_of_one_file_is_bounded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_header, "TEXT_LIMIT", 100)
    content = gguf([*basics(), pair("k", STRING, "x" * 100)])
    assert refused(folder, content).members["check"] == "header-size"


def test_the_strings_walked_over_in_one_file_are_bounded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_header, "ARRAY_STRINGS_LIMIT", 15)
    arrays = [array(key, STRING, [string("x")] * 8) for key in ("a", "b")]
    assert refused(folder, gguf([*basics(), *arrays])).members["check"] == "array-length"


def test_a_header_of_more_than_512_mib_is_refused_without_reading_it(folder: Path) -> None:
    path = folder / "model.gguf"
    path.write_bytes(gguf([*basics(), array("k", U8, [], 513 * 2**20)]))
    os.truncate(path, 600 * 2**20)  # sparse
    with pytest.raises(ModelCorrupt) as caught:
        read_gguf_header(path)
    assert sound_problem(caught.value, "model.gguf").members["check"] == "header-size"


# --- things that are no file


@pytest.mark.parametrize("kind", ["directory", "empty", "missing", "fifo", "unreadable", "nul"])
def test_what_is_not_a_readable_file_is_refused_at_once(folder: Path, kind: str) -> None:
    path = folder / "model.gguf"
    if kind == "directory":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "unreadable":
        path.symlink_to(path)  # a link to itself: unreadable for root, too
    elif kind == "nul":
        path = folder / "model\0.gguf"
    with pytest.raises(ModelCorrupt) as caught:
        read_gguf_header(path)
    assert sound_problem(caught.value, path.name).members["check"] == "file"
    if kind == "fifo":
        assert "regular" in caught.value.detail


def test_a_file_that_shrinks_while_it_is_read_is_refused() -> None:
    whole, fail = small_model(), gguf_header._Failure("model.gguf")
    with pytest.raises(ModelCorrupt) as caught:
        gguf_header._read_header(gguf_header._Reader(io.BytesIO(whole[:500]), len(whole), fail))
    assert sound_problem(caught.value, "model.gguf").members["check"] == "truncated"
    assert caught.value.members["actual"] == 500


def test_a_file_name_that_is_not_text_does_not_spoil_the_problem(folder: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(folder) + b"/m\xff.gguf"))
    with pytest.raises(ModelCorrupt) as caught:
        read_gguf_header(path)
    assert sound_problem(caught.value, "m?.gguf").detail.encode()


# --- split models


def write_parts(folder: Path, files: list[bytes]) -> Path:
    for number, content in enumerate(files, 1):
        (folder / f"big-{number:05}-of-{len(files):05}.gguf").write_bytes(content)
    return folder / f"big-00001-of-{len(files):05}.gguf"


def test_a_split_model_is_the_sum_of_its_parts(folder: Path) -> None:
    files = split_model(3)
    header = read_gguf_header(write_parts(folder, files))
    assert header.parts == 3
    assert header.file_size == sum(map(len, files))
    assert [tensor.name for tensor in header.tensors] == [f"blk.{n}.weight" for n in range(3)]
    assert header.weight_bytes == 3 * 128


def test_a_split_model_with_a_part_missing_names_it(folder: Path) -> None:
    first = write_parts(folder, split_model(3))
    (folder / "big-00002-of-00003.gguf").unlink()
    with pytest.raises(ModelCorrupt, match="big-00002-of-00003") as caught:
        read_gguf_header(first)
    assert sound_problem(caught.value, first.name).members["check"] == "split"


def test_a_later_part_is_not_taken_for_a_model(folder: Path) -> None:
    write_parts(folder, split_model(3))
    with pytest.raises(ModelCorrupt) as caught:
        read_gguf_header(folder / "big-00002-of-00003.gguf")
    assert caught.value.members["check"] == "split"


def test_a_damaged_later_part_is_refused_under_its_own_name(folder: Path) -> None:
    files = split_model(3)
    first = write_parts(folder, [files[0], files[1], files[2][:-1]])
    with pytest.raises(ModelCorrupt) as caught:
        read_gguf_header(first)
    assert sound_problem(caught.value, "big-00003-of-00003.gguf").members["check"] == "truncated"


@pytest.mark.parametrize("order", [(0, 2, 1), (0, 1, 1)])
def test_parts_in_each_other_s_place_are_refused(folder: Path, order: tuple[int, ...]) -> None:
    files = split_model(3)
    with pytest.raises(ModelCorrupt) as caught:
        read_gguf_header(write_parts(folder, [files[number] for number in order]))
    assert caught.value.members["check"] == "split"


@pytest.mark.parametrize(("total", "check"), [(3, "split"), (2, "duplicate-tensor")])
def test_the_parts_hold_each_tensor_once(folder: Path, total: int, check: str) -> None:
    files = []
    for number in range(2):
        pairs = [pair("split.no", U16, number), pair("split.count", U16, 2)]
        pairs.append(pair("split.tensors.count", I32, total))
        files.append(gguf(pairs + basics(), [Tensor("the.same")]))
    with pytest.raises(ModelCorrupt) as caught:
        read_gguf_header(write_parts(folder, files))
    assert caught.value.members["check"] == check


# --- any damage at all


def judge(path: Path, content: bytes) -> GgufHeader | None:
    """The header, or None after a sound refusal; anything else fails, and so does taking long."""
    path.write_bytes(content)
    start = time.thread_time()
    try:
        header = read_gguf_header(path)
    except ModelCorrupt as error:
        sound_problem(error, path.name)
        header = None
    assert time.thread_time() - start < 0.5
    return header


def test_a_file_cut_anywhere_is_refused(folder: Path) -> None:
    """Every structural boundary is among the cuts, since every byte of the header is one."""
    whole, path = small_model(), folder / "model.gguf"
    header = judge(path, whole)
    assert header is not None
    for end in range(header.data_offset):
        assert judge(path, whole[:end]) is None, end
    for tensor in header.tensors:
        assert judge(path, whole[: header.data_offset + tensor.offset]) is None
        assert judge(path, whole[: header.data_offset + tensor.offset + tensor.nbytes - 1]) is None


def test_300_random_cuts_are_refused(folder: Path) -> None:
    whole, chance = small_model(), random.Random(20)
    for _ in range(300):
        assert judge(folder / "model.gguf", whole[: chance.randrange(len(whole))]) is None


def test_300_random_mutations_end_in_a_header_or_a_refusal(folder: Path) -> None:
    whole, chance = small_model(), random.Random(21)
    header = judge(folder / "model.gguf", whole)
    assert header is not None
    verdicts = set()
    for _ in range(300):
        mutant = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 8))):
            mutant[chance.randrange(header.data_offset)] = chance.choice(
                (0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256))
            )
        verdicts.add(judge(folder / "model.gguf", bytes(mutant)) is None)
    assert verdicts == {True, False}  # some hit text, which may be anything
