"""What an ended process's memory is waited for: until it is back, or no more comes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import pytest

from tabagent.config import Settings
from tabagent.engine.loaded import Loaded
from tabagent.engine.room import Room
from tabagent.hardware.devices import Accelerators
from tabagent.hardware.findings import Memory

MB = 10**6
BEFORE = Memory(total_bytes=1000 * MB, available_bytes=100 * MB)


async def nothing(entry: Loaded) -> None:
    """Nobody is let go here."""


async def looks(tmp_path: Path, available: Iterator[int], private_bytes: int) -> int:
    """How often the machine is asked before the memory counts as back."""
    asked = 0

    def memory() -> Memory:
        nonlocal asked
        asked += 1
        return Memory(total_bytes=1000 * MB, available_bytes=next(available))

    room = Room(Settings(data_dir=tmp_path), memory, Accelerators, list, nothing, nothing)
    await room.returned(BEFORE, private_bytes)
    return asked


@pytest.mark.parametrize(
    ("megabytes", "private", "expected"),
    [
        ([300], 400, 1),
        ([110, 150, 299, 300], 400, 4),
        ([110, 90, 300], 400, 3),  # others take of it meanwhile
        ([], 60, 0),  # too little to be told from what others do
    ],
)
async def test_it_is_waited_for_until_half_is_back(
    tmp_path: Path, megabytes: list[int], private: int, expected: int
) -> None:
    available = (number * MB for number in megabytes)
    assert await looks(tmp_path, available, private * MB) == expected


@pytest.mark.parametrize("first", [[], [200, 250]])
async def test_nobody_waits_for_what_does_not_come(tmp_path: Path, first: list[int]) -> None:
    """A virtual machine may give it back much later: a fifth of a second of quiet is enough."""
    available = chain((number * MB for number in first), repeat(250 * MB))
    assert 2 < await looks(tmp_path, available, 400 * MB) < 25
