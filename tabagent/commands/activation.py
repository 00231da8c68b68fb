"""What a service manager hands over and wants to hear: open sockets, and how far the start is.

The protocols are systemd's, sd_listen_fds(3) and sd_notify(3); others speak them too. Nothing of it
reaches the workers: the variables are gone once they were read.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections.abc import Callable
from typing import Final

from tabagent.commands.failure import BAD_CONFIG, CommandFailed
from tabagent.config import Settings

FIRST: Final = 3  # the descriptor after standard input, output and error
VARIABLES: Final = ("LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES")
NOTIFY_S: Final = 1.0

Notify = Callable[[str], None]


def inherited() -> list[socket.socket]:
    """Sockets that were opened for this process. Raises CommandFailed when they are none."""
    said = {name: os.environ.pop(name, "") for name in VARIABLES}
    if said["LISTEN_PID"] != str(os.getpid()):
        return []  # for another process, which started this one
    count = said["LISTEN_FDS"]
    if not count.isdecimal() or int(count) == 0:
        return []
    found = []
    for descriptor in range(FIRST, FIRST + int(count)):
        try:
            os.set_inheritable(descriptor, False)
            found.append(socket.socket(fileno=descriptor))
        except OSError as error:
            raise CommandFailed(
                f"LISTEN_FDS says {count}, but {descriptor} is no socket", code=BAD_CONFIG
            ) from error
    return found


def check_inherited(listeners: list[socket.socket], settings: Settings) -> None:
    """What was handed over has to be what the settings allow. Raises CommandFailed.

    Who needs a token depends on `host`: a port that is open to others while `host` says this
    machine alone would be served to them without one.
    """
    if settings.mode == "native":
        raise CommandFailed(
            "a port was handed over, but `mode` is native", "leave the socket out", BAD_CONFIG
        )
    for listener in listeners:
        if listener.family not in (socket.AF_INET, socket.AF_INET6) or not _listens(listener):
            raise CommandFailed(
                f"descriptor {listener.fileno()} was handed over, and is no listening TCP socket",
                "in a socket unit: ListenStream=127.0.0.1:8080",
                BAD_CONFIG,
            )
        host = listener.getsockname()[0]
        if settings.local_only and not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
            raise CommandFailed(
                f"the port that was handed over is open on {host}, but `host` is {settings.host}",
                f"set both to the same: --host {host}",
                BAD_CONFIG,
            )
    if len({listener.getsockname()[1] for listener in listeners}) > 1:
        raise CommandFailed(
            "ports that differ were handed over", "one port, on several addresses", BAD_CONFIG
        )


def _listens(listener: socket.socket) -> bool:
    return (
        listener.type == socket.SOCK_STREAM
        and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    )


def notifier() -> Notify:
    """Tells who started us what is said, such as `READY=1`; nothing where nobody wants to hear."""
    address = os.environ.pop("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return lambda _: None
    if address.startswith("@"):
        address = "\0" + address[1:]  # an abstract one

    def notify(words: str) -> None:
        # A manager that is gone, or that does not read, is no reason to stop serving.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.settimeout(NOTIFY_S)
            line.connect(address)
            line.sendall(words.encode())

    return notify
