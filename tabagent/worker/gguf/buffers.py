"""What llama.cpp says it has allocated, by device; and the copies of weights that nobody reads.

Quantised weights may be rearranged for the processor: then they lie in memory of their own, and the
file's pages, which were read for that, are of no use any more.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections import defaultdict
from typing import Final

_SIZE: Final = re.compile(rb"(\S+)\s+(model|KV|RS|compute|output) buffer size\s*=\s*([\d.]+) MiB")
MADV_DONTNEED: Final = 4
WORTH_IT: Final = 4 * 2**20  # bytes

_found: dict[str, dict[str, int]] = defaultdict(dict)


def note(line: bytes) -> None:
    """Remember a buffer if the line names one; a later one of its kind takes its place."""
    if b"buffer size" in line and (found := _SIZE.search(line)):
        device, kind = found[1].decode(errors="replace"), found[2].decode().lower()
        _found[device][kind] = int(float(found[3]) * 2**20)


def by_device() -> dict[str, dict[str, int]]:
    """Bytes of each device's buffers by what they are for: model, kv, rs, compute, output."""
    return {device: dict(kinds) for device, kinds in _found.items()}


def forget_copied() -> None:
    """Let go of the mapped files' pages where most weights were rearranged.

    What is still read of a file comes back from the page cache as it is touched.
    """
    copied = sum(kinds.get("model", 0) for name, kinds in _found.items() if "REPACK" in name)
    if copied < WORTH_IT or sys.platform != "linux":
        return
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            bounds, rights, *_ = line.split(" ", 2)
            if rights == "r--s":  # as llama.cpp maps models, and nobody else maps anything
                start, end = (int(part, 16) for part in bounds.split("-"))
                madvise(start, end - start, MADV_DONTNEED)  # at worst nothing comes of it
