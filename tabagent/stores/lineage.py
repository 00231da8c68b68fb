"""Branches of a conversation: which messages lie on the way to a branch's end.

A branch has its own messages from the depth after its fork on, and those of its parent up to there.
So a page is a range of depths in one branch or a few, however long the conversation is.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from tabagent.errors import SessionNotFound
from tabagent.stores import tables as t
from tabagent.stores.connection import Connection
from tabagent.stores.shapes import DEEPEST, Branch


@dataclass(frozen=True, slots=True)
class Stretch:
    """Messages of one branch: from the depth `first` to `last`, both in it."""

    branch_id: str
    first: int
    last: int


async def branches_of(connection: Connection, session_id: str) -> dict[str, Branch]:
    """All of a session, by their ids, the oldest first."""
    rows = await connection.execute(
        select(t.branches.c.id, t.branches.c.parent_id, t.branches.c.fork_depth,
               t.branches.c.created_at)
        .where(t.branches.c.session_id == session_id)
        .order_by(t.branches.c.created_at, t.branches.c.id)
    )  # fmt: skip
    return {row.id: Branch(*row) for row in rows}


def known(branches: dict[str, Branch], branch_id: str) -> Branch:
    found = branches.get(branch_id)
    if found is None:
        raise SessionNotFound(f"the session has no branch {branch_id}", param="branch")
    return found


def path(branches: dict[str, Branch], branch_id: str) -> list[Stretch]:
    """Where the messages of a branch lie, its own first: from the newest back to the oldest."""
    stretches: list[Stretch] = []
    here: Branch | None = known(branches, branch_id)
    last = DEEPEST
    while here is not None:
        first = here.fork_depth + 1
        if first <= last:
            stretches.append(Stretch(here.id, first, last))
            last = here.fork_depth
        here = branches[here.parent_id] if here.parent_id else None
    return stretches


def fork(branches: dict[str, Branch], branch_id: str, depth: int) -> tuple[str | None, int]:
    """(parent, depth) of a new branch that has the first `depth` messages of another.

    The parent is the one whose own the last of them is, so that chains do not grow.
    """
    for stretch in path(branches, branch_id):
        if stretch.first < depth <= stretch.last + 1:
            return stretch.branch_id, depth - 1
    return None, -1
