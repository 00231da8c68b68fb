"""llama.cpp's C API, as `C`, without the rest of its Python package.

The package brings an engine, chat formats and caches of its own, and imports them all: a quarter of
what a worker takes to start. None of that is used here.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
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


C: Final = _c_api()
