"""What the rows of an exported session may hold, so that all that is taken in can be given out."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Final, Literal

from pydantic import Field, Strict, Tag, ValidationError

from tabagent.operation import Request
from tabagent.parameters import Flag, Number, Whole, invalid
from tabagent.services.sessions.shapes import (
    KIND_OF_CONTENT,
    Line,
    Metadata,
    NewId,
    Part,
    Role,
    Tags,
    Title,
)
from tabagent.stores.shapes import DEEPEST

DEPTH: Final = 60  # levels of an export, as deep as a request may be
Time = Annotated[Number, Field(ge=0, le=253402300799.0)]  # to the year 9999
Depth = Annotated[Whole, Field(ge=0, lt=DEEPEST)]
Text = Annotated[str, Strict()]


class SessionRow(Request):
    """A session. What is left out is as in a new one."""

    id: NewId | None = None
    kind: Literal["chat"] = "chat"
    title: Title | None = None
    title_by: Literal["words", "model", "user"] | None = None
    model: Line | None = None
    system: Line | None = None
    pinned: Flag = False
    archived: Flag = False
    metadata: Metadata = {}
    branch_id: NewId | None = None
    message_count: Depth = 0
    summary: Line | None = None
    summary_until: Depth = 0
    created_at: Time = 0
    updated_at: Time = 0
    tags: Tags = []


class BranchRow(Request):
    """A branch, behind its parent."""

    id: NewId
    parent_id: NewId | None
    fork_depth: Annotated[Whole, Field(ge=-1, lt=DEEPEST)]
    created_at: Time


class FunctionRow(Request):
    """A function as a model has called it."""

    name: Text
    arguments: Text


class CallRow(Request):
    """A call."""

    id: Text
    type: Literal["function"] = "function"
    function: FunctionRow


class ExtraRow(Request):
    """What a message has beside its words."""

    name: Text | None = None
    reasoning_content: Text | None = None
    tool_calls: Annotated[list[CallRow], Field(min_length=1)] | None = None
    tool_call_id: Text | None = None


class MessageRow(Request):
    """A message."""

    id: NewId | None = None
    branch_id: NewId | None = None
    depth: Depth = 0
    role: Role
    content: (
        Annotated[
            Annotated[Text, Tag("string")]
            | Annotated[list[Part], Field(min_length=1), Tag("parts")],
            KIND_OF_CONTENT,
        ]
        | None
    ) = None
    extra: ExtraRow = ExtraRow()
    status: Literal["complete", "pending", "partial", "failed"] = "complete"
    model: Line | None = None
    finish_reason: Line | None = None
    usage: dict[str, Any] | None = None
    metadata: Metadata = {}
    pinned: Flag = False
    created_at: Time = 0


def check(kind: type[Request], row: Any, pointer: str) -> dict[str, Any]:
    """The row as it is. Raises InvalidRequest with the pointer of what does not belong."""
    if not isinstance(row, dict):
        raise invalid(pointer, "must be an object")
    try:
        kind.model_validate(row)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise invalid(pointer + _within(fault["loc"], row), fault["msg"]) from None
    return row


def load(text: str) -> dict[str, Any]:
    """JSON as requests may have it. Raises ValueError."""
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deep") from None
    text.encode()  # halves of surrogate pairs; those that are escaped are found below
    json.dumps(value, ensure_ascii=False).encode()
    if not isinstance(value, dict) or _depth(value) > DEPTH:
        raise ValueError("not an object, or nested too deep")
    return value


def _within(location: tuple[int | str, ...], here: Any) -> str:
    """Without the tags of unions that pydantic puts between."""
    parts: list[str] = []
    for step in location:
        named = isinstance(here, dict) and step in here
        if named or (isinstance(here, list) and isinstance(step, int) and step < len(here)):
            here = here[step]
            parts.append(str(step).replace("~", "~0").replace("/", "~1"))
    return "".join(f"/{part}" for part in parts)


def _depth(value: Any) -> int:
    inside = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(inside, list):
        return 0
    return 1 + max(map(_depth, inside), default=0)


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value
