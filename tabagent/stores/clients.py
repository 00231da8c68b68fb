"""Paired clients and their tokens: in memory for whoever reads, in the database before that.

Of a token only its SHA-256 is kept: it is 32 random bytes, so nobody can go back from there.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from time import time
from typing import Any, Final, TypeAlias

import structlog

from tabagent.errors import NotFound, TabAgentError
from tabagent.operation import Access
from tabagent.stores.database import Database
from tabagent.stores.durable import durably
from tabagent.stores.ids import new_id

log = structlog.get_logger(__name__)

TOKENS: Final = 16  # of one client: an extension lives in several profiles
WRITE_USES_S: Final = 60.0

ADD_CLIENT: Final = (
    "INSERT INTO clients (id, origin, name, access, created_at)"
    " VALUES (:id, :origin, :name, :access, :created_at)"
)
CHANGE_CLIENT: Final = "UPDATE clients SET name = :name, access = :access WHERE id = :id"
USED_CLIENT: Final = "UPDATE clients SET last_used_at = :at WHERE id = :id"
FORGET_CLIENT: Final = "DELETE FROM clients WHERE id = :id"  # and its tokens with it
KEEP_DIGEST: Final = "INSERT INTO client_tokens VALUES (:digest, :client_id, :origin, :now, :now)"
USED_DIGEST: Final = "UPDATE client_tokens SET used_at = :at WHERE digest = :digest"
FORGET_DIGEST: Final = "DELETE FROM client_tokens WHERE digest = :digest"
Statement: TypeAlias = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Client:
    """One extension that its owner has approved. Times are unix seconds."""

    id: str
    origin: str  # chrome-extension://<id>, moz-extension-id:<id>, moz-extension://<uuid>
    name: str
    access: Access
    created_at: float
    last_used_at: float | None = None


@dataclass(slots=True)
class Token:
    """What is known of a token. `http_origin`: where its holder's requests say they come from."""

    client_id: str
    http_origin: str
    used_at: float


def digest_of(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class ClientStore:
    """Belongs to one event loop. Looking up costs no I/O."""

    def __init__(self, database: Database, *, write_uses_s: float = WRITE_USES_S) -> None:
        self._database, self._write_uses_s = database, write_uses_s
        self._clients: dict[str, Client] = {}
        self._by_origin: dict[str, Client] = {}
        self._tokens: dict[str, Token] = {}  # by digest
        self._origins: frozenset[str] = frozenset()
        self._turn = asyncio.Lock()  # what is written last is what is read
        self._unwritten: set[str] = set()  # clients and digests that were used since
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    def read(self) -> None:
        """Read all. Blocks. Raises DatabaseUnusable."""
        rows = self._database.run(
            "SELECT id, origin, name, access, created_at, last_used_at FROM clients"
        )
        found = (Client(id_, origin, name, Access(a), *at) for id_, origin, name, a, *at in rows)
        self._clients = {client.id: client for client in found}
        rows = self._database.run(
            "SELECT digest, client_id, http_origin, used_at FROM client_tokens"
        )
        self._tokens = {row[0]: Token(*row[1:]) for row in rows}
        self._index()

    def _index(self) -> None:
        self._by_origin = {client.origin: client for client in self._clients.values()}
        said = {token.http_origin for token in self._tokens.values() if token.http_origin}
        self._origins = frozenset(origin for origin in {*self._by_origin, *said} if "://" in origin)

    def all(self) -> list[Client]:
        """The oldest first."""
        return sorted(self._clients.values(), key=lambda client: (client.created_at, client.id))

    def get(self, client_id: str) -> Client | None:
        return self._clients.get(client_id)

    def of_origin(self, origin: str) -> Client | None:
        """The client that the browser vouches for."""
        return self._by_origin.get(origin)

    def holder(self, token: str) -> tuple[Client, str] | None:
        """Whose token this is, and the Origin of its holder's requests."""
        digest = digest_of(token)
        # How long a look-up takes tells something of the digest at most, and that leads nowhere.
        known = self._tokens.get(digest)
        if known is None:
            return None
        client = self._clients[known.client_id]
        known.used_at = time()
        self._unwritten.add(digest)
        return client, known.http_origin or client.origin

    def origins(self) -> Collection[str]:
        """Every origin that a client's requests may come from."""
        return self._origins

    def token_count(self, client_id: str) -> int:
        return sum(token.client_id == client_id for token in self._tokens.values())

    async def approve(self, origin: str, name: str, access: Access) -> Client:
        """Let this origin in; one that was let in gets this name and access from now on."""
        return await durably(self._approve(origin, name, access))

    async def _approve(self, origin: str, name: str, access: Access) -> Client:
        async with self._turn:
            before = self._by_origin.get(origin)
            if before is None:
                client = Client(new_id("cl"), origin, name, access, time())
                row = {
                    "id": client.id,
                    "origin": origin,
                    "name": name,
                    "access": int(access),
                    "created_at": client.created_at,
                }
                await self._write((ADD_CLIENT, row))
            else:
                row = {"id": before.id, "name": name, "access": int(access)}
                await self._write((CHANGE_CLIENT, row))
                client = replace(self._clients[before.id], name=name, access=access)
            self._put(client)
            return client

    async def issue_token(self, client_id: str, http_origin: str = "") -> str:
        """A new token of this client; of too many the longest unused goes. Raises NotFound."""
        return await durably(self._issue(client_id, http_origin))

    async def _issue(self, client_id: str, http_origin: str) -> str:
        async with self._turn:
            if client_id not in self._clients:
                raise NotFound("there is no such client")
            own = [d for d, token in self._tokens.items() if token.client_id == client_id]
            own.sort(key=lambda digest: self._tokens[digest].used_at, reverse=True)
            old = own[TOKENS - 1 :]
            secret = secrets.token_urlsafe(32)
            digest, now = digest_of(secret), time()
            row = {"digest": digest, "client_id": client_id, "origin": http_origin, "now": now}
            forgotten = [(FORGET_DIGEST, {"digest": each}) for each in old]
            await self._write((KEEP_DIGEST, row), *forgotten)
            for gone in old:
                del self._tokens[gone]
            self._tokens[digest] = Token(client_id, http_origin, now)
            self._index()
            return secret

    async def revoke(self, client_id: str) -> Client:
        """Forget a client and its tokens. Raises NotFound."""
        return await durably(self._revoke(client_id))

    async def _revoke(self, client_id: str) -> Client:
        async with self._turn:
            client = self._clients.get(client_id)
            if client is None:
                raise NotFound("there is no such client")
            await self._write((FORGET_CLIENT, {"id": client_id}))
            del self._clients[client_id]
            own = [d for d, token in self._tokens.items() if token.client_id == client_id]
            for digest in own:
                del self._tokens[digest]
            self._index()
            return client

    # ---- when they were last used ---------------------------------------------------------------

    def used(self, client_id: str) -> None:
        """Note that this client is here; written now and then."""
        client = self._clients.get(client_id)
        if client is None:
            return
        now = time()
        if client.last_used_at is None or now - client.last_used_at >= 1:
            self._put(replace(client, last_used_at=now))
        self._unwritten.add(client_id)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._write_uses_s, self._begin_writing)

    async def stop(self) -> None:
        """Write what is noted. What cannot be written is lost, and said so."""
        if self._timer:
            self._timer.cancel()
        if self._writing:
            await self._writing
        await self._write_uses()

    def _begin_writing(self) -> None:
        self._timer = None
        self._writing = asyncio.get_running_loop().create_task(self._write_uses())

    async def _write_uses(self) -> None:
        noted, self._unwritten = self._unwritten, set()
        if not noted:
            return
        try:
            async with self._turn:
                clients = noted & self._clients.keys()
                tokens = noted & self._tokens.keys()
                await self._write(
                    *((USED_CLIENT, {"id": key, "at": self._clients[key].last_used_at})
                      for key in clients),
                    *((USED_DIGEST, {"digest": key, "at": self._tokens[key].used_at})
                      for key in tokens),
                )  # fmt: skip
        except TabAgentError as error:
            log.warning("client_uses_unwritten", why=error.slug)

    def _put(self, client: Client) -> None:
        known = client.id in self._clients
        self._clients[client.id] = self._by_origin[client.origin] = client
        if not known:
            self._index()

    async def _write(self, *statements: Statement) -> None:
        """All in one transaction; on the disk when this returns."""
        from sqlalchemy import text  # late: it costs a start more than everything else

        async with self._database.writing() as connection:
            for statement, values in statements:
                await connection.execute(text(statement), dict(values))
