"""The native socket: what the browser's host connects to, in frames of native messaging.

Only this user's processes get in: a Unix socket in a directory of mode 0700 whose peer's user is
looked at, or a loopback port with a token where there is none. The first frame is the host's: it
says which extension the browser started it for.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from tabagent import frames
from tabagent.config import Settings
from tabagent.conversation import Conversation
from tabagent.dispatcher import Dispatcher
from tabagent.operation import Caller
from tabagent.runtime import socket_path

log = structlog.get_logger(__name__)

MOST: Final = 256 * 1024  # bytes of a message; browsers take 1 MiB, and large ones are slow there
PREFACE_S: Final = 5.0
PREFACE_BYTES: Final = 64 * 1024
MOST_CONNECTIONS: Final = 64
UNREAD: Final = 256 * 1024  # bytes that wait for the host before a sender waits too

Identify = Callable[[str], Caller]
"""Who an extension is that the browser vouches for, by its origin."""


class Preface(msgspec.Struct):
    """What a host says first."""

    origin: str
    host_version: str = ""
    token: str = ""


class NativeServer:
    """Listens for hosts; each connection is one extension's conversation."""

    def __init__(self, dispatcher: Dispatcher, settings: Settings, identify: Identify) -> None:
        self._dispatcher, self._settings, self._identify = dispatcher, settings, identify
        self._server: asyncio.Server | None = None
        self._path: Path | None = None
        self._token = ""
        self._connections: set[asyncio.Task[Any]] = set()
        self._open: dict[Conversation, asyncio.StreamWriter] = {}
        self.address: dict[str, Any] | None = None  # as `runtime.json` has it, while it listens

    @property
    def connections(self) -> int:
        return len(self._connections)

    @property
    def busy(self) -> bool:
        """Whether a host has yet to be told something, or to read it."""
        return any(
            conversation.running or writer.transport.get_write_buffer_size()
            for conversation, writer in self._open.items()
        )

    async def start(self) -> None:
        """Listen. Raises OSError."""
        kind = self._settings.native_socket
        if kind == "tcp" or (kind == "auto" and not hasattr(socket, "AF_UNIX")):
            self._token = secrets.token_hex(32)
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=MOST)
            port = self._server.sockets[0].getsockname()[1]
            self.address = {"port": port, "token": self._token}
            return
        self._path = socket_path(self._settings.data_dir)
        self._path.unlink(missing_ok=True)  # the directory is ours: who left it there is dead
        self._server = await asyncio.start_unix_server(self._accept, self._path, limit=MOST)
        self._path.chmod(0o600)
        self.address = {"path": str(self._path)}

    async def stop(self) -> None:
        self.address = None
        if self._server:
            self._server.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=5)
        if self._path:
            self._path.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        assert me is not None
        self._connections.add(me)
        try:
            if len(self._connections) <= MOST_CONNECTIONS and self._is_ours(writer):
                await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the host is gone
        except frames.FrameError as error:
            log.info("native_frame_refused", reason=str(error))
        except asyncio.CancelledError:
            pass  # the server stops; nobody waits for this task but `stop`
        finally:
            self._connections.discard(me)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(PREFACE_S):
            preface = await self._preface(reader)
        if preface is None:
            return

        turn = asyncio.Lock()

        def write(message: bytes) -> None:
            if writer.is_closing():
                raise ConnectionAbortedError("the host is gone")
            writer.write(frames.encode(message))

        async def send(message: bytes) -> None:
            behind = writer.transport.get_write_buffer_size() > UNREAD
            if not behind and not turn.locked():
                write(message)
                return
            async with turn:  # all at once they would fill the buffer again, far beyond its bound
                if writer.transport.get_write_buffer_size() > UNREAD:
                    await self._until_read(writer)
                write(message)

        conversation = Conversation(
            self._dispatcher,
            self._settings,
            lambda: self._identify(preface.origin.removesuffix("/")),
            send,
            transport="native",
            most=MOST,
        )
        self._open[conversation] = writer
        try:
            while True:
                await conversation.receive(await read_frame(reader, frames.MAX_FRAME))
        finally:
            del self._open[conversation]
            await conversation.close()

    async def _until_read(self, writer: asyncio.StreamWriter) -> None:
        """Wait for a host that reads slowly, and cut off one that does not read at all."""
        try:
            async with asyncio.timeout(self._settings.write_stall_s):
                await writer.drain()
        except TimeoutError:
            writer.transport.abort()
            raise ConnectionAbortedError("the host does not read") from None

    async def _preface(self, reader: asyncio.StreamReader) -> Preface | None:
        body = await read_frame(reader, PREFACE_BYTES)
        try:
            preface = msgspec.json.decode(body, type=Preface)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            log.info("native_preface_refused", reason="not a preface")
            return None
        if self._token and not hmac.compare_digest(preface.token.encode(), self._token.encode()):
            log.info("native_preface_refused", reason="another token")
            return None
        return preface

    def _is_ours(self, writer: asyncio.StreamWriter) -> bool:
        if self._token:
            return True  # which it has to show
        user = peer_user(writer.get_extra_info("socket"))
        if user == os.getuid():
            return True
        log.warning("native_peer_refused", user=user)
        return False


async def read_frame(reader: asyncio.StreamReader, most: int) -> bytes:
    """One frame's body. Raises FrameError when it is larger, IncompleteReadError at the end."""
    (length,) = frames.HEADER.unpack(await reader.readexactly(frames.HEADER.size))
    if length > most:
        raise frames.FrameError(f"a frame of {length} bytes is over the limit of {most}")
    return await reader.readexactly(length)


def peer_user(connection: Any) -> int:
    """The user id of the process at the other end of a Unix socket, as the kernel knows it."""
    with socket.socket(fileno=os.dup(connection.fileno())) as own:
        if sys.platform == "darwin":  # struct xucred: version, uid, ...
            raw = own.getsockopt(0, 1, 76)  # SOL_LOCAL, LOCAL_PEERCRED
            return int(struct.unpack_from("=II", raw)[1])
        raw = own.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", raw)[1])
