"""How a command reaches a server that serves the browser's native host alone: over its socket."""

from __future__ import annotations

import contextlib
import json
import socket
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from tabagent import frames
from tabagent.app import OWNER_ORIGIN
from tabagent.commands.failure import NO_SERVER, CommandFailed

WAIT_S: Final = 20.0


class NativeSocket:
    """Asks one thing at a time, as who `origin` says. `token` is the socket's, where it has one."""

    def __init__(self, connection: socket.socket, origin: str, token: str) -> None:
        self._connection = connection
        self._decoder = frames.FrameDecoder()
        self._unread: deque[bytes] = deque()  # that came together with what was read
        self._send({"origin": origin, "token": token})

    def ask(self, route: str, payload: dict[str, Any]) -> Any:
        """One operation's reply. Raises CommandFailed with the problem's detail."""
        self._send({"request_id": "1", "route": route, "payload": payload})
        message = self._receive()
        parts: list[str] = []
        while message.get("event") == "part":
            parts.append(message["text"])
            if not message["more"]:
                message = json.loads("".join(parts))
                break
            message = self._receive()
        if not message["success"]:
            problem = message["error"]
            raise CommandFailed(f"{problem['detail']} ({problem['code']})")
        return message["data"]

    def _send(self, message: dict[str, Any]) -> None:
        self._connection.sendall(frames.encode(json.dumps(message).encode()))

    def _receive(self) -> dict[str, Any]:
        while not self._unread:
            data = self._connection.recv(65536)
            if not data:
                raise ConnectionError
            self._unread += self._decoder.feed(data)
        message: dict[str, Any] = json.loads(self._unread.popleft())
        return message


@contextlib.contextmanager
def owner_socket(address: dict[str, Any], token: str) -> Iterator[NativeSocket]:
    """Connected as the owner, where `runtime.json` says. Raises CommandFailed without an answer."""
    with native_socket(address, f"{OWNER_ORIGIN}{token}/") as line:
        yield line


@contextlib.contextmanager
def native_socket(address: dict[str, Any], origin: str) -> Iterator[NativeSocket]:
    try:
        with _connected(address) as connection:
            yield NativeSocket(connection, origin, str(address.get("token", "")))
    except OSError as error:
        raise CommandFailed(
            "the server does not answer", "start one: tabagent serve", NO_SERVER
        ) from error


def _connected(address: dict[str, Any]) -> socket.socket:
    if "port" in address:
        return socket.create_connection(("127.0.0.1", address["port"]), WAIT_S)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(WAIT_S)
    try:
        connection.connect(address["path"])
    except BaseException:
        connection.close()
        raise
    return connection
