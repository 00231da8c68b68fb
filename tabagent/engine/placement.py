"""How a model is laid into this machine: context, slots and threads, before a process starts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

import psutil

from tabagent.catalog.models import Model

LARGEST_DEFAULT_CONTEXT: Final = 8192  # tokens; a longer one is given when it is asked for
TINY: Final = 32 * 2**20  # bytes of weights
KV_SHARE: Final = 0.25  # of the memory available now, for all sequences together


@dataclass(frozen=True, slots=True)
class Placement:
    """What a worker is told. `kv_tokens` is the room that all its sequences share."""

    n_ctx: int
    slots: int
    kv_tokens: int
    threads: int


def place(model: Model, *, n_ctx: int, slots: int, threads: int) -> Placement:
    """Settings for `model`; zeros are chosen here. `n_ctx` is the context of one sequence."""
    own = model.context_length or LARGEST_DEFAULT_CONTEXT
    context = n_ctx or min(own, LARGEST_DEFAULT_CONTEXT)
    room = context * slots
    if model.kv_bytes_per_token:
        spare = int(psutil.virtual_memory().available * KV_SHARE)
        room = max(context, min(room, spare // model.kv_bytes_per_token))
    # A step of a tiny model is over before threads have met at its barriers: on a busy machine one
    # thread gave 900 to 1,850 tokens a second where two gave 96 to 2,100.
    tiny = 0 < model.size_bytes < TINY
    return Placement(context, slots, room, threads or (1 if tiny else cores()))


def cores() -> int:
    """Physical cores this process may use: hyper-threads slow matrix work down."""
    physical = psutil.cpu_count(logical=False) or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else physical
    return max(1, min(physical, allowed))
