"""What stands in for a browser's host: one connection to the native socket, in frames."""

from __future__ import annotations

import json
import socket
import struct
import uuid
from typing import Any, Self

from tabagent.stores.clients import Client, ClientStore
from tests.live import FAKE, LiveServer

EXTENSION = "abcdefghijklmnopabcdefghijklmnop"
ORIGIN = f"chrome-extension://{EXTENSION}"


def approve(server: LiveServer, extension: str = EXTENSION, access: str = "user") -> str:
    """The client that the owner makes of an extension; its id."""
    asked = {"extension_id": extension, "access": access}
    response = server.owner.post("/v1/clients", json=asked)
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


def client_of(store: ClientStore, token: str) -> Client | None:
    """Whose token this is."""
    found = store.holder(token)
    return found[0] if found else None


class NativeClient:
    """A connection that an extension's host has opened. Use as a context manager."""

    def __init__(
        self, server: LiveServer, origin: str = ORIGIN + "/", *, preface: Any = None
    ) -> None:
        address = server.gateway.native.address
        assert address is not None
        if "path" in address:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(address["path"])  # blocks while the backlog is full
            self.socket.settimeout(20)
        else:
            self.socket = socket.create_connection(("127.0.0.1", address["port"]), 20)
        self._file = self.socket.makefile("rb")
        said = {"origin": origin, "host_version": "0", "token": address.get("token", "")}
        self.frame(json.dumps(said if preface is None else preface).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def frame(self, body: bytes) -> None:
        self.socket.sendall(struct.pack("=I", len(body)) + body)

    def say(self, **message: Any) -> None:
        self.frame(json.dumps(message).encode())

    def ask(self, route: str, payload: Any = None, request_id: str | None = None) -> str:
        """Begin a request; its id."""
        request_id = request_id or str(uuid.uuid4())
        more = {} if payload is None else {"payload": payload}
        self.say(request_id=request_id, route=route, **more)
        return request_id

    def raw(self) -> dict[str, Any] | None:
        """The next message as it comes; None at the end of the connection."""
        try:
            header = self._file.read(4)
            if len(header) < 4:
                return None
            (length,) = struct.unpack("=I", header)
            message: dict[str, Any] = json.loads(self._file.read(length))
        except ConnectionResetError:
            return None
        return message

    def hear(self) -> dict[str, Any]:
        """The next message, its parts joined."""
        parts: list[str] = []
        while True:
            message = self.raw()
            assert message is not None, "the server hung up"
            if message.get("event") != "part":
                return message
            assert message["seq"] == len(parts)
            parts.append(message["text"])
            if not message["more"]:
                joined: dict[str, Any] = json.loads("".join(parts))
                return joined

    def reply(self, route: str, payload: Any = None) -> dict[str, Any]:
        """A plain reply, or the failure, of a connection that asks nothing else."""
        request_id = self.ask(route, payload)
        message = self.hear()
        assert message["request_id"] == request_id, message
        return message

    def last(self, request_id: str) -> dict[str, Any]:
        """Wait for the end of a request, whatever comes before it."""
        while True:
            message = self.hear()
            over = not message["success"] or message.get("event") != "chunk"
            if message["request_id"] == request_id and over:
                return message


def chat(text: str, **more: Any) -> dict[str, Any]:
    body = {"model": FAKE, "messages": [{"role": "user", "content": text}], "stream": True}
    return {**body, **more}


def text_of(message: dict[str, Any]) -> str:
    """What one chunk of a chat adds."""
    choices = message["data"]["choices"]
    return str(choices[0]["delta"].get("content") or "") if choices else ""
