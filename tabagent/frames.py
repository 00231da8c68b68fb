"""How bytes travel on every pipe we own: a 4-byte length, then the body.

The length is an unsigned integer in native byte order, as browsers frame native messages, so one
framing serves the worker pipes, the native socket and the browser's host. No I/O happens here.
"""

from __future__ import annotations

import struct
from typing import Final

HEADER: Final = struct.Struct("=I")
MAX_FRAME: Final = 64 * 1024 * 1024
"""Largest body in bytes, either way; a browser sends no more either."""


class FrameError(ValueError):
    """The peer broke the framing; nothing after this point can be trusted."""


def encode(body: bytes) -> bytes:
    """One frame around `body`. Raises FrameError when the body is over MAX_FRAME."""
    if len(body) > MAX_FRAME:
        raise FrameError(f"a frame of {len(body)} bytes is over the limit of {MAX_FRAME}")
    return HEADER.pack(len(body)) + body


class FrameDecoder:
    """Turns chunks of any size into whole bodies.

    >>> FrameDecoder().feed(encode(b"a") + encode(b"bc")[:3])
    [b'a']
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """All bodies complete after `data`. Raises FrameError on a length over MAX_FRAME."""
        buffer = self._buffer
        buffer += data
        bodies: list[bytes] = []
        at, end = 0, len(buffer)
        while end - at >= HEADER.size:
            (length,) = HEADER.unpack_from(buffer, at)
            if length > MAX_FRAME:
                raise FrameError(f"a frame of {length} bytes is over the limit of {MAX_FRAME}")
            start = at + HEADER.size
            if end - start < length:
                break
            at = start + length
            bodies.append(bytes(buffer[start:at]))
        del buffer[:at]
        return bodies
