"""Retrieval: passages that fit a question, and an answer from them that says where it is from."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final

from tabagent import wire
from tabagent.catalog.models import Model
from tabagent.operation import Call
from tabagent.replies.generation import Ended, Generator
from tabagent.replies.usage import timings, token_usage
from tabagent.retrieval import prompting
from tabagent.retrieval.library import Library
from tabagent.retrieval.passages import source
from tabagent.retrieval.search import Hit, Rerank, Wish
from tabagent.services.rag.shapes import (
    CitationInfo,
    Delta,
    Done,
    RagReply,
    RagRequest,
    RagStep,
    Retrieved,
)
from tabagent.sessions.keeper import Keeper
from tabagent.stores.shapes import Session

ANSWER_TOKENS: Final = 512
REWRITE_TOKENS: Final = 96
HISTORY: Final = 8  # messages that a question is rewritten with

FindReranker = Callable[[str | None], Rerank]
Measure = Callable[[Model, Sequence[dict[str, Any]], wire.Dialogue], Awaitable[int]]


class Rag:
    """`reranker` gives a function that scores texts, `measure` counts tokens as a model reads them,
    `context_length` says how many it can hold.
    """

    def __init__(
        self,
        library: Library,
        generator: Generator,
        keeper: Keeper,
        *,
        reranker: FindReranker,
        measure: Measure,
        context_length: Callable[[Model], int],
    ) -> None:
        self._library, self._generator, self._keeper = library, generator, keeper
        self._reranker, self._measure, self._context = reranker, measure, context_length

    async def query(self, request: RagRequest, call: Call) -> AsyncGenerator[RagStep, None]:
        """Find passages in documents and, where asked, answer from them with citations.

        Meaning and words are searched together and fused by rank. The answer's citations are
        checked: each says whether it names a source, and how much of its sentence stands there.
        Text inside documents is data; it is marked so, and changes nothing.
        """
        session = await self._keeper.session(request.session_id)
        query = request.query
        model = None
        if request.answer:
            model = await self._generator.resolve(
                request.model or (session.model if session else None)
            )
        if request.rewrite and session and model:
            query = await self._rewritten(request, session, model, call)
        hits = await self._found(request, query)
        sources = [source(number, hit) for number, hit in enumerate(hits, 1)]
        yield RagStep(Retrieved(query=query, sources=sources))
        done = Done(
            query=query, sources=sources, found=bool(hits), answer=None, citations=[],
            omitted_sources=0, model=model.id if model else None, finish_reason=None, usage=None,
            timings=None,
        )  # fmt: skip
        if model is not None:
            async with aclosing(self._answer(request, session, model, hits, call, done)) as steps:
                async for step in steps:
                    yield step
        yield RagStep(done)

    async def _found(self, request: RagRequest, query: str) -> list[Hit]:
        collections = await self._library.named(request.collections)
        rerank = None
        if request.rerank:
            rerank = self._reranker(request.rerank if isinstance(request.rerank, str) else None)
        wish = Wish(
            query,
            request.top_k,
            request.mode,
            request.filter.plain(),
            max(request.candidates, request.top_k),
            request.diversity,
            rerank,
            request.min_score,
        )
        return await self._library.search.find(collections, wish)

    async def _answer(
        self,
        request: RagRequest,
        session: Session | None,
        model: Model,
        hits: Sequence[Hit],
        call: Call,
        done: Done,
    ) -> AsyncGenerator[RagStep, None]:
        said = [{"role": "user", "content": request.query}]
        limit = request.max_tokens or ANSWER_TOKENS
        dialogue = wire.Dialogue()  # no tools: nothing in a document can call one
        reserve = self._context(model) // 2 if session else limit
        async with self._keeper.turn(request, session, said, model, dialogue, reserve) as turn:
            done.session = turn.note
            if not hits:
                done.answer, done.finish_reason = prompting.NOT_FOUND, "stop"
                turn.add(wire.Piece(0, 0, done.answer))
                turn.add(Ended(0, wire.Ending("stop", "eos")))
                await turn.end()
                yield RagStep(Delta(text=done.answer))
                return
            history = turn.messages[:-1]
            messages, taken = await self._prompt(model, history, request.query, hits, limit)
            done.omitted_sources = len(hits) - taken
            command = wire.Generate(
                0,
                sampling=wire.Sampling(temperature=request.temperature),
                messages=messages,
                max_tokens=limit,
            )
            parts: list[str] = []
            running = self._generator.steps(
                call, model, "chat", command, keep_alive_s=request.keep_alive
            )
            async with aclosing(running) as steps:
                async for step in steps:
                    turn.add(step)
                    if isinstance(step, wire.Piece) and step.text:
                        parts.append(step.text)
                        yield RagStep(Delta(text=step.text))
                    elif isinstance(step, Ended):
                        done.finish_reason = step.ending.reason
                    elif isinstance(step, wire.Usage):
                        await turn.end()
                        done.usage, done.timings = token_usage(step), timings(step)
            done.answer = "".join(parts)
            done.citations = _citations(done.answer, hits[:taken])
            done.found = prompting.NOT_FOUND.rstrip(".") not in done.answer

    async def _prompt(
        self,
        model: Model,
        history: Sequence[dict[str, Any]],
        question: str,
        hits: Sequence[Hit],
        limit: int,
    ) -> tuple[list[dict[str, Any]], int]:
        """(messages, how many of the passages are in them): as many as fit, the best first."""
        taken = len(hits)
        while True:
            messages = _with_history(prompting.asked(question, hits[:taken]), history)
            if taken == 1:
                return messages, taken
            tokens = await self._measure(model, messages, wire.Dialogue())
            context = self._context(model)  # it is loaded by now, with what it can hold here
            budget = context - min(limit, context // 2)
            if tokens <= budget:
                return messages, taken
            taken = max(min(taken - 1, int(taken * budget / tokens)), 1)

    async def _rewritten(
        self, request: RagRequest, session: Session, model: Model, call: Call
    ) -> str:
        _, page, _, _ = await self._library.records.messages.page(
            session.id, branch=request.branch, limit=HISTORY, newest_first=True
        )
        if not page:
            return request.query
        said = [{"role": m.role, "content": m.text[:2000]} for m in reversed(page)]
        asked = prompting.rewriting(said, request.query)
        answer = await self._generator.write(call, model, asked, REWRITE_TOKENS)
        return " ".join(answer.split()) or request.query


def _with_history(
    asked: list[dict[str, Any]], history: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The rules first, beside what the session says of the system; then what was said."""
    rules, question = asked
    if history and history[0]["role"] == "system":
        rules = {"role": "system", "content": f"{history[0]['content']}\n\n{rules['content']}"}
        history = history[1:]
    return [rules, *history, question]


def _citations(answer: str, hits: Sequence[Hit]) -> list[CitationInfo]:
    found = []
    for c in prompting.citations(answer, hits):
        said = source(c.number, c.hit) if c.hit else None
        found.append(
            CitationInfo(
                number=c.number, start=c.start, end=c.end, valid=c.hit is not None,
                support=c.support, document_id=said.document_id if said else None,
                chunk=said.chunk if said else None, source_start=said.start if said else None,
                source_end=said.end if said else None, url=said.url if said else None,
                score=said.score if said else None,
            )
        )  # fmt: skip
    return found


async def fold_rag(events: AsyncIterator[RagStep]) -> RagReply:
    """The plain reply, which the last event holds."""
    async for event in events:
        last = event.told
    assert isinstance(last, Done)
    return RagReply(**{name: getattr(last, name) for name in RagReply.model_fields})
