"""One file from the hub, whole and right or not there: resumed, bounded, hashed, renamed.

The bytes are those of a commit, so they cannot change midway; whatever is sent instead is found by
the digest that the repository's listing gave. Nothing is decoded on the way, and no byte more than
declared is written.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import time
from typing import Any, Final
from urllib.parse import quote, urljoin, urlsplit

import httpx

from tabagent.errors import (
    AccessDenied,
    ChecksumMismatch,
    InsufficientStorage,
    ModelNotFound,
    TabAgentError,
    UpstreamInvalid,
    UpstreamUnreachable,
)
from tabagent.hub.patience import PATIENT, Patience
from tabagent.hub.repository import RemoteFile

CHUNK: Final = 1 << 20
MOST_REDIRECTS: Final = 5
LONGEST_WAIT_S: Final = 120.0
LOOPBACK: Final = {"127.0.0.1", "localhost", "::1"}
RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")

Sleep = Callable[[float], Awaitable[None]]


class _Again(Exception):
    """This attempt came to nothing, another may not. `after_s` is the server's own wish."""

    def __init__(self, why: str, after_s: float | None = None) -> None:
        super().__init__(why)
        self.after_s = after_s


class Download:
    """`part` is where the bytes wait until all of them are there and right.

    `note(bytes)` is told of every change of how many are there.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        endpoint: str,
        token: str | None,
        note: Callable[[int], None],
        patience: Patience = PATIENT,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._client, self._endpoint, self._token = client, endpoint.rstrip("/"), token
        self._note, self._patience, self._sleep = note, patience, sleep

    async def fetch(
        self, repo: str, commit: str, file: RemoteFile, part: Path, target: Path
    ) -> None:
        """Raises ChecksumMismatch, Upstream errors, AccessDenied, ModelNotFound, InsufficientStorage.

        Whatever it raises, `target` is untouched, and what `part` holds is the file's beginning or
        gone.
        """
        assert file.proof, "files without a digest are not listed"
        url = f"{self._endpoint}/{repo}/resolve/{commit}/{quote(file.path)}"
        beginning = await asyncio.to_thread(_Beginning, part, file)
        self._note(beginning.size)
        failures = 0
        while (have := beginning.size) < file.size:
            try:
                await self._attempt(url, file, beginning)
            except _Again as again:
                failures = 0 if beginning.size > have else failures + 1
                if failures > self._patience.retries:
                    raise UpstreamUnreachable(f"{file.path}: {again}") from again
                wait = self._patience.first_wait_s * 2 ** max(0, failures - 1)
                wait = again.after_s if again.after_s is not None else wait
                await self._sleep(min(wait, LONGEST_WAIT_S))
        if beginning.digest != file.proof:
            beginning.restart()
            raise ChecksumMismatch(f"{file.path}: what came is not what was published")
        await asyncio.to_thread(_put, part, target)

    async def _attempt(self, url: str, file: RemoteFile, beginning: _Beginning) -> None:
        try:
            async with aclosing(await self._open(url, beginning.size)) as response:
                if response.status_code == 416:
                    beginning.restart()
                    raise _Again("the hub does not know that range")
                if not _continues(response, beginning.size, file):
                    beginning.restart()  # it cannot resume, so all of it comes again
                await self._write(response, file, beginning)
        except (httpx.TimeoutException, TimeoutError) as error:
            raise _Again("the hub stalled") from error
        except httpx.HTTPError as error:
            raise _Again(f"the connection broke ({type(error).__name__})") from error
        if beginning.size < file.size:
            raise _Again("the connection ended too soon")

    async def _open(self, url: str, have: int) -> httpx.Response:
        """The answer after redirects. The token goes to the configured hub and nowhere else."""
        for _ in range(MOST_REDIRECTS + 1):
            headers = {"Accept-Encoding": "identity"}
            if have:
                headers["Range"] = f"bytes={have}-"
            if self._token and _may_know(url, self._endpoint):
                headers["Authorization"] = f"Bearer {self._token}"
            request = self._client.build_request("GET", url, headers=headers)
            async with asyncio.timeout(self._patience.stall_s):
                response = await self._client.send(request, stream=True)
            if response.status_code not in (301, 302, 303, 307, 308):
                return await _accepted(response)
            await response.aclose()
            url = _followed(url, response.headers.get("location", ""))
        raise UpstreamInvalid("the hub redirects in a circle")

    async def _write(
        self, response: httpx.Response, file: RemoteFile, beginning: _Beginning
    ) -> None:
        chunks = response.aiter_raw()  # as they come: a slow hub is no stalled one
        while True:
            async with asyncio.timeout(self._patience.stall_s):
                chunk = await anext(chunks, b"")
            if not chunk:
                return
            if beginning.size + len(chunk) > file.size:
                beginning.restart()
                raise UpstreamInvalid(f"{file.path} is longer than the {file.size} bytes declared")
            try:
                await asyncio.to_thread(beginning.append, chunk)
            except OSError as error:
                raise _no_room(error) from error
            self._note(beginning.size)


class _Beginning:
    """What is there of a file, and its digest so far. Made in a thread: it reads what is there."""

    def __init__(self, path: Path, file: RemoteFile) -> None:
        self._path, self._file = path, file
        self.size, self._hasher = 0, _hasher(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        if _size(path) > file.size:
            self.restart()
        if path.exists():
            with path.open("rb") as there:
                while chunk := there.read(CHUNK):
                    self._hasher.update(chunk)
                    self.size += len(chunk)

    @property
    def digest(self) -> str:
        found: str = self._hasher.hexdigest()
        return found

    def append(self, chunk: bytes) -> None:
        with self._path.open("ab") as file:
            file.write(chunk)
        self._hasher.update(chunk)
        self.size += len(chunk)

    def restart(self) -> None:
        self._path.unlink(missing_ok=True)
        self.size, self._hasher = 0, _hasher(self._file)


def _hasher(file: RemoteFile) -> Any:
    """SHA-256; of a file that git keeps itself its object id, a SHA-1 with the size before it."""
    if file.digest is not None:
        return hashlib.sha256()
    return hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _put(part: Path, target: Path) -> None:
    """Durable first, then visible."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(part, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _continues(response: httpx.Response, have: int, file: RemoteFile) -> bool:
    """Whether the answer goes on where we are. Raises UpstreamInvalid for what cannot be it."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise UpstreamInvalid(f"{file.path} comes encoded, which nobody asked for")
    if response.status_code == 200:
        return have == 0
    found = RANGE.fullmatch(response.headers.get("content-range", ""))
    if found is None or int(found[1]) != have or int(found[3]) != file.size:
        raise UpstreamInvalid(f"{file.path}: the hub sends another range than was asked for")
    return True


async def _accepted(response: httpx.Response) -> httpx.Response:
    """The answer, if there are bytes of the file in it."""
    status = response.status_code
    if status in (200, 206, 416):
        return response
    await response.aclose()
    if status in (401, 403):
        raise AccessDenied(
            "the hub refuses the file: the token is missing, wrong or holds too little"
        )
    if status in (404, 410):
        raise ModelNotFound(
            "the file is gone from the hub", param="model", model="", pull_hint="pull again"
        )
    if status == 429 or status >= 500:
        raise _Again(f"the hub answered with status {status}", _retry_after(response))
    raise UpstreamInvalid(f"the hub answered with status {status}")


def _retry_after(response: httpx.Response) -> float | None:
    text = response.headers.get("retry-after", "")
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time())
    except (ValueError, TypeError):
        return None


def _followed(url: str, location: str) -> str:
    """Where a redirect leads. Raises UpstreamInvalid where that is less safe than it was."""
    new = urljoin(url, location)
    old_parts, parts = urlsplit(url), urlsplit(new)
    plain = parts.scheme == "http" and (parts.hostname in LOOPBACK or old_parts.scheme == "http")
    if not location or (parts.scheme != "https" and not plain) or "@" in parts.netloc:
        raise UpstreamInvalid("the hub redirects to where nobody should go")
    return new


def _may_know(url: str, endpoint: str) -> bool:
    """Whether the token may be sent there: to the hub itself, and never in the clear."""
    here, hub = urlsplit(url), urlsplit(endpoint)
    if (here.scheme, here.netloc) != (hub.scheme, hub.netloc):
        return False
    return here.scheme == "https" or here.hostname in LOOPBACK


def _no_room(error: OSError) -> TabAgentError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return InsufficientStorage("the disk is full; what has come is kept for another try")
    raise error
