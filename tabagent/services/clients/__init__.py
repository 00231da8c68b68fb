"""Clients: an extension says hello, asks to be approved, and has its own token until it is revoked.

Who may be trusted with what: over the native host the browser itself says which extension asks. An
Origin header can be forged by another extension, so over HTTP nothing but the code, which the owner
compares with what the extension shows, tells who is approved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal

import structlog

from tabagent import __version__
from tabagent.errors import NotFound, OriginNotAllowed, RateLimited
from tabagent.journal import Journal
from tabagent.logs import audit
from tabagent.operation import Access, Call, NoParameters
from tabagent.parameters import invalid
from tabagent.parameters.extensions import (
    ADD_ON,
    FIREFOX,
    is_extension,
    is_web_extension,
    origin_of,
)
from tabagent.presence import Presence
from tabagent.replies.changes import ClientChange
from tabagent.services.clients.pairings import Pairing, Pairings
from tabagent.services.clients.shapes import (
    AccessName,
    ApproveClient,
    ClientInfo,
    ClientList,
    ClientName,
    HelloReply,
    PairReply,
    PairRequest,
    PendingInfo,
    RevokedClient,
    moment,
)
from tabagent.stores.clients import Client, ClientStore
from tabagent.stores.durable import durably

log = structlog.get_logger(__name__)

ACCESS: Final[dict[Access, Literal["public", "user", "admin"]]] = {
    Access.PUBLIC: "public",
    Access.USER: "user",
    Access.ADMIN: "admin",
}
GRANTED: Final[dict[Access, AccessName]] = {Access.USER: "user", Access.ADMIN: "admin"}
ASKED: Final[dict[AccessName, Access]] = {"user": Access.USER, "admin": Access.ADMIN}


def say_on_console(line: str) -> None:
    """To whoever looks at the terminal in which the server was started."""
    with suppress(OSError, ValueError):  # nobody does
        print(line, flush=True)


class Clients:
    """`url` says where HTTP is served, once that is known; `transports` what else is."""

    def __init__(
        self,
        store: ClientStore,
        presence: Presence,
        journal: Journal,
        *,
        url: Callable[[], str | None],
        transports: Callable[[], list[str]],
        say: Callable[[str], None] = say_on_console,
    ) -> None:
        self._store, self._presence, self._journal = store, presence, journal
        self._url, self._transports, self._say = url, transports, say
        self._pairings = Pairings()
        self._stopped = False

    async def hello(self, request: NoParameters, call: Call) -> HelloReply:
        """Say who the caller is here, and what this server offers.

        An extension that comes over the browser's native host and is not approved yet asks to be,
        by this alone: `code` is what its owner has to approve.
        """
        client = self._store.get(call.caller)
        code = None
        if client is None and call.vouched and is_extension(call.origin):
            with suppress(RateLimited):  # who is told `pairing-required` may call `pair` and see
                code = self._vouched(call.origin, None, "").code
        transports = self._transports()
        return HelloReply(
            version=__version__,
            url=self._url(),
            caller=call.caller,
            access=ACCESS[call.access],
            origin=call.origin,
            state="paired"
            if client
            else "open"
            if call.access >= Access.USER
            else "pairing-required",
            code=code,
            client_id=client.id if client else None,
            transports=transports,
            webrtc="webrtc" in transports,
        )

    async def pair(self, request: PairRequest, call: Call) -> PairReply:
        """Ask the owner to approve this extension, and get a token once that is done.

        The first answer has a code for the owner, and a secret for the next call, which can wait
        until the owner has decided. An approved extension that comes over the browser's native
        host gets a token at once. Over HTTP only extensions may ask, and each needs its own code
        approved, also where its origin is approved already: other extensions can write that too.
        """
        self._check_origin(request, call)
        client = self._known(call)
        if client is not None:
            return await self._paired(client, request.http_origin or "", call)
        pairing, new = self._pairing(request, call)
        if not new and request.wait_s and not self._stopped:
            with suppress(TimeoutError):
                async with asyncio.timeout(request.wait_s):
                    await pairing.answered.wait()
        approved = self._store.get(pairing.client_id) if pairing.client_id else None
        if approved is not None:
            return await self._paired(approved, pairing.http_origin, call)
        return PairReply(
            state="pending",
            code=pairing.code,
            secret=pairing.secret,
            expires_at=moment(pairing.expires_at),
        )

    async def list(self, request: NoParameters, call: Call) -> ClientList:
        """List the approved clients, and the extensions that ask to be, with their codes."""
        return ClientList(
            data=[self._info(client) for client in self._store.all()],
            pending=[
                PendingInfo(
                    code=pairing.code,
                    origin=pairing.origin,
                    name=pairing.name,
                    vouched=pairing.vouched,
                    expires_at=moment(pairing.expires_at),
                )
                for pairing in self._pairings.pending()
            ],
        )

    async def approve(self, request: ApproveClient, call: Call) -> ClientInfo:
        """Let an extension in, by the code that it shows, or by its id.

        By its id alone only those are let in for whom the browser vouches. Who is approved already
        gets the name and the access of now.
        """
        return await durably(self._approve(request, call))

    async def _approve(self, request: ApproveClient, call: Call) -> ClientInfo:
        pairing, origin = self._wanted(request)
        before = self._store.of_origin(origin)
        known = before or pairing or self._pairings.vouched_for(origin)
        name = request.name or (known.name if known else _id(origin))
        access = ASKED[request.access or "user"]
        client = await self._store.approve(origin, name, access)
        for asker in (pairing, self._pairings.vouched_for(origin)):
            if asker is not None:
                self._pairings.approve(asker, client.id)
        self._note(client, "changed" if before else "approved")
        audit.info(
            "client_approved",
            client=client.id,
            origin=origin,
            access=client.access.name.lower(),
            **_by(call),
        )
        return self._info(client)

    async def revoke(self, request: ClientName, call: Call) -> RevokedClient:
        """Forget a client: its tokens are worth nothing, and what it has open ends at once."""
        client = self.find(request.client_id)

        def forgotten(done: asyncio.Task[Client]) -> None:
            if not (done.cancelled() or done.exception()):
                self._shut_out(client, call)

        forgetting = asyncio.create_task(self._store.revoke(client.id))
        try:
            await asyncio.shield(forgetting)
        except asyncio.CancelledError:  # who revokes has left, and it is done all the same
            forgetting.add_done_callback(forgotten)
            raise
        self._shut_out(client, call)
        return RevokedClient(id=client.id, origin=client.origin, name=client.name)

    def _shut_out(self, client: Client, call: Call) -> None:
        self._pairings.end_of(client.origin)
        self._presence.expel(client.id)
        self._note(client, "revoked")
        audit.info("client_revoked", client=client.id, origin=client.origin, **_by(call))

    def find(self, named: str) -> Client:
        """A client by its id or its extension's. Raises NotFound."""
        client = self._store.get(named) or self._store.of_origin(origin_of(named) or "")
        if client is None:
            raise NotFound("there is no such client")
        return client

    def stop(self) -> None:
        """Let nobody wait for the owner, so that none of them holds up the end of the server."""
        self._stopped = True
        self._pairings.wake()

    # ---- who asks -------------------------------------------------------------------------------

    def _check_origin(self, request: PairRequest, call: Call) -> None:
        extension = is_extension if call.vouched else is_web_extension
        if not extension(call.origin):
            raise OriginNotAllowed(
                "only a browser's extension is paired; programs send the owner's token"
            )
        said = request.http_origin
        if said is None or said == call.origin:
            return
        of_add_on = call.vouched and call.origin.startswith(ADD_ON)
        if not (of_add_on and said.startswith(FIREFOX) and is_web_extension(said)):
            raise invalid("/http_origin", "is for add-ons of Firefox, over their native host")

    def _known(self, call: Call) -> Client | None:
        """Who has proved already to be an approved client: the browser vouches, or by its token."""
        client = self._store.get(call.caller)
        if client is None and call.vouched:  # approved since its call began
            client = self._store.of_origin(call.origin)
        return client

    def _pairing(self, request: PairRequest, call: Call) -> tuple[Pairing, bool]:
        """The asker's, and whether it is new."""
        if request.secret:
            known = self._pairings.again(call.origin, request.secret)
            if known is not None:
                return known, False
        if call.vouched:
            before = self._pairings.vouched_for(call.origin)
            return self._vouched(call.origin, request.name, request.http_origin or ""), not before
        return self._begin(call.origin, request.name, vouched=False), True

    def _vouched(self, origin: str, name: str | None, http_origin: str) -> Pairing:
        """The one and only of an extension that the browser vouches for."""
        pairing = self._pairings.vouched_for(origin)
        if pairing is None:
            return self._begin(origin, name, vouched=True, http_origin=http_origin)
        pairing.name = name or pairing.name
        pairing.http_origin = http_origin or pairing.http_origin
        return pairing

    def _begin(
        self, origin: str, name: str | None, *, vouched: bool, http_origin: str = ""
    ) -> Pairing:
        pairing = self._pairings.begin(
            origin, name or _id(origin), vouched=vouched, http_origin=http_origin
        )
        log.warning("client_asks", origin=origin, code=pairing.code, vouched=vouched)
        self._say(
            f"  extension {_id(origin)} asks to be approved: tabagent clients approve {pairing.code}"
        )
        return pairing

    async def _paired(self, client: Client, http_origin: str, call: Call) -> PairReply:
        token = await self._store.issue_token(client.id, http_origin)
        audit.info("client_paired", client=client.id, origin=client.origin, **_by(call))
        return PairReply(
            state="paired",
            token=token,
            client_id=client.id,
            access=GRANTED[client.access],
            url=self._url(),
        )

    # ---- what the owner sees --------------------------------------------------------------------

    def _wanted(self, request: ApproveClient) -> tuple[Pairing | None, str]:
        given = {
            name: value
            for name in ("code", "extension_id", "origin")
            if (value := getattr(request, name)) is not None
        }
        if len(given) != 1:
            raise invalid("/code", "give one of code, extension_id and origin")
        [(field, value)] = given.items()
        if field == "code":
            pairing = self._pairings.of_code(value)
            if pairing is None:
                raise NotFound("no extension that asks now has this code")
            return pairing, pairing.origin
        origin = origin_of(value)
        if origin is None:
            raise invalid(f"/{field}", "is not an extension's")
        return None, origin

    def _info(self, client: Client) -> ClientInfo:
        return ClientInfo(
            id=client.id,
            origin=client.origin,
            name=client.name,
            access=GRANTED[client.access],
            created_at=moment(client.created_at),
            last_used_at=moment(client.last_used_at),
            tokens=self._store.token_count(client.id),
            connected=self._presence.count(client.id) > 0,
        )

    def _note(self, client: Client, state: Literal["approved", "changed", "revoked"]) -> None:
        change = ClientChange(
            client=client.id,
            origin=client.origin,
            name=client.name,
            access=GRANTED[client.access],
            state=state,
        )
        self._journal.note("client", client.id, change)


def _by(call: Call) -> dict[str, str]:
    who = call.caller or "nobody"
    return {"caller": who, "transport": call.transport, "request_id": call.request_id}


def _id(origin: str) -> str:
    """What people call an extension by: its id."""
    return origin.rpartition("://")[2].removeprefix(ADD_ON)
