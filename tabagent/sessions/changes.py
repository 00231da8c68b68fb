"""What changes in sessions: told to those who follow the events, and to what works behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tabagent.journal import Journal
from tabagent.replies.changes import SessionChange, SessionState
from tabagent.stores.shapes import Message, Session

Saved = Callable[[Session, Sequence[Message]], None]


class Changes:
    """`on_saved` hears of messages that were saved, `on_gone` of sessions that were deleted."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.on_saved: Saved | None = None
        self.on_gone: Callable[[str], None] | None = None

    def session(self, session: Session, state: SessionState) -> None:
        self._note(session.id, SessionChange(session=session.id, state=state, title=session.title))

    def session_gone(self, session_id: str) -> None:
        self._note(session_id, SessionChange(session=session_id, state="deleted", title=None))
        if self.on_gone:
            self.on_gone(session_id)

    def saved(self, session: Session, messages: Sequence[Message]) -> None:
        """Messages were saved, or what has become of them."""
        if session.kind != "chat":
            return
        change = SessionChange(
            session=session.id,
            state="message",
            title=session.title,
            message_ids=[message.id for message in messages],
        )
        self._note(session.id, change)
        if self.on_saved:
            self.on_saved(session, messages)

    def _note(self, session_id: str, change: SessionChange) -> None:
        self._journal.note("session", session_id, change)
