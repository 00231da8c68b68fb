"""Whether llama.cpp's code for Intel's matrix tiles (AMX) was compiled rightly.

GCC before 14 thinks that `_tile_loadconfig` reads 8 of the 64 bytes of its argument, and leaves the
others unset: the processor then ends the process. Builds for the machine they are made on use tiles
wherever there are some, so on a server with Debian 12's compiler every model would crash.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from tabagent.worker.binding import C

SOUND: Final = 14  # the first version of GCC that knows what the instruction reads
COMPILER: Final = re.compile(rb"GCC: \([^)\0]*\) (\d+)\.")


@cache
def tiles_are_sound() -> bool:
    """True where there are no tiles, or another compiler's."""
    if b"AMX_INT8 = 1" not in (C.llama_print_system_info() or b""):
        return True
    found = find_spec("llama_cpp")
    folders = found.submodule_search_locations if found else None
    libraries = [f for folder in folders or () for f in Path(folder, "lib").glob("*ggml-cpu*")]
    return all(compiled_soundly(library.read_bytes()) for library in libraries)


def compiled_soundly(library: bytes) -> bool:
    """Whether no compiler that a library names is too old."""
    return all(int(version) >= SOUND for version in COMPILER.findall(library))
