"""Where llama.cpp's libraries for each processor are taken from, when they are apart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from tabagent.worker.binding import C, load_backends


def test_libraries_for_each_processor_are_taken_from_beside_llama_cpp(tmp_path: Path) -> None:
    asked: list[bytes] = []
    for name in ("libllama.so", "libggml-cpu-x64.so", "libggml-cpu-haswell.so"):
        (tmp_path / name).touch()
    library = SimpleNamespace(
        _name=str(tmp_path / "libllama.so"),
        ggml_backend_load_all_from_path=lambda place: asked.append(place),
        llama_log_set=lambda *_: None,
    )
    assert load_backends(library)
    assert asked == [bytes(tmp_path)]


def test_a_build_for_one_processor_is_left_as_it_is(tmp_path: Path) -> None:
    for name in ("libggml-cpu.so", "libggml-cpu.so.0", "libggml-base.so"):
        (tmp_path / name).touch()
    assert not load_backends(SimpleNamespace(_name=str(tmp_path / "libllama.so")))


def test_nothing_is_loaded_from_the_current_directory(tmp_path: Path) -> None:
    """llama.cpp itself looks there, where a stranger's library may lie."""
    source = tmp_path / "evil.c"
    source.write_text(
        "#include <stdio.h>\n"
        '__attribute__((constructor)) static void loaded(void) { puts("EVIL"); }\n'
    )
    evil = tmp_path / "libggml-cpu-evil.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(evil), str(source)], check=True)
    program = (
        "from tabagent.worker.binding import C; C.llama_backend_init();"
        "print(C._lib.ggml_backend_reg_count())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "EVIL" not in done.stdout
    assert int(done.stdout) >= 1


def test_there_is_a_processor_to_run_on() -> None:
    assert C._lib.ggml_backend_dev_count() >= 1
