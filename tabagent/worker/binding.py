"""llama.cpp's C API, as `C`, without the rest of its Python package.

The package brings an engine, chat formats and caches of its own, and imports them all: a quarter of
what a worker takes to start. None of that is used here.

A build may come with its code for each kind of processor, and for graphics cards, in libraries of
their own (GGML_BACKEND_DL): then one build runs everywhere at its best, and without a card's driver
too. llama.cpp would look for them beside the interpreter and in the current directory, where they
are not, or where anybody could have put them; so they are loaded here, from beside its library.
"""

from __future__ import annotations

import ctypes
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

PACKAGE: Final = "llama_cpp"


def _c_api() -> Any:
    module = f"{PACKAGE}.llama_cpp"
    found = find_spec(PACKAGE)
    if PACKAGE in sys.modules or found is None:
        return import_module(module)
    stand_in = ModuleType(PACKAGE)
    stand_in.__path__ = list(found.submodule_search_locations or ())
    sys.modules[PACKAGE] = stand_in
    try:
        return import_module(module)
    finally:
        del sys.modules[PACKAGE]  # who imports the package gets all of it


def load_backends(library: Any) -> bool:
    """Have ggml take the best of each kind beside `library`; False where they are linked in."""
    place = Path(library._name).parent
    if not any(place.glob("*ggml-cpu-*")):
        return False
    load = library.ggml_backend_load_all_from_path
    load.restype, load.argtypes = None, [ctypes.c_char_p]
    silent = C.llama_log_callback(lambda *_: None)
    library.llama_log_set(silent, None)  # it tells where they lie, which is nobody's business
    load(os.fsencode(place))
    library.llama_log_set(C.llama_log_callback(), None)
    return True


C: Final = _c_api()
load_backends(C._lib)
