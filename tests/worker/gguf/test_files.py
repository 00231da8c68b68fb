"""Files that are no model, or half of one: a typed error or a clean crash, never a hang."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tabagent import wire
from tests.catalog.gguf_files import STRING, U32, pair, small_model
from tests.worker.child import Child
from tests.worker.tiny_gguf import write_model

TYPED = {"model-corrupt", "unsupported-model", "out-of-memory"}


class Loader:
    """Loads files in a real worker, and starts another when one has died of a file."""

    def __init__(self) -> None:
        self._child: Child | None = None

    def __call__(self, path: Path) -> wire.Event | None:
        """What loading `path` comes to; None when the process has died of it."""
        if self._child is None:
            self._child = Child("gguf", beat_s=5.0).__enter__()
        child = self._child
        child.say(wire.Load(1, str(path), 256, 2, 512, 1, 60.0))
        while isinstance(event := child.event(), wire.Progress):
            pass
        if event is None:
            assert child.end() != 0
            self._child = None
        return event

    def close(self) -> None:
        if self._child:
            self._child.__exit__()


@pytest.fixture(scope="module")
def load() -> Iterator[Loader]:
    loader = Loader()
    yield loader
    loader.close()


def test_a_sound_file_loads(load: Loader, tiny: Path) -> None:
    assert isinstance(load(tiny), wire.Done)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty", b""),
        ("magic alone", b"GGUF"),
        ("text", b"this is no model\n" * 100),
        ("zeros", bytes(10_000)),
        ("no tensors a Llama needs", small_model()),
        ("another format", b"PK\x03\x04" + bytes(1000)),
    ],
)
def test_a_foreign_file_is_a_typed_error(
    load: Loader, tmp_path: Path, name: str, content: bytes
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    failed = load(path)
    assert isinstance(failed, wire.Failed)
    assert failed.slug == "model-corrupt"
    assert failed.members["file"] == "model.gguf"
    assert str(tmp_path) not in repr(failed)


def test_a_file_that_is_not_there_is_a_typed_error(load: Loader, tmp_path: Path) -> None:
    failed = load(tmp_path / "missing.gguf")
    assert isinstance(failed, wire.Failed)
    assert failed.slug == "model-corrupt"
    assert str(tmp_path) not in repr(failed)


def test_an_unknown_architecture_is_named(load: Loader, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes().replace(string_of("llama"), string_of("lamma"), 1))
    failed = load(path)
    assert isinstance(failed, wire.Failed)
    assert (failed.slug, failed.members) == ("unsupported-model", {"architecture": "lamma"})


def string_of(text: str) -> bytes:
    return struct.pack("<IQ", STRING, len(text)) + text.encode()


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.99])
def test_a_truncated_file_ends_cleanly(
    load: Loader, tiny: Path, tmp_path: Path, share: float
) -> None:
    path = tmp_path / "half.gguf"
    data = tiny.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    event = load(path)
    assert isinstance(event, wire.Failed)
    assert event.slug in TYPED


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_header_ends_cleanly(load: Loader, tiny: Path, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    data = bytearray(tiny.read_bytes())
    for _ in range(8):
        data[draw.randrange(8, 6000)] = draw.randrange(256)
    path = tmp_path / "damaged.gguf"
    path.write_bytes(data)
    event = load(path)
    assert (
        event is None
        or isinstance(event, wire.Done)
        or (isinstance(event, wire.Failed) and event.slug in TYPED)
    )


@pytest.mark.parametrize("blocks", [0, 3, 513, 2**31 - 1])
def test_a_senseless_number_of_layers_ends_cleanly(
    load: Loader, tmp_path: Path, blocks: int
) -> None:
    path = write_model(tmp_path / "m.gguf")
    said, lied = (pair("llama.block_count", U32, number) for number in (2, blocks))
    path.write_bytes(path.read_bytes().replace(said, lied, 1))
    event = load(path)
    assert event is None or (isinstance(event, wire.Failed) and event.slug in TYPED)


def test_a_template_that_is_no_text_does_not_keep_a_model_from_loading(
    load: Loader, tmp_path: Path
) -> None:
    template = pair("tokenizer.chat_template", STRING, b"\xff\xfe {{ messages }}")
    path = write_model(tmp_path / "m.gguf", template=None, more=[template])
    assert isinstance(load(path), wire.Done)
