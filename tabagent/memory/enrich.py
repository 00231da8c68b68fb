"""Enrichment: what is made of messages and documents in the background, driven by what is saved.

What is still to be done lies in the database, so a restart goes on with it. Each batch waits while
answers are being written. Every part can be switched off.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import structlog

from tabagent.catalog.models import BUILTIN, Model
from tabagent.config import Settings
from tabagent.errors import ModelNotFound, SessionNotFound, TabAgentError
from tabagent.memory import writing
from tabagent.memory.meaning import Meaning
from tabagent.operation import Access, Call
from tabagent.replies.generation import Generator
from tabagent.retrieval.embedding import PatientEmbedder
from tabagent.sessions.changes import Changes
from tabagent.stores.papers import Document
from tabagent.stores.records import Records
from tabagent.stores.shapes import Message, Session

log = structlog.get_logger(__name__)

BATCH: Final = 64  # messages that are read together
GATHER_S: Final = 0.2  # what is saved in so short a time is done together
AGAIN_S: Final = 30.0  # after an error
LONG: Final = 40  # messages that a summary does not have yet, until it is written anew
RECENT: Final = 20  # of them stay out of it: a prompt has them as they are
LOOKED: Final = 400  # messages that are looked at for a summary

Mark = Callable[[Sequence[str]], Awaitable[list[list[tuple[str, str]]] | None]]
"""What texts name, as (label, text); None where there is no model for it."""


class Enrichment:
    """One for a server. `mark` finds names, `quiet` waits while others are served."""

    def __init__(
        self,
        settings: Settings,
        records: Records,
        meaning: Meaning,
        generator: Generator,
        changes: Changes,
        embedder: PatientEmbedder,
        *,
        mark: Mark,
        context_length: Callable[[Model], int],
    ) -> None:
        self._settings, self._records, self._meaning = settings, records, meaning
        self._generator, self._changes, self._embedder = generator, changes, embedder
        self._mark, self._context = mark, context_length
        self._wake = asyncio.Event()
        self._sessions: dict[str, None] = {}  # that may want a title or a summary, in order
        self._task: asyncio.Task[None] | None = None
        changes.on_saved, changes.on_gone = self._saved, self._gone
        self._forgetting: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Go on with what is left, and wait for more."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._wake.set()

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._meaning.index.stop()

    def document(self, document: Document) -> None:
        """One came in."""
        self._wake.set()

    def _saved(self, session: Session, messages: Sequence[Message]) -> None:
        if any(m.role == "assistant" and m.status == "complete" for m in messages):
            self._sessions[session.id] = None
        self._wake.set()

    def _gone(self, session_id: str) -> None:
        self._sessions.pop(session_id, None)
        task = asyncio.get_running_loop().create_task(self._meaning.forget(session_id))
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHER_S)
            self._wake.clear()
            if not self._records.database.made:
                continue
            try:
                await self._messages()
                await self._documents()
                await self._conversations()
            except TabAgentError as error:
                log.info("enrichment_waits", code=error.slug, why=error.detail)
                await asyncio.sleep(AGAIN_S)
                self._wake.set()
            except Exception as error:
                log.error("enrichment_failed", exc_info=error)
                await asyncio.sleep(AGAIN_S)

    # ---- vectors and names ----------------------------------------------------------------------
    async def _messages(self) -> None:
        memory, settings = self._records.memory, self._settings
        model = await self._meaning.begin()
        if model is None and not settings.memory_entities:
            return  # they stay to be looked at, for when there is something to do
        while batch := await memory.unread(BATCH):
            await self._embedder.quiet()
            names = await self._names([m.text for m in batch])
            if model is None and names is None:
                return
            if model:
                known = list(await memory.vectors([m.number for m in batch], model))
                vectors = await self._meaning.read(model, batch)
                await memory.save_vectors(batch, model, vectors)
                await self._meaning.put(model, batch, vectors, known)
            for message, found in zip(batch, names or (), strict=False):
                await memory.name("message", message.id, Counter(found))
            # A restart may lie between saving and now.
            self._sessions |= {m.session_id: None for m in batch if m.role == "assistant"}
            await memory.read_messages(batch)  # last: who sees that all are read finds them all

    async def _documents(self) -> None:
        memory = self._records.memory
        while ids := await memory.unread_documents(BATCH):
            for document_id in ids:
                chunks = await self._records.documents.chunks(document_id)
                found: Counter[tuple[str, str]] = Counter()
                for start in range(0, len(chunks), BATCH):
                    await self._embedder.quiet()
                    part = [chunk.text for chunk in chunks[start : start + BATCH]]
                    names = await self._names(part)
                    if names is None:
                        return  # they stay to be looked at
                    for of_one in names:
                        found.update(of_one)
                await memory.name("document", document_id, found)
                await memory.read_document(document_id)

    async def _names(self, texts: Sequence[str]) -> list[list[tuple[str, str]]] | None:
        if not self._settings.memory_entities:
            return None
        found = await self._mark(texts)
        if found is None:
            return None
        return [
            [(label, " ".join(name.split()).casefold()) for label, name in of_one if name.strip()]
            for of_one in found
        ]

    # ---- titles and summaries -------------------------------------------------------------------
    async def _conversations(self) -> None:
        while self._sessions:
            session_id = next(iter(self._sessions))
            del self._sessions[session_id]
            try:
                session = await self._records.sessions.get(session_id)
                if self._settings.memory_titles and session.title_by in (None, "words"):
                    await self._title(session)
                if self._settings.memory_summaries:
                    await self._summarise(session)
            except (SessionNotFound, ModelNotFound):
                continue  # it is gone, or its model is

    async def _title(self, session: Session) -> None:
        _, page, _, _ = await self._records.messages.page(session.id, limit=4, newest_first=False)
        model = await self._model(page)
        if model is None:
            return
        answer = await self._write(model, writing.ask_title(page), writing.TITLE_TOKENS)
        title = writing.title_of(answer)
        if title and await self._records.sessions.retitle(session.id, title, "model"):
            self._changes.session(await self._records.sessions.get(session.id), "changed")

    async def _summarise(self, session: Session) -> None:
        messages, until = self._records.messages, session.summary_until
        rows = await messages.before(session.id, session.branch_id, 2**31 - 1, LOOKED)
        new = [m for m in reversed(rows) if m.number > until and m.text.strip()]
        model = await self._model(new)
        if len(new) < LONG or model is None:
            return
        summary = session.summary
        old = new[:-RECENT]
        room = max(self._context(model) - 2 * writing.SUMMARY_TOKENS, 256) * 2  # characters
        while old:
            part: list[Message] = []
            size = 0
            while old and size < room:
                part.append(old.pop(0))
                size += min(len(part[-1].text), room)
            asked = writing.ask_summary(summary, part, room)
            summary = (await self._write(model, asked, writing.SUMMARY_TOKENS)).strip() or summary
            if not summary:
                return
            await self._records.memory.summarise(session.id, summary, part[-1].number)
        self._changes.session(await self._records.sessions.get(session.id), "changed")

    async def _model(self, messages: Sequence[Message]) -> Model | None:
        """Who answered last; the built-in guide can write of nothing but TabAgent."""
        name = next(
            (m.model for m in reversed(messages) if m.role == "assistant" and m.model), None
        )
        if name is None:
            return None
        model = await self._generator.resolve(name)
        return None if model.id == BUILTIN or model.task != "chat" else model

    async def _write(self, model: Model, messages: list[dict[str, Any]], tokens: int) -> str:
        await self._embedder.quiet()
        call = Call(str(uuid.uuid4()), Access.USER, "memory", "none")
        return await self._generator.write(call, model, messages, tokens)
