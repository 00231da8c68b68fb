"""What is kept, as those who work with it have it; known without the database."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import time
from typing import Any, Final, Literal

from tabagent.stores.ids import new_id

Status = Literal["complete", "pending", "partial", "failed"]
DEEPEST: Final = 2**31 - 1  # place of a message in a conversation
TITLE: Final = 60  # characters of a message that are a title until there is a better one


@dataclass(slots=True)
class Session:
    """A row of `sessions`, with its tags."""

    id: str
    kind: str
    title: str | None
    title_by: str | None
    model: str | None
    system: str | None
    pinned: bool
    archived: bool
    metadata: dict[str, Any]
    branch_id: str
    message_count: int
    summary: str | None
    summary_until: int
    created_at: float
    updated_at: float
    tags: list[str] = field(default_factory=list)

    @classmethod
    def new(cls, id_: str | None = None, kind: str = "chat") -> Session:
        """One of now, with nothing in it."""
        now = time()
        return cls(
            id=id_ or new_id("sess"), kind=kind, title=None, title_by=None, model=None, system=None,
            pinned=False, archived=False, metadata={}, branch_id=new_id("br"), message_count=0,
            summary=None, summary_until=0, created_at=now, updated_at=now,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Branch:
    """`fork_depth` is that of the last message which it has in common with its parent; -1: none."""

    id: str
    parent_id: str | None
    fork_depth: int
    created_at: float


@dataclass(slots=True)
class Message:
    """A row of `messages`. `content` is a text, parts, or None; `extra` what its role has beside."""

    role: str
    content: Any
    extra: dict[str, Any] = field(default_factory=dict)
    status: Status = "complete"
    model: str | None = None
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    pinned: bool = False
    id: str = ""
    session_id: str = ""
    branch_id: str = ""
    depth: int = -1
    writer: str = ""
    created_at: float = 0.0
    number: int = 0

    @property
    def text(self) -> str:
        """What it says, in one text."""
        return text_of(self.content)


def text_of(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content or ""


def beginning(said: str) -> str:
    """The first words of a message, for a title."""
    line = " ".join(said.split())
    if len(line) <= TITLE:
        return line
    return line[:TITLE].rsplit(" ", 1)[0].rstrip(" ,;:.") + " …"


@dataclass(frozen=True, slots=True)
class Response:
    """A response that may be gone on from: the id it is asked for by, and who may."""

    id: str
    caller: str
    size_bytes: int

    def row(self, message: Message, now: float) -> dict[str, Any]:
        """Its row, as the message that ends it."""
        return {
            "id": self.id, "caller": self.caller, "size_bytes": self.size_bytes, "used_at": now,
            "session_id": message.session_id, "message_id": message.id,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which sessions a list shows. None is no matter."""

    search: str | None = None
    tag: str | None = None
    pinned: bool | None = None
    archived: bool | None = False
    kind: str = "chat"
