"""Sessions as JSON and as Markdown, out and in again without loss.

In the Markdown every message stands behind a comment with all that is not its text. The comments
bear a mark that occurs in no message, so a message may hold whatever it likes.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from tabagent.errors import InvalidRequest
from tabagent.parameters import invalid
from tabagent.services.sessions.rows import BranchRow, MessageRow, SessionRow, check, load
from tabagent.stores.ids import new_id
from tabagent.stores.shapes import Branch, Message, Session

VERSION: Final = 1
HEAD: Final = re.compile(r"\A<!-- tabagent-session ([0-9a-f]{8}) (\{.*\}) -->\n")
OWN: Final = ("writer", "number", "session_id")  # of this database alone
KNOWN: Final = {"tabagent_session", "session", "branches", "messages"}
Whole = tuple[Session, list[Branch], list[Message]]


def to_json(session: Session, branches: Sequence[Branch], messages: Sequence[Message]) -> Any:
    return {
        "tabagent_session": VERSION,
        "session": _about(session, messages),
        "branches": [asdict(branch) for branch in branches],
        "messages": [_row(message) for message in messages],
    }


def from_json(data: dict[str, Any]) -> Whole:
    """Raises InvalidRequest with the pointer of what cannot be taken."""
    if data.get("tabagent_session") != VERSION:
        raise invalid("/data", f"is not a session that was exported: tabagent_session is {VERSION}")
    if unknown := data.keys() - KNOWN:
        raise invalid(f"/data/{min(unknown)}", "unknown field")
    about = check(SessionRow, data.get("session", {}), "/data/session")
    session = Session(**{**asdict(Session.new()), **_given(about, "id", "branch_id")})
    branches = [
        Branch(**check(BranchRow, row, f"/data/branches/{number}"))
        for number, row in enumerate(_rows(data, "branches"))
    ] or [Branch(session.branch_id, None, -1, session.created_at)]
    messages = []
    for number, row in enumerate(_rows(data, "messages")):
        given = _given(check(MessageRow, row, f"/data/messages/{number}"), "id", "branch_id")
        defaults = {
            "id": new_id("msg"), "branch_id": session.branch_id, "depth": number, "content": None,
            "created_at": session.created_at,
        }  # fmt: skip
        messages.append(Message(**{**defaults, **given, "number": number + 1}))
    session.message_count = len(messages)
    _check(session, branches, messages)
    return session, branches, messages


def to_markdown(session: Session, branches: Sequence[Branch], messages: Sequence[Message]) -> str:
    everything = "\n".join(message.text for message in messages)
    mark = secrets.token_hex(4)
    while mark in everything:
        mark = secrets.token_hex(4)
    about = {
        "session": _about(session, messages),
        "branches": [asdict(branch) for branch in branches],
    }
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
    found = HEAD.match(text)
    if found is None:
        raise invalid("/text", "does not begin with the comment of an exported session")
    mark = found[1]
    try:
        about = load(found[2])
        data = {"tabagent_session": VERSION, **about, "messages": []}
        for part in text.split(f"\n<!-- {mark} ")[1:]:
            line, _, rest = part.partition(" -->\n")
            row = load(line)
            if "content" not in row:
                row["content"] = rest.split("\n\n", 1)[1].removesuffix("\n")
            data["messages"].append(row)
    except (ValueError, IndexError, TypeError) as error:
        raise invalid("/text", "the comments that bear the session are damaged") from error
    try:
        return from_json(data)
    except InvalidRequest as error:
        raise invalid("/text", error.detail.removeprefix("/data/")) from None


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


def _about(session: Session, messages: Sequence[Message]) -> dict[str, Any]:
    """The number of the last message that is in the summary is this database's: its place goes."""
    place = sum(message.number <= session.summary_until for message in messages)
    return asdict(session) | {"summary_until": place}


def _given(row: dict[str, Any], *made: str) -> dict[str, Any]:
    """Without those that are to be made."""
    return {key: value for key, value in row.items() if key not in made or value is not None}


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
    places: dict[str, list[int]] = {branch.id: [] for branch in branches}
    ids: set[str] = set()
    for number, message in enumerate(messages):
        pointer = f"/data/messages/{number}"
        if message.status == "pending":
            message.status = "partial"  # it was being written when it was exported
        if message.branch_id not in places:
            raise invalid(f"{pointer}/branch_id", "is none of the branches")
        if message.id in ids:
            raise invalid(f"{pointer}/id", "comes twice")
        ids.add(message.id)
        places[message.branch_id].append(message.depth)
    lengths: dict[str, int] = {}
    for number, branch in enumerate(branches):
        own = sorted(places[branch.id])
        shared = lengths[branch.parent_id] if branch.parent_id else 0
        if branch.fork_depth >= shared:
            raise invalid(f"/data/branches/{number}/fork_depth", "lies behind the parent's end")
        if own != list(range(branch.fork_depth + 1, branch.fork_depth + 1 + len(own))):
            raise invalid(
                "/data/messages", f"the branch {branch.id} has holes, or two in one place"
            )
        lengths[branch.id] = branch.fork_depth + 1 + len(own)


def _in_comment(value: Any) -> str:
    """JSON in which no comment can end."""
    return (
        json.dumps(value, ensure_ascii=False).replace("--", "-\\u002d").replace("\u2028", "\\u2028")
    )


def _line(title: str | None) -> str:
    return " ".join((title or "Session").split())
