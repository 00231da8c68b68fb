"""Where a text that is too long to be read at once is parted."""

from __future__ import annotations

from typing import Final

OVERLAP: Final = 8  # windows share one part in so many with the next
LEAST_ROOM: Final = (
    32  # tokens that a query must leave for documents, or a quarter of a small context
)


def window_starts(length: int, room: int) -> list[int]:
    """Where windows of `room` tokens begin, that overlap and together cover `length`.

    >>> window_starts(20, 8)
    [0, 6, 12]
    """
    stride = max(1, room - room // OVERLAP)
    count = max(1, -(-(length - room) // stride) + 1)
    last = max(0, length - room)
    return [round(last * i / max(1, count - 1)) for i in range(count)]


def least_room(limit: int) -> int:
    """Tokens of a sequence of `limit` that a query must leave for the document."""
    return min(LEAST_ROOM, limit // 4)
