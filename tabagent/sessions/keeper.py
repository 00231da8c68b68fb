"""A generation inside a session: history in, what is said out into the database, whatever happens.

The user's message is on the disk before anything is generated, and beside it a place for the
answer. While the answer grows it is written there now and then; at its end, or when it is cut off,
for good. So a second message of the same session has its own place behind it, and waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import msgspec
import structlog

from tabagent import wire
from tabagent.catalog.models import Model
from tabagent.config import Settings
from tabagent.errors import QueueTimeout, ShuttingDown, TabAgentError
from tabagent.parameters import invalid
from tabagent.parameters.session import SessionParameters
from tabagent.replies.answer import Choice
from tabagent.replies.generation import Ended, Step
from tabagent.replies.sessions import SessionNote
from tabagent.replies.usage import token_usage
from tabagent.sessions.changes import Changes
from tabagent.sessions.fitting import Fitted, fit
from tabagent.sessions.plain import Plain, kept
from tabagent.stores.durable import durably
from tabagent.stores.records import Records
from tabagent.stores.shapes import Message, Response, Session

log = structlog.get_logger(__name__)

WRITE_S: Final = 2.0  # at most so much of an answer is lost when the machine dies
PAGE: Final = 64  # messages that are read at once
MOST: Final = 512  # messages that a prompt has at most
CHARACTERS: Final = 6  # of a token, at most, when history is read
EARLIER: Final = "A summary of what was said earlier in this conversation:\n"
HINTS: Final = 4096  # prompts whose beginning is remembered
PROBE: Final[list[Plain]] = [{"role": "user", "content": "?"}]
T = TypeVar("T")

Measure = Callable[[Model, Sequence[Plain], wire.Dialogue], Awaitable[int]]
"""Tokens of a conversation through a model's template. Loads the model."""


class Turn:
    """What is asked and answered. Outside of a session it is the messages alone."""

    def __init__(self, messages: list[Plain]) -> None:
        self.messages = messages

    @property
    def note(self) -> SessionNote | None:
        return None

    def add(self, step: Step) -> None:
        """What the model said."""

    async def end(self, response: Response | None = None) -> None:
        """Save the answer. With `response` it can be gone on from by that id."""


class KeptTurn(Turn):
    """One that a session keeps."""

    def __init__(self, keeper: Keeper, session: Session, saved: list[Message]) -> None:
        super().__init__([])
        self._keeper = keeper
        self.session, self.asked, self.answer = session, saved[:-1], saved[-1]
        self.ended = asyncio.Event()  # and written
        self.closed = False  # nothing more is added
        self.changed = False  # since the answer was written last
        self._choice = Choice(0)
        self._usage: wire.Usage | None = None
        self._fitted: Fitted | None = None
        self.summarised = False  # the model was told what it could not be shown

    @property
    def note(self) -> SessionNote:
        assert self._fitted is not None
        return SessionNote(
            id=self.session.id,
            branch=self.answer.branch_id,
            message_ids=[message.id for message in self.asked],
            answer_id=self.answer.id,
            history_messages=self._fitted.read,
            omitted_messages=self._fitted.omitted,
            summarised=self.summarised,
            unread_parts=self._fitted.unread,
        )

    def fit(self, fitted: Fitted) -> None:
        self._fitted, self.messages = fitted, fitted.messages

    def add(self, step: Step) -> None:
        match step:
            case wire.Piece():
                self._choice.add(step)
                self.changed = True
            case Ended(ending=ending):
                self._choice.ending = ending
            case wire.Usage():
                self._usage = step

    async def end(self, response: Response | None = None) -> None:
        if self.closed:  # by a server that stops
            return
        self.closed = True
        ending = self._choice.ending
        stopped = ending is None or ending.cause == "halted"
        message = self.written("partial" if stopped else "complete")
        message.finish_reason = None if ending is None else ending.reason
        if ending is not None and ending.cause == "halted":
            message.finish_reason = "halted"
        if self._usage is not None:
            message.usage = token_usage(self._usage).model_dump()
        await self._keeper.settle(self, response)

    def cut(self, error: BaseException | None) -> None:
        """It will not end. What there is of it is saved, and marked so."""
        self.closed = True
        typed = error if isinstance(error, TabAgentError) else None
        choice = self._choice
        said = choice.text or choice.reasoning or choice.calls
        message = self.written("failed" if typed and not said else "partial")
        message.finish_reason = typed.slug if typed else "cancelled"
        self._keeper.later(self)

    def written(self, status: Any) -> Message:
        """The answer as far as it has come."""
        choice, message = self._choice, self.answer
        calls = [
            {"id": c.id, "type": "function",
             "function": {"name": c.name, "arguments": c.arguments}}
            for c in choice.calls
        ]  # fmt: skip
        message.content = choice.text or (None if calls else "")
        message.extra = {
            **({"reasoning_content": choice.reasoning} if choice.reasoning else {}),
            **({"tool_calls": calls} if calls else {}),
        }
        message.status = status
        self.changed = False
        return message


class Keeper:
    """`measure` counts tokens, `context_length` says how many a model can hold as it is loaded,
    `changes` is told of what was saved.
    """

    def __init__(
        self,
        records: Records,
        settings: Settings,
        *,
        measure: Measure,
        context_length: Callable[[Model], int],
        changes: Changes,
    ) -> None:
        self._records, self._settings, self._changes = records, settings, changes
        self._measure, self._context = measure, context_length
        self._open: dict[str, KeptTurn] = {}  # that go on, by their answers' ids
        self._unsaved: dict[str, KeptTurn] = {}  # ended, and the database did not take it
        self._hints: dict[tuple[str, str], int] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._writer: asyncio.Task[None] | None = None

    async def session(self, session_id: str | None) -> Session | None:
        """The session that a request names. Raises SessionNotFound."""
        return None if session_id is None else await self._records.sessions.get(session_id)

    @asynccontextmanager
    async def turn(
        self,
        where: SessionParameters,
        session: Session | None,
        said: list[Plain],
        model: Model,
        dialogue: wire.Dialogue,
        max_tokens: int | None,
    ) -> AsyncGenerator[Turn, None]:
        """Save what is said, and prepare the prompt. Ends, or is cut off, with the block."""
        if session is None:
            yield Turn(said)
            return
        turn = await self._begun(self._begin(where, session, said, model))
        failure: BaseException | None = None
        try:
            await self._before(turn)
            await self._fill(turn, model, dialogue, max_tokens)
            yield turn
        except BaseException as error:
            failure = error
            raise
        finally:
            # No await in here: a caller who hung up does not wait for it.
            if not turn.closed:
                turn.cut(failure)

    async def settle(self, turn: KeptTurn, response: Response | None = None) -> None:
        """Write an answer for good. What the database does not take is tried again later."""
        await durably(self._settle(turn, response))

    async def _settle(self, turn: KeptTurn, response: Response | None) -> None:
        try:
            await self._records.messages.settle([turn.answer], response)
        except BaseException:
            self._unsaved[turn.answer.id] = turn
            raise
        finally:
            self._open.pop(turn.answer.id, None)
            turn.ended.set()
        self._changes.saved(turn.session, [turn.answer])

    def later(self, turn: KeptTurn) -> None:
        """The same, when nobody waits for it."""

        async def write() -> None:
            try:
                await self.settle(turn)
            except TabAgentError as error:
                log.warning("answer_not_saved", session=turn.session.id, code=error.slug)

        self._work(write())

    async def stop(self) -> None:
        """Cut off what goes on, and wait until all of it is written."""
        for turn in list(self._open.values()):
            if not turn.closed:
                turn.cut(ShuttingDown("the server stopped"))
        if self._writer:
            self._writer.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=10)
        if self._unsaved:
            await self._write()

    def _work(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _begun(self, beginning: Coroutine[Any, Any, KeptTurn]) -> KeptTurn:
        """A turn that does not stay open when the caller leaves while it is saved."""
        task = self._work(beginning)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_cut)
            raise

    async def _begin(
        self, where: SessionParameters, session: Session, said: list[Plain], model: Model
    ) -> KeptTurn:
        store = self._records.messages
        messages = [kept(message) for message in said]
        answer = Message("assistant", None, status="pending", model=model.id)
        replaces, after = where.replace_message_id, None
        if not messages:
            if replaces is None:
                raise invalid("/messages", "there is nothing to answer")
            if (await store.message(session.id, replaces)).role != "assistant":
                replaces, after = None, replaces  # it stays, and is answered again
        placed = await store.append(
            session.id, [*messages, answer], branch=where.branch, replaces=replaces, after=after
        )
        turn = KeptTurn(self, session, placed)
        self._open[turn.answer.id] = turn
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write_now_and_then())
        if turn.asked:
            self._changes.saved(session, turn.asked)
        return turn

    async def _before(self, turn: KeptTurn) -> None:
        """Wait until the answers before this one have ended: they are parts of the conversation."""
        session_id, here = turn.session.id, turn.answer
        open_ = [
            other
            for other in self._open.values()
            if other.session.id == session_id and other.answer.depth < here.depth
        ]
        if not open_:
            return
        pending = await self._records.messages.pending(session_id, here.branch_id, here.depth)
        ids = {message.id for message in pending}
        wait_s = self._settings.queue_wait_s
        try:
            async with asyncio.timeout(wait_s):
                for other in open_:
                    if other.answer.id in ids:
                        await other.ended.wait()
        except TimeoutError:
            raise QueueTimeout(
                f"the answer before this one went on for {wait_s:g} s; the message is saved"
            ) from None

    async def _fill(
        self, turn: KeptTurn, model: Model, dialogue: wire.Dialogue, max_tokens: int | None
    ) -> None:
        session, branch = turn.session, turn.answer.branch_id
        first = (turn.asked[0] if turn.asked else turn.answer).depth
        if first or len(turn.asked) > 1 or dialogue.tools or session.system:
            await self._measure(model, PROBE, dialogue)  # how it is loaded says what it can hold
        context = self._context(model)
        budget = context - min(max_tokens or max(context // 4, 1), context // 2)
        history, before = await self._history(session.id, branch, first, budget * CHARACTERS)
        pinned = await self._records.messages.pinned(session.id, branch, first)
        hint = session.id, model.id

        async def fitted_with(system: str | None) -> Fitted:
            return await fit(
                history,
                pinned,
                turn.asked,
                system=system,
                before=before,
                budget=budget,
                hint=self._hints.get(hint),
                measure=lambda messages: self._measure(model, messages, dialogue),
                beside=len(msgspec.json.encode(dialogue.tools)),
            )

        fitted = await fitted_with(session.system)
        summary = session.summary if fitted.omitted else None
        if summary and await self._records.messages.lies_on(
            session.id, branch, session.summary_until
        ):
            system = f"{session.system}\n\n" if session.system else ""
            fitted = await fitted_with(f"{system}{EARLIER}{summary}")
            turn.summarised = True
        self._hints.pop(hint, None)
        self._hints[hint] = fitted.start
        if len(self._hints) > HINTS:
            del self._hints[next(iter(self._hints))]
        turn.fit(fitted)

    async def _history(
        self, session_id: str, branch: str, depth: int, characters: int
    ) -> tuple[list[Message], int]:
        """(the newest messages before this depth, how many there are before them)."""
        found: list[Message] = []
        size = PAGE
        while depth > 0 and characters > 0 and len(found) < MOST:
            page = await self._records.messages.before(session_id, branch, depth, size)
            if not page:
                break
            found += page
            depth = page[-1].depth
            said = sum(len(message.text) for message in page)
            characters -= said
            # As many as are still wanted, if they are as long as these were.
            wanted = characters * len(page) // max(said, 1) + 1
            size = min(max(wanted, 1), MOST - len(found))
        return found[::-1], depth

    async def _write_now_and_then(self) -> None:
        """So that an answer is there, as far as it had come, when the machine dies."""
        while self._open or self._unsaved:
            await asyncio.sleep(WRITE_S)
            await self._write()

    async def _write(self) -> None:
        growing = [turn for turn in self._open.values() if turn.changed and not turn.closed]
        late = list(self._unsaved.values())
        answers = [*(turn.written("pending") for turn in growing), *(turn.answer for turn in late)]
        try:
            await self._records.messages.settle(answers)
        except TabAgentError as error:
            log.warning("answer_not_saved_yet", code=error.slug)
            return
        for turn in late:
            del self._unsaved[turn.answer.id]
            self._changes.saved(turn.session, [turn.answer])


def _cut(begun: asyncio.Task[KeptTurn]) -> None:
    if not begun.cancelled() and begun.exception() is None:
        begun.result().cut(None)
