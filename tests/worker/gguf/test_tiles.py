"""Builds whose matrix tiles crash are known by their compiler."""

from __future__ import annotations

import llama_cpp
import pytest

from tabagent.worker.gguf.tiles import compiled_soundly, tiles_are_sound


@pytest.mark.parametrize(
    ("library", "sound"),
    [
        (b"\0GCC: (Debian 12.2.0-14+deb12u1) 12.2.0\0", False),
        (b"\0GCC: (GNU) 14.1.0\0GCC: (GNU) 13.2.0\0", False),
        (b"\0GCC: (GNU) 14.1.0\0", True),
        (b"\0clang version 19.1.0\0", True),
        (b"", True),
    ],
)
def test_an_old_compiler_is_seen(library: bytes, sound: bool) -> None:
    assert compiled_soundly(library) == sound


def test_a_build_without_tiles_is_sound() -> None:
    assert tiles_are_sound() or b"AMX_INT8 = 1" in llama_cpp.llama_print_system_info()
