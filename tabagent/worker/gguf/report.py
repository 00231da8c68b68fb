"""`python -m tabagent.worker.gguf.report`: what the installed llama.cpp says of itself, as JSON.

A process of its own, because only the engine knows what it was built for and which devices it sees,
and the gateway never imports it.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any, Final

TYPES: Final = (
    "cpu",
    "gpu",
    "integrated",
    "accelerator",
    "meta",
)  # of ggml-backend.h, in its order


def report() -> dict[str, Any]:
    """Version, commit, and the devices in the order in which llama.cpp counts them."""
    from tabagent.worker.binding import C

    # ggml's libraries are there already, since llama.cpp's needs them; their names are found in it.
    library = C._lib
    ggml = _declared(library)
    devices = []
    for index in range(ggml.ggml_backend_dev_count()):
        device = ggml.ggml_backend_dev_get(index)
        kind = ggml.ggml_backend_dev_type(device)
        devices.append(
            {
                "name": _text(ggml.ggml_backend_dev_name(device)),
                "description": _text(ggml.ggml_backend_dev_description(device)),
                "kind": TYPES[kind] if kind < len(TYPES) else "other",
            }
        )
    return {
        "version": _text(C.llama_version()),
        "commit": _text(ggml.ggml_commit()),
        "devices": devices,
    }


def _declared(library: Any) -> Any:
    text, pointer, number = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t
    for name, result, arguments in (
        ("ggml_commit", text, []),
        ("ggml_backend_dev_count", number, []),
        ("ggml_backend_dev_get", pointer, [number]),
        ("ggml_backend_dev_type", ctypes.c_int, [pointer]),
        ("ggml_backend_dev_name", text, [pointer]),
        ("ggml_backend_dev_description", text, [pointer]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _text(words: bytes | None) -> str:
    return (words or b"").decode(errors="replace")


def main() -> None:
    """Print one line, whatever the C libraries print meanwhile."""
    sink = os.dup(1)
    os.dup2(2, 1)
    sys.stdout.flush()
    with open(sink, "w") as out:
        json.dump(report(), out)


if __name__ == "__main__":
    main()
