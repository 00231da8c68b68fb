"""Sessions: conversations that are kept, with their branches, searched, taken out and in."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

from tabagent.errors import IndexRebuilding
from tabagent.operation import Call
from tabagent.parameters import invalid
from tabagent.services.sessions import transfer
from tabagent.services.sessions.shapes import (
    BranchInfo,
    BranchList,
    CreateSession,
    DeletedSession,
    Exported,
    ExportRequest,
    FoundMessage,
    FoundMessages,
    History,
    HistoryRequest,
    ImportRequest,
    ListSessions,
    MessageInfo,
    SaveMessage,
    SearchMessages,
    SessionInfo,
    SessionList,
    SessionName,
    UpdateMessage,
    UpdateSession,
    moment,
)
from tabagent.sessions.changes import Changes
from tabagent.stores.records import Records
from tabagent.stores.shapes import Message, Session, Wanted

CANDIDATES: Final = 100  # of each half of a search
SAID_BESIDE: Final = ("name", "reasoning_content", "tool_calls", "tool_call_id")
RANK: Final = 60  # of reciprocal rank fusion (Cormack, Clarke, Büttcher: SIGIR 2009)

ByMeaning = Callable[[str, int, str | None], Awaitable[tuple[list[tuple[int, float]], int] | None]]
"""(message numbers with their likeness to a query, messages that have no vector yet).

Takes a query, how many, and a session or None. None where no vectors are made.
"""


class Sessions:
    """`by_meaning` finds messages by what they mean."""

    def __init__(self, records: Records, changes: Changes, by_meaning: ByMeaning) -> None:
        self._records, self._changes, self._by_meaning = records, changes, by_meaning

    async def create(self, request: CreateSession, call: Call) -> SessionInfo:
        """Begin a session."""
        made = await self._records.sessions.create(
            id_=request.id,
            title=request.title,
            model=request.model,
            system=request.system,
            tags=request.tags,
            pinned=request.pinned,
            metadata=request.metadata,
        )
        self._changes.session(made, "created")
        return _info(made)

    async def list(self, request: ListSessions, call: Call) -> SessionList:
        """List sessions: pinned ones first, then the last used."""
        wanted = Wanted(request.search, request.tag, request.pinned, request.archived)
        page, next_ = await self._records.sessions.search(wanted, request.cursor, request.limit)
        return SessionList(data=[_info(session) for session in page], next_cursor=next_)

    async def get(self, request: SessionName, call: Call) -> SessionInfo:
        """One session, without its messages."""
        return _info(await self._records.sessions.get(request.session_id))

    async def update(self, request: UpdateSession, call: Call) -> SessionInfo:
        """Change what is known of a session, or which branch is gone on with."""
        found = await self._records.sessions.update(request.session_id, request.changes())
        self._changes.session(found, "changed")
        return _info(found)

    async def delete(self, request: SessionName, call: Call) -> DeletedSession:
        """Delete a session with all its messages."""
        await self._records.sessions.delete(request.session_id)
        self._changes.session_gone(request.session_id)
        return DeletedSession(id=request.session_id)

    async def branches(self, request: SessionName, call: Call) -> BranchList:
        """List the branches of a session: one for each time that a message was said anew."""
        session, found = await self._records.sessions.branches(request.session_id)
        return BranchList(
            session_id=session.id,
            data=[
                BranchInfo(
                    id=branch.id,
                    parent=branch.parent_id,
                    forked_at=branch.fork_depth + 1,
                    message_count=count,
                    current=branch.id == session.branch_id,
                    created_at=moment(branch.created_at),
                )
                for branch, count in found
            ],
        )

    async def history(self, request: HistoryRequest, call: Call) -> History:
        """A page of a session's messages, from its end or its beginning, in one branch."""
        branch, page, next_, total = await self._records.messages.page(
            request.session_id,
            branch=request.branch,
            after=request.cursor,
            limit=request.limit,
            newest_first=request.order == "newest",
        )
        return History(
            session_id=request.session_id,
            branch=branch,
            total=total,
            data=[_message(message) for message in page],
            next_cursor=next_,
        )

    async def save_message(self, request: SaveMessage, call: Call) -> MessageInfo:
        """Keep a message. It is on the disk when this has answered."""
        content = request.content
        new = Message(
            request.role,
            content
            if content is None or isinstance(content, str)
            else [part.model_dump(exclude_none=True) for part in content],
            request.extra(),
            model=request.model,
            finish_reason=request.finish_reason,
            usage=request.usage,
            metadata=request.metadata,
            pinned=request.pinned,
            id=request.id or "",
        )
        session = await self._records.sessions.get(request.session_id)
        (saved,) = await self._records.messages.append(
            session.id, [new], branch=request.branch, replaces=request.replace_message_id
        )
        self._changes.saved(session, [saved])
        return _message(saved)

    async def update_message(self, request: UpdateMessage, call: Call) -> MessageInfo:
        """Pin a message, so that the model is always shown it, or note something beside it."""
        changes = request.model_dump(exclude_none=True, exclude={"session_id", "message_id"})
        session_id = request.session_id
        message = await self._records.messages.change(session_id, request.message_id, changes)
        self._changes.saved(await self._records.sessions.get(session_id), [message])
        return _message(message)

    async def search(self, request: SearchMessages, call: Call) -> FoundMessages:
        """Find messages by their words, by what they mean, or both (reciprocal rank fusion)."""
        halves: dict[str, list[tuple[int, float]]] = {}
        waiting = 0
        if request.mode != "meaning":
            halves["words"] = await self._records.messages.find_words(
                request.query, CANDIDATES, request.session_id
            )
        if request.mode != "words":
            try:
                near = await self._by_meaning(request.query, CANDIDATES, request.session_id)
            except IndexRebuilding:
                if request.mode == "meaning":
                    raise
                near = None  # the reply says what was searched
            if near is not None:
                halves["meaning"], waiting = near
            elif request.mode == "meaning":
                raise invalid("/mode", "no vectors are made of messages: memory_vectors is off")
        score: dict[int, float] = {}
        for ranked in halves.values():
            for rank, (number, _) in enumerate(ranked, 1):
                score[number] = score.get(number, 0.0) + 1 / (RANK + rank)
        order = sorted(score, key=lambda number: -score[number])[: request.limit]
        rows = await self._records.messages.by_numbers(order)
        return FoundMessages(
            data=[
                FoundMessage(
                    message=_message(rows[number][0]),
                    session_title=rows[number][1],
                    score=round(score[number], 6),
                    matched=[
                        name
                        for name, ranked in halves.items()
                        if any(number == found for found, _ in ranked)
                    ],
                )
                for number in order
                if number in rows
            ],
            modes=list(halves),
            not_yet_by_meaning=waiting,
        )

    async def export(self, request: ExportRequest, call: Call) -> Exported:
        """A whole session, with every branch, as JSON or as Markdown that a person can read."""
        whole = await self._records.sessions.whole(request.session_id)
        name = re.sub(r"[^\w-]+", "-", whole[0].title or whole[0].id).strip("-")[:60] or "session"
        if request.format == "json":
            return Exported(format="json", filename=f"{name}.json", data=transfer.to_json(*whole))
        return Exported(format="markdown", filename=f"{name}.md", text=transfer.to_markdown(*whole))

    async def import_(self, request: ImportRequest, call: Call) -> SessionInfo:
        """Take in a session that was exported; it is then as it was."""
        if request.text is not None:
            whole = transfer.from_markdown(request.text)
        else:
            whole = transfer.from_json(request.data or {})
        if request.new_ids:
            whole = transfer.with_new_ids(whole)
        await self._records.sessions.restore(*whole)
        session = whole[0]
        self._changes.session(session, "created")
        self._changes.saved(session, whole[2])
        return _info(session)


def _info(session: Session) -> SessionInfo:
    return SessionInfo(
        id=session.id,
        title=session.title,
        title_by=session.title_by,
        model=session.model,
        system=session.system,
        tags=session.tags,
        pinned=session.pinned,
        archived=session.archived,
        metadata=session.metadata,
        branch=session.branch_id,
        message_count=session.message_count,
        summary=session.summary,
        created_at=moment(session.created_at),
        updated_at=moment(session.updated_at),
    )


def _message(message: Message) -> MessageInfo:
    told: dict[str, Any] = {
        name: getattr(message, name)
        for name in (
            "id", "session_id", "depth", "role", "content", "status", "model", "finish_reason",
            "usage", "metadata", "pinned",
        )
    }  # fmt: skip
    told |= {name: message.extra.get(name) for name in SAID_BESIDE}
    # Our own rows in our own shape: checking a page of them would take most of its time.
    return MessageInfo.model_construct(
        **told, branch=message.branch_id, created_at=moment(message.created_at)
    )
