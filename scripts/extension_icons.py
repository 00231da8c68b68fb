"""Draws the extension's icons: `python -m scripts.extension_icons`. The standard library alone.

A white browser tab with a spark on blue. Shapes are signed distances in a square from -1 to 1, so
every size is drawn from the same formulas, and their edges are smooth.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

SIZES: Final = (16, 32, 48, 128)
PLACE: Final = Path(__file__).parent.parent / "extension-manifest" / "icons"
TOP, BOTTOM, WHITE = (58, 130, 230), (24, 78, 168), (255, 255, 255)
Distance = Callable[[float, float], float]


def box(x: float, y: float, width: float, height: float, radius: float) -> float:
    """Of a rounded rectangle around the origin, by half its sides; negative inside."""
    dx, dy = abs(x) - width + radius, abs(y) - height + radius
    return math.hypot(max(dx, 0.0), max(dy, 0.0)) + min(max(dx, dy), 0.0) - radius


def tab(x: float, y: float) -> float:
    """A page with the tab that it hangs from."""
    page = box(x, y - 0.16, 0.62, 0.46, 0.14)
    handle = box(x + 0.29, y + 0.26, 0.33, 0.32, 0.14)
    return min(page, handle)


def spark(x: float, y: float) -> float:
    """A star of four points, its sides drawn in."""
    return math.pow(abs(x) ** 0.62 + abs(y - 0.16) ** 0.62, 1 / 0.62) - 0.36


def cover(distance: float, pixel: float) -> float:
    """How much of a pixel lies inside."""
    return min(max(0.5 - distance / pixel, 0.0), 1.0)


def rows(size: int) -> Iterator[bytes]:
    """RGBA, a filter byte before each row."""
    pixel = 2 / size
    for line in range(size):
        row = bytearray(b"\0")
        for column in range(size):
            x, y = (column + 0.5) * pixel - 1, (line + 0.5) * pixel - 1
            ground = tuple(a + (b - a) * (y + 1) / 2 for a, b in zip(TOP, BOTTOM, strict=True))
            white = cover(tab(x, y), pixel) * (1 - cover(spark(x, y), pixel))
            colour = (g + (w - g) * white for g, w in zip(ground, WHITE, strict=True))
            row += bytes(round(value) for value in colour)
            row.append(round(255 * cover(box(x, y, 0.98, 0.98, 0.44), pixel)))
        yield bytes(row)


def png(size: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = struct.pack(">IIBBBBB", size, size, 8, 6, 0, 0, 0)
    body = zlib.compress(b"".join(rows(size)), 9)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def main() -> None:
    PLACE.mkdir(exist_ok=True)
    for size in SIZES:
        (PLACE / f"icon-{size}.png").write_bytes(png(size))


if __name__ == "__main__":
    main()
