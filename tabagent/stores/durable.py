"""What is begun is done."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def durably(work: Coroutine[Any, Any, T]) -> T:
    """Do it to its end, also when the caller leaves: it is kept, or is not, as a whole."""
    return await asyncio.shield(asyncio.get_running_loop().create_task(work))
