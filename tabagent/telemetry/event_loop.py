"""How late the event loop is: what everybody waits who waits for it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

EVERY_S: Final = 0.25
LOOKS: Final = 60  # that the worst is of: fifteen seconds


class Lag:
    """Looks four times a second, which costs nothing that can be measured."""

    def __init__(self) -> None:
        self._late: deque[float] = deque([0.0], maxlen=LOOKS)
        self._task: asyncio.Task[None] | None = None

    @property
    def worst(self) -> float:
        """Seconds, of the last fifteen."""
        return max(self._late)

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + EVERY_S
            await asyncio.sleep(EVERY_S)
            self._late.append(max(0.0, loop.time() - due))
