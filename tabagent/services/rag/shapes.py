"""What retrieval is asked with, and what it answers."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, RootModel, model_validator

from tabagent.operation import Event, Reply
from tabagent.parameters import Flag, ModelName, Number, Whole, invalid
from tabagent.parameters.keep_alive import KeepAlive
from tabagent.parameters.lasting import LastingParameters
from tabagent.parameters.session import SessionParameters
from tabagent.replies.sessions import SessionNote
from tabagent.replies.usage import Timings, TokenUsage, absent
from tabagent.retrieval.library import DEFAULT
from tabagent.retrieval.passages import CollectionName, SearchFilter, Source


class RagRequest(SessionParameters, LastingParameters):
    """A question to the documents."""

    model_config = {
        "json_schema_extra": {"examples": [{"query": "How long does soup boil?", "answer": False}]}
    }

    query: Annotated[str, Field(min_length=1, max_length=8000)]
    collections: Annotated[list[CollectionName], Field(min_length=1, max_length=16)] = [DEFAULT]
    mode: Literal["hybrid", "vector", "words"] = Field(
        "hybrid", description="By meaning (`vector`), by words (BM25), or both."
    )
    top_k: Whole = Field(5, ge=1, le=100, description="Passages.")
    candidates: Whole = Field(50, ge=1, le=200, description="Looked at in each half of a search.")
    filter: SearchFilter = SearchFilter()
    rerank: Flag | Annotated[str, Field(max_length=200)] = Field(
        False, description="Order the candidates with a rerank model: `true`, or its id."
    )
    diversity: Number = Field(
        0.0, ge=0, le=1, description="How unlike each other the passages are to be (MMR)."
    )
    min_score: Number | None = Field(
        None,
        ge=-1,
        description="Least cosine of question and passage, or score of the rerank model. Where "
        "nothing has it, the answer is that it is not in the sources.",
    )
    answer: Flag = Field(True, description="Have a chat model answer from the passages.")
    model: ModelName = None
    max_tokens: Whole | None = Field(None, ge=1, description="Of the answer; 512 when left out.")
    temperature: Number | None = Field(0.0, ge=0, le=2)
    rewrite: Flag = Field(
        False,
        description="First have the model rewrite the question with the session's history, so that "
        "a follow-up finds what it means.",
    )
    stream: Flag | None = Field(
        False, description="Send the passages, then the answer as it grows."
    )
    keep_alive: KeepAlive = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.rewrite and self.session_id is None:
            raise invalid("/rewrite", "needs the history of a session: send session_id")
        if self.session_id is not None and not self.answer:
            raise invalid("/session_id", "goes with answer: true")
        if len(set(self.collections)) < len(self.collections):
            raise invalid("/collections", "names one twice")
        return self


class Retrieved(Reply):
    """The first event: the passages, the best first."""

    type: Literal["retrieval"] = "retrieval"
    query: str = Field(description="What was searched for.")
    sources: list[Source]


class Delta(Reply):
    """More of the answer."""

    type: Literal["delta"] = "delta"
    text: str


class CitationInfo(Reply):
    """A mark such as [1] in the answer."""

    number: int
    start: int = Field(description="Of the mark in the answer, in characters.")
    end: int
    valid: bool = Field(description="Whether there is such a source.")
    support: float = Field(
        description="The share of the words of its sentence that the passage has, from 0 to 1."
    )
    document_id: str | None
    chunk: int | None
    source_start: int | None = Field(description="The passage in the document's text.")
    source_end: int | None
    url: str | None
    score: float | None


class RagReply(Reply):
    """What was found, and the answer."""

    query: str = Field(description="What was searched for.")
    sources: list[Source]
    found: bool = Field(description="Whether any passage is good enough.")
    answer: str | None = Field(description="null when none was asked for.")
    citations: list[CitationInfo]
    omitted_sources: int = Field(description="Passages that did not fit into the model's context.")
    model: str | None
    finish_reason: str | None
    usage: TokenUsage | None
    timings: Timings | None
    session: SessionNote | None = Field(None, exclude_if=absent)


class Done(RagReply):
    """The last event: all of it."""

    type: Literal["done"] = "done"


class RagEvent(RootModel[Annotated[Retrieved | Delta | Done, Field(discriminator="type")]]):
    """One event of a streamed answer; its `type` is its SSE name as well."""


class RagStep(Event):
    """One event."""

    __slots__ = ("told",)
    documented_as = RagEvent

    def __init__(self, told: Retrieved | Delta | Done) -> None:
        self.told = told

    @property
    def name(self) -> str:
        return self.told.type

    def encode(self) -> bytes:
        return self.told.encode()
