"""The hub's token: from the environment, else the keyring where one works, else a file of ours.

It is never returned, logged or handed to a worker.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from tabagent.errors import Conflict

SERVICE: Final = "tabagent"
ACCOUNT: Final = "hf-token"
Source = Literal["environment", "keyring", "file"]


class HubToken:
    """Reads on every call, so that what another program sets counts at once. Does I/O."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def find(self) -> tuple[str, Source] | None:
        if token := os.environ.get("HF_TOKEN"):
            return token, "environment"
        if token := _keyring_get():
            return token, "keyring"
        with suppress(OSError):
            if token := self._file.read_text().strip():
                return token, "file"
        return None

    def value(self) -> str | None:
        found = self.find()
        return found[0] if found else None

    def set(self, token: str) -> Source:
        if os.environ.get("HF_TOKEN"):
            raise Conflict("HF_TOKEN in the server's environment is what counts; unset it first")
        if _keyring_set(token):
            return "keyring"
        new = self._file.with_name(self._file.name + ".new")
        with suppress(FileNotFoundError):
            new.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(os.open(new, flags, 0o600), "w") as file:
            file.write(token)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self._file)
        return "file"

    def clear(self) -> bool:
        """Whether there was one. What the environment says stays."""
        found = _keyring_delete()
        with suppress(FileNotFoundError):
            self._file.unlink()
            found = True
        return found


def _keyring_get() -> str | None:
    """Nothing without the `keyring` extra, or where no keyring runs, as on a server."""
    with suppress(Exception):
        import keyring

        found: str | None = keyring.get_password(SERVICE, ACCOUNT)
        return found
    return None


def _keyring_set(token: str) -> bool:
    with suppress(Exception):
        import keyring

        keyring.set_password(SERVICE, ACCOUNT, token)
        return bool(keyring.get_password(SERVICE, ACCOUNT) == token)
    return False


def _keyring_delete() -> bool:
    with suppress(Exception):
        import keyring

        keyring.delete_password(SERVICE, ACCOUNT)
        return True
    return False
