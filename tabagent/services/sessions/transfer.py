"""Sessions as JSON and as Markdown, out and in again without loss.

In the Markdown every message stands behind a comment with all that is not its text. The comments
bear a mark that occurs in no message, so a message may hold whatever it likes.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from typing import Any, Final, TypeVar

from tabagent.parameters import invalid
from tabagent.stores.ids import new_id
from tabagent.stores.shapes import Branch, Message, Session

VERSION: Final = 1
HEAD: Final = re.compile(r"\A<!-- tabagent-session ([0-9a-f]{8}) (\{.*\}) -->\n")
OWN: Final = ("writer", "number", "session_id")  # of this database alone
STATUSES: Final = ("complete", "partial", "failed")
ROLES: Final = ("system", "user", "assistant", "tool")
Whole = tuple[Session, list[Branch], list[Message]]
T = TypeVar("T", Session, Branch, Message)


def to_json(session: Session, branches: Sequence[Branch], messages: Sequence[Message]) -> Any:
    return {
        "tabagent_session": VERSION,
        "session": asdict(session),
        "branches": [asdict(branch) for branch in branches],
        "messages": [_row(message) for message in messages],
    }


def from_json(data: dict[str, Any]) -> Whole:
    """Raises InvalidRequest with the pointer of what cannot be taken."""
    if data.get("tabagent_session") != VERSION:
        raise invalid("/data", f"is not a session that was exported: tabagent_session is {VERSION}")
    now = Session.new()
    session = _read(Session, data.get("session", {}), "/data/session", asdict(now))
    rows, branch_rows = _rows(data, "messages"), _rows(data, "branches")
    branches = [
        _read(Branch, row, f"/data/branches/{n}", {}) for n, row in enumerate(branch_rows)
    ] or [Branch(session.branch_id, None, -1, session.created_at)]
    messages = []
    for number, row in enumerate(rows):
        defaults = {
            "id": new_id("msg"), "branch_id": session.branch_id, "depth": number,
            "created_at": session.created_at,
        }  # fmt: skip
        messages.append(_read(Message, row, f"/data/messages/{number}", defaults))
    _check(session, branches, messages)
    return session, branches, messages


def to_markdown(session: Session, branches: Sequence[Branch], messages: Sequence[Message]) -> str:
    everything = "\n".join(message.text for message in messages)
    mark = secrets.token_hex(4)
    while mark in everything:
        mark = secrets.token_hex(4)
    about = {"session": asdict(session), "branches": [asdict(branch) for branch in branches]}
    parts = [f"<!-- tabagent-session {mark} {_in_comment(about)} -->\n# {_line(session.title)}\n"]
    for message in messages:
        row = _row(message)
        if isinstance(message.content, str):
            del row["content"]  # it follows as it is
        shown = message.text if message.content is not None else ""
        parts.append(
            f"<!-- {mark} {_in_comment(row)} -->\n## {message.role.capitalize()}\n\n{shown}\n"
        )
    return "\n".join(parts)


def from_markdown(text: str) -> Whole:
    """Raises InvalidRequest when it was not exported from here, or what bears it is damaged."""
    found = HEAD.match(text.replace("\r\n<!--", "\n<!--") if "\r\n<!-- " in text else text)
    if found is None:
        raise invalid("/text", "does not begin with the comment of an exported session")
    mark = found[1]
    try:
        about = json.loads(found[2])
        data = {"tabagent_session": VERSION, **about, "messages": []}
        for part in text.split(f"\n<!-- {mark} ")[1:]:
            line, _, rest = part.partition(" -->\n")
            row = json.loads(line)
            if "content" not in row:
                row["content"] = rest.split("\n\n", 1)[1].removesuffix("\n")
            data["messages"].append(row)
    except (ValueError, IndexError, TypeError) as error:
        raise invalid("/text", "the comments that bear the session are damaged") from error
    return from_json(data)


def with_new_ids(whole: Whole) -> Whole:
    """The same session beside itself."""
    session, branches, messages = whole
    ids = {branch.id: new_id("br") for branch in branches}
    return (
        replace(session, id=new_id("sess"), branch_id=ids[session.branch_id]),
        [
            replace(b, id=ids[b.id], parent_id=ids[b.parent_id] if b.parent_id else None)
            for b in branches
        ],
        [replace(m, id=new_id("msg"), branch_id=ids[m.branch_id]) for m in messages],
    )


def _row(message: Message) -> dict[str, Any]:
    return {key: value for key, value in asdict(message).items() if key not in OWN}


def _rows(data: dict[str, Any], name: str) -> list[Any]:
    rows = data.get(name, [])
    if not isinstance(rows, list):
        raise invalid(f"/data/{name}", "must be a list")
    return rows


KINDS: Final[dict[str, tuple[type, ...]]] = {
    "str": (str,), "str | None": (str, type(None)), "bool": (bool,), "int": (int,),
    "float": (int, float), "dict[str, Any]": (dict,), "dict[str, Any] | None": (dict, type(None)),
    "list[str]": (list,), "Any": (object,), "Status": (str,),
}  # fmt: skip


def _read(kind: type[T], row: Any, pointer: str, defaults: dict[str, Any]) -> T:
    if not isinstance(row, dict):
        raise invalid(pointer, "must be an object")
    known = {f.name: str(f.type) for f in fields(kind) if f.name not in OWN}
    for name, value in row.items():
        if name not in known:
            raise invalid(f"{pointer}/{name}", "unknown field")
        kinds = KINDS[known[name]]
        if not isinstance(value, kinds) or (
            isinstance(value, bool) and bool not in kinds and (object not in kinds)
        ):
            raise invalid(f"{pointer}/{name}", f"must be {known[name]}")
    try:
        return kind(**{**defaults, **row})
    except TypeError as error:
        raise invalid(pointer, str(error).partition("()")[2].strip() or "is not whole") from error


def _check(session: Session, branches: Sequence[Branch], messages: Sequence[Message]) -> None:
    """What the database would not see, or would see too late."""
    by_id = {branch.id: branch for branch in branches}
    if session.branch_id not in by_id:
        raise invalid("/data/session/branch_id", "is none of the branches")
    seen: set[str] = set()
    for number, branch in enumerate(branches):
        if branch.id in seen or (branch.parent_id is not None and branch.parent_id not in seen):
            raise invalid(f"/data/branches/{number}", "comes twice, or before its parent")
        seen.add(branch.id)
    places: set[tuple[str, int]] = set()
    for number, message in enumerate(messages):
        pointer = f"/data/messages/{number}"
        if message.role not in ROLES:
            raise invalid(f"{pointer}/role", f"must be one of {', '.join(ROLES)}")
        if message.status not in STATUSES:
            message.status = "partial"  # it was being written when it was exported
        if not isinstance(message.content, str | list | None):
            raise invalid(f"{pointer}/content", "must be a text, a list of parts, or null")
        if isinstance(message.content, list) and not all(
            isinstance(part, dict) for part in message.content
        ):
            raise invalid(f"{pointer}/content", "parts are objects")
        place = message.branch_id, message.depth
        if message.branch_id not in by_id or place in places or message.depth < 0:
            raise invalid(pointer, "lies in no branch, or where another lies")
        places.add(place)
    for branch in branches:
        depths = sorted(depth for id_, depth in places if id_ == branch.id)
        if depths and depths != list(range(branch.fork_depth + 1, depths[-1] + 1)):
            raise invalid("/data/messages", f"the branch {branch.id} has holes")


def _in_comment(value: Any) -> str:
    """JSON in which no comment can end."""
    return (
        json.dumps(value, ensure_ascii=False).replace("--", "-\\u002d").replace("\u2028", "\\u2028")
    )


def _line(title: str | None) -> str:
    return " ".join((title or "Session").split())
