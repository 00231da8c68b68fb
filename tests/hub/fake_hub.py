"""A hub of our own: real HTTP on loopback, well-behaved until it is told otherwise.

Speaks what is asked of a Hugging Face hub: a repository's listing with sizes and digests, files at
a commit with ranges, and a second origin where large files lie.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Asked:
    """A request as it came."""

    path: str
    headers: dict[str, str]

    @property
    def start(self) -> int:
        return int(self.headers.get("range", "bytes=0-")[6:].split("-")[0])


@dataclass
class Reply:
    """What is sent: head and body, of which only `cut` bytes come, before the connection closes or
    with `stall` stays open.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = None  # as declared
    cut: int | None = None
    stall: bool = False
    pace: tuple[int, float] | None = None  # bytes at a time, seconds between


Misbehave = Callable[[Asked, bytes], Reply | None]
"""Given a request for a file and its bytes: another reply, or None for the right one."""


class FakeHub:
    """Use as a context manager. `files` by path; `misbehave` gets every request for a file."""

    def __init__(self, files: dict[str, bytes], repo: str = "maker/model") -> None:
        self.repo, self.files = repo, files
        self.misbehave: Misbehave = lambda asked, body: None
        self.listing: Callable[[dict[str, Any]], Reply | None] = lambda document: None
        self.asked: list[Asked] = []
        self.elsewhere: FakeHub | None = None  # the origin that large files are sent to
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def asked_for(self, path: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.path.endswith(path)]

    # ---- the server -----------------------------------------------------------------------------
    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *lines = head.decode("latin-1").strip().split("\r\n")
                pairs = (line.split(":", 1) for line in lines)
                headers = {name.strip().lower(): value.strip() for name, value in pairs}
                asked = Asked(line.split(" ")[1], headers)
                self.asked.append(asked)
                if await self._send(writer, self._answer(asked)):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _send(self, writer: asyncio.StreamWriter, reply: Reply) -> bool:
        """Whether the connection has to close."""
        length = len(reply.body) if reply.length is None else reply.length
        headers = {"Content-Length": str(length)} | reply.headers
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {reply.status} X\r\n{lines}\r\n".encode("latin-1"))
        body = reply.body if reply.cut is None else reply.body[: reply.cut]
        step, pause = reply.pace or (1 << 20, 0.0)
        for at in range(0, len(body), step):
            writer.write(body[at : at + step])
            await writer.drain()
            if pause:
                await asyncio.sleep(pause)
        if reply.stall:
            await asyncio.sleep(3600)
        return reply.cut is not None or length != len(reply.body)

    def _answer(self, asked: Asked) -> Reply:
        path = asked.path.partition("?")[0]
        if path.startswith("/api/models/"):
            return self._list(path)
        name = path.removeprefix(f"/{self.repo}/resolve/{COMMIT}/").removeprefix("/blob/")
        if name not in self.files:
            return Reply(404, {"X-Error-Code": "EntryNotFound"})
        body = self.files[name]
        if (other := self.misbehave(asked, body)) is not None:
            return other
        if self.elsewhere is not None:
            return Reply(302, {"Location": f"{self.elsewhere.url}/blob/{name}"})
        return self.right(asked, body)

    @staticmethod
    def right(asked: Asked, body: bytes) -> Reply:
        """The bytes from where they are asked for."""
        if "range" not in asked.headers:
            return Reply(200, {"Accept-Ranges": "bytes"}, body)
        start, size = asked.start, len(body)
        return Reply(206, {"Content-Range": f"bytes {start}-{size - 1}/{size}"}, body[start:])

    def _list(self, path: str) -> Reply:
        if not path.startswith(f"/api/models/{self.repo}"):
            return Reply(404, {"X-Error-Code": "RepoNotFound"}, b"{}")
        document = {
            "_id": "1",
            "id": self.repo,
            "modelId": self.repo,
            "sha": COMMIT,
            "siblings": [_sibling(name, body) for name, body in self.files.items()],
        }
        if (other := self.listing(document)) is not None:
            return other
        return Reply(200, {"Content-Type": "application/json"}, json.dumps(document).encode())


def _sibling(name: str, body: bytes) -> dict[str, Any]:
    if name.endswith((".json", ".md", ".jinja")):  # what git keeps itself
        blob = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
        return {"rfilename": name, "size": len(body), "blobId": blob}
    digest = hashlib.sha256(body).hexdigest()
    return {
        "rfilename": name,
        "size": len(body),
        "blobId": hashlib.sha1(body).hexdigest(),
        "lfs": {"sha256": digest, "size": len(body), "pointerSize": 130},
    }


def bomb(size: int) -> bytes:
    """Few bytes that unpack to many."""
    return gzip.compress(bytes(size))
