"""Ids of what is kept: they grow with time, so an index on them is written at its end."""

from __future__ import annotations

import secrets
from time import time_ns


def new_id(kind: str) -> str:
    """Such as `sess_0199f3c2a1b4d5...`: the milliseconds of now, then chance."""
    return f"{kind}_{time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
