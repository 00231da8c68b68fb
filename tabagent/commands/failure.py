"""How a command fails: one line, a hint, and an exit code that scripts can rely on."""

from __future__ import annotations

from typing import Final

FAILED: Final = 1
USAGE: Final = 2
PORT_TAKEN: Final = 3
NO_SERVER: Final = 69  # EX_UNAVAILABLE
DIRECTORY_IN_USE: Final = 75  # EX_TEMPFAIL
BAD_CONFIG: Final = 78  # EX_CONFIG


class CommandFailed(Exception):
    """Ends a command. `hint` says what to do next."""

    def __init__(self, message: str, hint: str = "", code: int = FAILED) -> None:
        super().__init__(message)
        self.hint, self.code = hint, code
