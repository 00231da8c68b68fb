"""What sessions are asked with, and what they look like."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from tabagent.operation import Reply, Request
from tabagent.parameters import Flag
from tabagent.replies.usage import absent
from tabagent.stores.shapes import Status

MOST_PAGE = 500
LARGEST = 1_000_000  # characters of a message

LEVELS = 32  # levels of metadata


def _without_nul(said: str) -> str:
    if "\0" in said:
        raise ValueError("has a NUL character, which databases do not keep")
    return said


def _shallow(value: Any) -> Any:
    inside, depth = [value], 0
    while inside := [
        item
        for each in inside
        if isinstance(each, dict | list)
        for item in (each.values() if isinstance(each, dict) else each)
    ]:
        depth += 1
        if depth > LEVELS:
            raise ValueError(f"is nested deeper than {LEVELS} levels")
    return value


Line = Annotated[str, AfterValidator(_without_nul)]
SessionId = Annotated[Line, Field(min_length=1, max_length=128)]
NewId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Title = Annotated[Line, Field(max_length=300)]
Tags = Annotated[list[Annotated[Line, Field(min_length=1, max_length=64)]], Field(max_length=32)]
Metadata = Annotated[dict[str, Any], Field(max_length=64), AfterValidator(_shallow)]
Limit = Annotated[int, Field(ge=1, le=MOST_PAGE)]
Cursor = Annotated[
    str | None, Field(max_length=512, description="`next_cursor` of the page before.")
]
System = Annotated[Line, Field(max_length=LARGEST)]


class CreateSession(Request):
    """A new session; everything may be left out."""

    model_config = {
        "json_schema_extra": {"examples": [{"id": "soup", "title": "Soup", "tags": ["kitchen"]}]}
    }

    id: NewId | None = Field(None, description="One of your own; made when left out.")
    title: Title | None = Field(None, description="Made from what is said when left out.")
    model: Line | None = Field(None, max_length=200, description="For requests that name none.")
    system: System | None = Field(None, description="How the model should behave in it.")
    tags: Tags = []
    pinned: Flag = False
    metadata: Metadata = {}


class UpdateSession(Request):
    """What is to be otherwise; what is left out stays, null takes away."""

    model_config = {
        "json_schema_extra": {"examples": [{"session_id": "soup", "title": "A better title"}]}
    }

    session_id: SessionId
    title: Title | None = None
    model: Annotated[Line, Field(max_length=200)] | None = None
    system: System | None = None
    tags: Tags | None = Field(None, description="All of them: others go.")
    pinned: Flag | None = None
    archived: Flag | None = None
    metadata: Metadata | None = Field(None, description="All of it: other entries go.")
    branch: SessionId | None = Field(None, description="The branch that is gone on with.")

    def changes(self) -> dict[str, Any]:
        """By column. Raises ValueError for nulls that mean nothing."""
        given = self.model_dump(exclude_unset=True, exclude={"session_id"})
        if "branch" in given:
            given["branch_id"] = given.pop("branch")
        if "title" in given:
            given["title_by"] = "user" if given["title"] else None
        return given

    @model_validator(mode="after")
    def _values(self) -> Self:
        for name in ("tags", "pinned", "archived", "metadata", "branch"):
            if name in self.model_fields_set and getattr(self, name) is None:
                raise ValueError(f"{name} cannot be null")
        return self


class SessionName(Request):
    """A session by its id."""

    model_config = {"json_schema_extra": {"examples": [{"session_id": "soup"}]}}

    session_id: SessionId


class ListSessions(Request):
    """Which sessions. Archived ones are shown when they are asked for."""

    model_config = {"json_schema_extra": {"examples": [{"limit": 20}]}}

    cursor: Cursor = None
    limit: Limit = 50
    search: Line | None = Field(
        None, max_length=500, description="In titles, and words in what was said."
    )
    tag: Line | None = Field(None, max_length=64)
    pinned: bool | None = None
    archived: bool | None = Field(False, description="`true`: these alone.")


class SessionInfo(Reply):
    """A session."""

    id: str
    object: Literal["session"] = "session"
    title: str | None
    title_by: Literal["words", "model", "user"] | None = Field(
        description="Who gave the title: `words` is the beginning of the first message."
    )
    model: str | None
    system: str | None
    tags: list[str]
    pinned: bool
    archived: bool
    metadata: dict[str, Any]
    branch: str = Field(description="The branch that is gone on with where nothing is said.")
    message_count: int = Field(description="In all its branches.")
    summary: str | None = Field(description="Of what was said, made in the background.")
    created_at: datetime
    updated_at: datetime


class SessionList(Reply):
    """Pinned ones first, then the last used."""

    object: Literal["list"] = "list"
    data: list[SessionInfo]
    next_cursor: str | None


class DeletedSession(Reply):
    """It is gone, with all its messages."""

    id: str
    deleted: Literal[True] = True


class BranchInfo(Reply):
    """A branch: it has its parent's messages up to where it was forked, then its own."""

    id: str
    parent: str | None
    forked_at: int = Field(description="Messages that it has in common with its parent.")
    message_count: int = Field(description="With those that it has in common.")
    current: bool
    created_at: datetime


class BranchList(Reply):
    """All branches of a session, the oldest first."""

    object: Literal["list"] = "list"
    session_id: str
    data: list[BranchInfo]


class TextPart(Request):
    """A piece of text."""

    type: Literal["text"]
    text: str = Field(max_length=LARGEST)


class ImageUrl(Request):
    """Where the image is; data: URLs are kept as they are."""

    url: str = Field(max_length=6 * 2**20)
    detail: str | None = Field(None, max_length=16)


class ImagePart(Request):
    """A reference to an image. It is kept; models here are told that it is there."""

    type: Literal["image_url"]
    image_url: ImageUrl


class FunctionCall(Request):
    """The function that was called."""

    name: str = Field(min_length=1, max_length=128)
    arguments: str


class Called(Request):
    """A call of a tool."""

    id: str = Field(min_length=1, max_length=256)
    type: Literal["function"] = "function"
    function: FunctionCall


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
KIND_OF_CONTENT = Discriminator(lambda value: "parts" if isinstance(value, list) else "string")
Content = Annotated[
    Annotated[str, Field(max_length=LARGEST), Tag("string")]
    | Annotated[list[Part], Field(min_length=1, max_length=512), Tag("parts")],
    KIND_OF_CONTENT,
]
Role = Literal["system", "user", "assistant", "tool"]


class SaveMessage(Request):
    """A message to keep as it is; nothing is generated."""

    model_config = {
        "json_schema_extra": {
            "examples": [{"session_id": "soup", "role": "user", "content": "Hello", "id": "hello"}]
        }
    }

    session_id: SessionId
    role: Role
    content: Content | None = None
    name: str | None = Field(None, max_length=64)
    reasoning_content: str | None = Field(None, max_length=LARGEST)
    tool_calls: Annotated[list[Called], Field(max_length=64)] | None = None
    tool_call_id: str | None = Field(None, max_length=256)
    model: Line | None = Field(None, max_length=200)
    usage: Metadata | None = None
    finish_reason: Line | None = Field(None, max_length=32)
    pinned: Flag = Field(False, description="Always shown to the model, however long it goes on.")
    metadata: Metadata = {}
    id: NewId | None = Field(None, description="One of your own; made when left out.")
    branch: SessionId | None = None
    replace_message_id: SessionId | None = Field(
        None, description="Put it in the place of this one; that forks the conversation."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.content is None and not self.tool_calls and not self.reasoning_content:
            raise ValueError("a message has content or tool_calls")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("tool_call_id goes with the role tool, and only there")
        if self.role != "assistant" and (self.tool_calls or self.reasoning_content):
            raise ValueError("tool_calls and reasoning_content go with the role assistant")
        if self.branch is not None and self.replace_message_id is not None:
            raise ValueError("branch or replace_message_id, not both")
        return self

    def extra(self) -> dict[str, Any]:
        names = {"name", "reasoning_content", "tool_calls", "tool_call_id"}
        return self.model_dump(include=names, exclude_none=True)


class UpdateMessage(Request):
    """What of a message may change; its words stay: say it anew, in a branch."""

    model_config = {
        "json_schema_extra": {
            "examples": [{"session_id": "soup", "message_id": "hello", "pinned": True}]
        }
    }

    session_id: SessionId
    message_id: SessionId
    pinned: Flag | None = None
    metadata: Metadata | None = Field(None, description="All of it: other entries go.")

    @model_validator(mode="after")
    def _values(self) -> Self:
        for name in ("pinned", "metadata"):
            if name in self.model_fields_set and getattr(self, name) is None:
                raise ValueError(f"{name} cannot be null")
        return self


class MessageInfo(Reply):
    """A message as it is kept."""

    id: str
    object: Literal["message"] = "message"
    session_id: str
    branch: str
    depth: int = Field(description="Its place in the conversation, from 0.")
    role: Role
    content: Any = Field(description="A text, parts, or null beside tool calls.")
    name: str | None = Field(None, exclude_if=absent)
    reasoning_content: str | None = Field(None, exclude_if=absent)
    tool_calls: list[dict[str, Any]] | None = Field(None, exclude_if=absent)
    tool_call_id: str | None = Field(None, exclude_if=absent)
    status: Status = Field(
        description="`pending`: an answer goes on; `partial`: it was cut off; `failed`: none came."
    )
    model: str | None
    finish_reason: str | None
    usage: dict[str, Any] | None
    metadata: dict[str, Any]
    pinned: bool
    created_at: datetime


class HistoryRequest(Request):
    """A page of a branch, from either end."""

    model_config = {"json_schema_extra": {"examples": [{"session_id": "soup", "limit": 50}]}}

    session_id: SessionId
    branch: SessionId | None = Field(None, description="The current when left out.")
    order: Literal["newest", "oldest"] = "newest"
    cursor: Cursor = None
    limit: Limit = 50


class History(Reply):
    """Messages in the order that was asked for."""

    object: Literal["list"] = "list"
    session_id: str
    branch: str
    total: int = Field(description="Messages of this branch.")
    data: list[MessageInfo]
    next_cursor: str | None


class SearchMessages(Request):
    """What to look for in all that was said."""

    model_config = {"json_schema_extra": {"examples": [{"query": "soup"}]}}

    query: str = Field(min_length=1, max_length=2000)
    mode: Literal["hybrid", "words", "meaning"] = Field(
        "hybrid", description="By words, by meaning (vectors), or both."
    )
    session_id: SessionId | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20


class FoundMessage(Reply):
    """A message that fits, in its session."""

    message: MessageInfo
    session_title: str | None
    score: float = Field(description="Higher is better; of use within one reply alone.")
    matched: list[Literal["words", "meaning"]]


class FoundMessages(Reply):
    """The best first."""

    object: Literal["list"] = "list"
    data: list[FoundMessage]
    modes: list[Literal["words", "meaning"]] = Field(
        description="What was searched: meaning is left out where no vectors are made."
    )
    not_yet_by_meaning: int = Field(description="Messages whose vectors are still to be made.")


Form = Literal["json", "markdown"]


class ExportRequest(Request):
    """Which session, and how."""

    model_config = {"json_schema_extra": {"examples": [{"session_id": "soup"}]}}

    session_id: SessionId
    format: Form = "json"


class Exported(Reply):
    """A whole session. `import_session` takes what `data` or `text` holds."""

    format: Form
    filename: str
    data: dict[str, Any] | None = Field(None, description="Of `json`.", exclude_if=absent)
    text: str | None = Field(None, description="Of `markdown`.", exclude_if=absent)


class ImportRequest(Request):
    """A session as `export_session` gave it."""

    model_config = {
        "json_schema_extra": {
            "examples": [
                {
                    "data": {
                        "tabagent_session": 1,
                        "session": {"title": "Soup"},
                        "messages": [{"role": "user", "content": "Hello"}],
                    }
                }
            ]
        }
    }

    data: dict[str, Any] | None = None
    text: str | None = Field(None, description="The Markdown.")
    new_ids: Flag = Field(
        False, description="Take it in beside one that has the same ids, which conflicts else."
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.data is None) == (self.text is None):
            raise ValueError("give either data or text")
        return self


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
