"""The peer: llama-server, built once from the tree and with the flags our engine was built with."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.server import Layout, Server, child, healthy, wait
from benchmarks.source import CACHE, tree, version

AS_THE_WHEEL: Final = {
    # What scikit-build-core asks for where nothing else is said.
    "CMAKE_BUILD_TYPE": "Release",
    # The package sets it: ggml's kernels lie behind the same shared-library calls.
    "BUILD_SHARED_LIBS": "ON",
    # ggml's own default, which the wheel's build leaves: this machine's instructions. Said aloud
    # because SOURCE_DATE_EPOCH in the environment would turn it off. OpenMP, llamafile's matrix
    # kernels and repacking stay at the defaults that the wheel's build leaves, too.
    "GGML_NATIVE": "ON",
}
SERVER_ONLY: Final = {
    # The server speaks plain HTTP here.
    "LLAMA_OPENSSL": "OFF",
    # The page in the browser needs npm, or a download of what npm made: no API needs it.
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    # Less to configure; only one target is built anyway.
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    # The tree has no history of its own: git would name this repository's commit instead.
    "LLAMA_BUILD_NUMBER": "0",
    # The libraries lie beside the program, wherever the folder is moved.
    "CMAKE_BUILD_RPATH_USE_ORIGIN": "ON",
}


def built() -> Path:
    """The program, built if it is not there yet: five to fifteen minutes on two cores."""
    folder = CACHE / f"llama-server-{version()}"
    program = folder / "bin" / "llama-server"
    if not program.exists():
        log = CACHE / "llama-server-build.log"
        print(f"building llama-server, once, for five to fifteen minutes; see {log}", flush=True)
        flags = {**AS_THE_WHEEL, **SERVER_ONLY, "LLAMA_BUILD_COMMIT": version()}
        generator = ["-G", "Ninja"] if _tool("ninja") else []
        cmake = _tool("cmake") or sys.exit("cmake is missing: pip install '.[bench]'")
        defines = [f"-D{name}={value}" for name, value in flags.items()]
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(os.cpu_count() or 1)
        build = [cmake, "--build", str(folder), "--target", "llama-server", "--parallel", jobs]
        configure = [cmake, "-S", str(tree()), "-B", str(folder), *generator, *defines]
        with log.open("w") as out:
            for command in (configure, build):
                if subprocess.run(command, stdout=out, stderr=out, check=False).returncode:
                    sys.exit(f"llama-server could not be built: {log} says why")
    return program


def _tool(name: str) -> str | None:
    """A program from our own environment, else from the system."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return shutil.which(name, path=places)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def llama_server(layout: Layout, more: Sequence[str] = ()) -> Iterator[Server]:
    """llama-server, ready, with `more` arguments behind ours. What it says goes to a log."""
    port = _free_port()
    command = [
        str(built()),
        *("--model", str(layout.model)),
        *("--host", "127.0.0.1", "--port", str(port)),
        # Prompts take the same number as decoding unless told otherwise.
        *("--threads", str(layout.threads)),
        # Slots: as many as ours. With a number given, each slot's KV cache is a buffer of its own
        # (`--no-kv-unified` is the default then), and this is the sum of their contexts.
        *("--parallel", str(layout.slots)),
        *("--ctx-size", str(layout.slots * layout.n_ctx)),
        "--no-ui",
        # Everything else at its default: flash attention is `auto` (on, where the CPU can), prompts
        # go in batches of 2,048 tokens cut into 512, slots keep their prompts for the next request.
        *more,
    ]
    # Its settings can come from the environment too.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LLAMA_ARG_")}
    with (
        (CACHE / "llama-server-run.log").open("w") as log,
        child(command, environment, log=log) as (process, began),
    ):
        wait(f"llama-server (see {log.name})", process, lambda: healthy(port), 0.005)
        yield Server("llama-server", port, process, began, "/tokenize", "content")
