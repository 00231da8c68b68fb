"""A PostgreSQL server for tests, where Debian's package is installed."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MISSING = "*** PostgreSQL was NOT tested: its server is not installed (Debian: apt-get install postgresql) ***"


def programs() -> Path | None:
    """Where initdb and postgres lie."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


@contextmanager
def postgres_server() -> Iterator[str]:
    """Its address, without a database's name. It keeps nothing."""
    place = programs()
    assert place is not None
    # It refuses to run as root; what it needs is then its own user's.
    user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="tabagent-pg") as folder:
        if user:
            owner = pwd.getpwnam("postgres")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        data = Path(folder) / "data"
        made = [
            str(place / "initdb"),
            "-D",
            str(data),
            "-U",
            "tester",
            "--auth=trust",
            "-E",
            "UTF8",
        ]
        subprocess.run([*user, *made, "--no-sync"], check=True, capture_output=True, cwd=folder)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        options = ["-p", str(port), "-c", f"unix_socket_directories={folder}", "-c", "fsync=off",
                   "-c", "listen_addresses=127.0.0.1"]  # fmt: skip
        server = subprocess.Popen(
            [*user, str(place / "postgres"), "-D", str(data), *options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 20
            ready = [str(place / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-q"]
            while subprocess.run(ready, check=False).returncode:
                assert time.monotonic() < deadline, "PostgreSQL did not start"
                time.sleep(0.05)
            yield f"postgresql://tester@127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(20)


def new_database(server: str, name: str) -> str:
    """The address of an empty database."""
    import psycopg

    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        connection.execute(f'CREATE DATABASE "{name}"')
    return f"{server}/{name}"
