"""How long a hub is waited for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. `first_wait_s` doubles with every failure in a row."""

    stall_s: float = 30.0
    retries: int = 6
    first_wait_s: float = 1.0


PATIENT: Final = Patience()
