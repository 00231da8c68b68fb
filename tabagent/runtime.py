"""What a running server keeps on disk for itself: its directory, lock, token and address.

Only one server may own a data directory. Commands find it through `runtime.json`, which is there
while it runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

SOCKET_PATH: Final = 100  # bytes; 104 are too many on macOS
LOOKED_AT_S: Final = 0.2  # a command that looks whether the lock is held holds it, for no time


class DirectoryInUse(Exception):
    """Another server owns the data directory."""

    def __init__(self, pid: int | None) -> None:
        super().__init__(f"another server (pid {pid or 'unknown'}) uses this data directory")
        self.pid = pid


class UnsafeFile(Exception):
    """A secret's file could be read or replaced by someone else; the message names the fix."""


@dataclass(frozen=True, slots=True)
class Running:
    """The server that owns a data directory."""

    pid: int
    url: str  # of HTTP; empty where only the native socket is served
    version: str
    native: dict[str, Any] | None = None  # `path` of a Unix socket, or `port` and `token`


class DataDirectory:
    """A server's own directory, mode 0700."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / "lock", timeout=LOOKED_AT_S)

    def take(self) -> None:
        """Create the directory and lock it until `release` or death. Raises DirectoryInUse."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)
        try:
            self._lock.acquire()
        except Timeout:
            running = self.running()
            raise DirectoryInUse(running.pid if running else None) from None
        (self.path / "runtime.json").unlink(missing_ok=True)  # left by a server that was killed

    def announce(self, running: Running) -> None:
        """Tell commands where this server listens."""
        file = self.path / "runtime.json"
        draft = file.with_suffix(".new")
        draft.unlink(missing_ok=True)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            json.dump(asdict(running), out)
        draft.replace(file)

    def release(self) -> None:
        if self._lock.is_locked:
            (self.path / "runtime.json").unlink(missing_ok=True)
            self._lock.release()

    def running(self) -> Running | None:
        """The server that announced itself here, if any; it may have died since."""
        try:
            return Running(**json.loads((self.path / "runtime.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def serving(self) -> Running | None:
        """The server that runs here: it holds the lock. Another's word for it may be forged, by
        who took over the port of one that died.
        """
        running = self.running()
        if running is None:
            return None
        try:
            with FileLock(self.path / "lock", timeout=0):
                return None
        except Timeout:
            return running
        except OSError:
            return None

    def token(self) -> str:
        """The owner's token: 32 random bytes in hex, made on first use. Raises UnsafeFile."""
        file = self.path / "token"
        nofollow = getattr(os, "O_NOFOLLOW", 0)
        try:
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | nofollow, 0o600)
        except FileExistsError:
            return _read_secret(file, nofollow)
        token = secrets.token_hex(32)
        with open(handle, "w") as out:
            out.write(token + "\n")
        return token


def socket_path(data_dir: Path) -> Path:
    """Where the native socket of this data directory lies: in a directory of ours, mode 0700.

    A path of a socket may have about a hundred bytes; a longer one gives way to one in the
    temporary directory. Raises UnsafeFile when somebody else made that first.
    """
    path = data_dir.absolute() / "native.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH:
        return path
    own = Path(tempfile.gettempdir()) / f"tabagent-{os.getuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    info = own.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise UnsafeFile(f"{own} is not a directory of yours alone; remove it")
    return own / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.sock"


def _read_secret(file: Path, nofollow: int) -> str:
    try:
        handle = os.open(file, os.O_RDONLY | nofollow)
    except OSError:
        raise UnsafeFile(f"{file} is a link or cannot be read; remove it") from None
    with open(handle) as source:
        info = os.fstat(source.fileno())
        if not stat.S_ISREG(info.st_mode):
            raise UnsafeFile(f"{file} is not a plain file; remove it")
        if os.name == "posix":
            if info.st_uid != os.geteuid():
                raise UnsafeFile(f"{file} belongs to another user; remove it")
            if info.st_mode & 0o077:
                raise UnsafeFile(f"{file} can be read by others; chmod 600 it, or remove it")
        token = source.read().strip()
    if len(token) < 16:
        raise UnsafeFile(f"{file} holds no token; remove it and a new one is made")
    return token
