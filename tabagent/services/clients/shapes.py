"""What is asked about clients, and what is answered."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, ConfigDict, Field

from tabagent.operation import Reply, Request
from tabagent.parameters.extensions import CHROME

EXAMPLE: Final = "chrome-extension://abcdefghijklmnopabcdefghijklmnop"


def _printable(value: str) -> str:
    """It is shown to the owner in a terminal and written into logs."""
    if not value.isprintable() or not value.strip():
        raise ValueError("must be printable characters on one line")
    return value.strip()


Name = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_printable)]
AccessName = Literal["user", "admin"]


class PairRequest(Request):
    """Who asks to be approved; `secret` is what an earlier answer said."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Notes", "wait_s": 0}]})

    name: Name | None = Field(None, description="What the owner reads.")
    secret: str | None = Field(
        None,
        max_length=64,
        repr=False,
        description="From the first answer: it tells that the same one asks again.",
    )
    wait_s: float = Field(
        0, ge=0, le=30, description="Seconds to wait for the owner before answering `pending`."
    )
    http_origin: str | None = Field(
        None,
        max_length=64,
        description="Over the native host, of an add-on of Firefox: the origin of its pages, "
        "`moz-extension://` and a UUID, so that its requests over HTTP are let in too.",
    )


class PairReply(Reply):
    """`pending`: show the code and ask again with the secret. `paired`: here is the token.

    The token is told this once; of it the server keeps a digest alone.
    """

    state: Literal["pending", "paired"]
    code: str | None = Field(None, description="What the owner approves, such as `ABCD-2345`.")
    secret: str | None = Field(None, repr=False)
    expires_at: datetime | None = Field(None, description="When this asking is forgotten.")
    token: str | None = Field(None, repr=False, description="For `Authorization: Bearer`.")
    client_id: str | None = None
    access: AccessName | None = None
    url: str | None = Field(None, description="Where HTTP is served, if it is.")


class HelloReply(Reply):
    """Who the caller is here, and what is served.

    `state` is `open` for programs of this machine and the owner, `paired` for an approved client;
    all others may use no more than what is public. `code`: of an extension that came over the
    browser's native host and is not approved yet.
    """

    version: str
    url: str | None = Field(description="Where HTTP is served, if it is.")
    caller: str
    access: Literal["public", "user", "admin"]
    origin: str
    state: Literal["open", "paired", "pairing-required"]
    code: str | None
    client_id: str | None
    transports: list[str]
    webrtc: bool


class ClientInfo(Reply):
    """One client."""

    id: str
    origin: str
    name: str
    access: AccessName
    created_at: datetime
    last_used_at: datetime | None
    tokens: int
    connected: bool = Field(description="Whether it has a connection or a running call.")


class PendingInfo(Reply):
    """One that asks. `vouched`: the browser itself said who it is."""

    code: str
    origin: str
    name: str
    vouched: bool
    expires_at: datetime


class ClientList(Reply):
    """Clients and those that ask, the oldest first."""

    object: Literal["list"] = "list"
    data: list[ClientInfo]
    pending: list[PendingInfo]


class ApproveClient(Request):
    """One of `code`, `extension_id` and `origin`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"extension_id": EXAMPLE.removeprefix(CHROME)}]}
    )

    code: str | None = Field(None, min_length=8, max_length=16, description="That it shows.")
    extension_id: str | None = Field(
        None, max_length=140, description="Of Chromium 32 letters, of Firefox an add-on's id."
    )
    origin: str | None = Field(None, max_length=160)
    name: Name | None = Field(None, description="What it is called from now on.")
    access: AccessName | None = Field(
        None, description="`user` when nothing is said, also for one that had more until now."
    )


class ClientName(Request):
    """A client by its id, or by its extension's."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"client_id": EXAMPLE.removeprefix(CHROME)}]}
    )

    client_id: str = Field(max_length=160)


class RevokedClient(Reply):
    """It is forgotten, and what it had open is ended."""

    id: str
    origin: str
    name: str
    revoked: Literal[True] = True


def moment(seconds: float | None) -> Any:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
