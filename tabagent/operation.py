"""The contract of an operation: one thing that can be asked, over any transport.

Request, reply and event types are read from the handler's signature, so a row of the table cannot
disagree with the code it names. `handler(request, call)` is either a coroutine function returning
the reply, or an async generator of events; for the latter `collect` folds the events into the plain
reply and the request's own `stream` field chooses between the two forms. An event is a Reply, or an
Event that stands for one.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict

from tabagent.errors import TabAgentError

UNSUPPORTED = "unsupported_parameter"
"""Type of the pydantic error that a known parameter raises when it cannot be honoured."""


class Access(enum.IntEnum):
    """What a caller holds and what an operation asks for; the greater includes the lesser."""

    PUBLIC = 0
    USER = 1
    ADMIN = 2


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as far as the transport can tell.

    `name` is stable: "owner", "local", the id of a paired client, nothing for who showed nothing.
    `origin` is the extension or page that asks; `vouched` when the browser itself said so, through
    its native host, and not a header that anybody can write.
    """

    name: str
    access: Access
    origin: str = ""
    vouched: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One request of a caller, over a transport."""

    request_id: str  # a UUID
    access: Access
    caller: str  # its name
    transport: str  # http, native, webrtc, or none for what we ask ourselves
    origin: str = ""
    vouched: bool = False

    @classmethod
    def of(cls, caller: Caller, request_id: str, transport: str) -> Call:
        return cls(request_id, caller.access, caller.name, transport, caller.origin, caller.vouched)


class Request(BaseModel):
    """Base of every request: unknown fields are refused, never dropped."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Reply(BaseModel):
    """Base of every reply and event."""

    model_config = ConfigDict(protected_namespaces=())

    def encode(self) -> bytes:
        """As JSON, on every transport."""
        return self.__pydantic_serializer__.to_json(self)


class Event:
    """One event of a stream that writes itself, where a Reply for every token costs too much.

    `documented_as` is what it looks like; `name` is its SSE event name, where the API has names,
    and `id` its SSE id, where a stream can be resumed.
    """

    __slots__ = ()
    documented_as: ClassVar[type[BaseModel]]

    @property
    def name(self) -> str:
        return ""

    @property
    def id(self) -> str:
        return ""

    def encode(self) -> bytes:
        """As JSON, on every transport."""
        raise NotImplementedError


class NoParameters(Request):
    """The request of an operation that takes none."""


@dataclass(frozen=True)
class Operation:
    """One row of the table. `http` is "METHOD /path", and any aliases after it.

    `upload`: whether its body may hold documents, which may be larger than other bodies.
    `done`: whether its stream ends with OpenAI's `data: [DONE]`.
    """

    name: str
    http: str | tuple[str, ...]
    handler: Callable[..., Any]
    access: Access = Access.USER
    errors: tuple[type[TabAgentError], ...] = ()
    collect: Callable[[AsyncIterator[Any]], Awaitable[Reply]] | None = None
    done: bool = True
    upload: bool = False
    _hints: dict[str, Any] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._hints.update(get_type_hints(self.handler))
        if self.streams != (self.collect is not None):
            raise TypeError(f"{self.name}: `collect` goes with an async generator, and only there")

    @property
    def streams(self) -> bool:
        return inspect.isasyncgenfunction(self.handler)

    @cached_property
    def routes(self) -> list[tuple[str, str]]:
        """(method, path) of the operation and its aliases, the operation's own first."""
        rows = (self.http,) if isinstance(self.http, str) else self.http
        return [(method, path) for method, _, path in (row.partition(" ") for row in rows)]

    @cached_property
    def route(self) -> str:
        """Its own, as people write it."""
        return " ".join(self.routes[0])

    @cached_property
    def request(self) -> type[Request]:
        return self._hints.get("request", NoParameters)  # type: ignore[no-any-return]  # from hints

    @cached_property
    def event(self) -> type[BaseModel] | None:
        if not self.streams:
            return None
        kind = get_args(self._hints["return"])[0]
        documented: type[BaseModel] = kind.documented_as if issubclass(kind, Event) else kind
        return documented

    @cached_property
    def reply(self) -> type[Reply]:
        hints = get_type_hints(self.collect) if self.collect else self._hints
        return hints["return"]  # type: ignore[no-any-return]  # read from the annotation

    @cached_property
    def tag(self) -> str:
        """The domain, which is the name of the service's module."""
        return self.handler.__module__.rpartition(".")[2]

    @cached_property
    def summary(self) -> str:
        return (inspect.getdoc(self.handler) or self.name).partition("\n")[0]

    @cached_property
    def description(self) -> str:
        return (inspect.getdoc(self.handler) or "").partition("\n\n")[2]
