"""Documents in the order of their relevance to a query, in the shape of Jina's and Cohere's APIs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from tabagent import wire
from tabagent.catalog.models import Model, Task
from tabagent.engine.pooling import Ask
from tabagent.errors import EmbeddingModelNotAvailable, ModelNotFound, WrongModelTask
from tabagent.operation import Call, Reply, Request
from tabagent.parameters import Flag, Whole
from tabagent.parameters.keep_alive import KeepAlive
from tabagent.replies.usage import absent

MOST_DOCUMENTS = 1000

Resolve = Callable[[str | None, Task], Awaitable[Model | None]]
"""The model that a request names; one for the task when it names none, or None."""


Scores = Callable[[str, Sequence[str]], Awaitable[list[float]]]


class TextDocument(Request):
    """A document as an object."""

    text: str


Document = Annotated[
    Annotated[str, Tag("string")] | Annotated[TextDocument, Tag("object")],
    Discriminator(lambda value: "object" if isinstance(value, dict | TextDocument) else "string"),
]


class RerankRequest(Request):
    """A query, and the documents to rank. All pairs together may have 262,144 tokens."""

    model_config = {
        "json_schema_extra": {
            "examples": [
                {
                    "query": "How do I pull a model?",
                    "documents": ["tabagent pull gets a model.", "Ports are numbers."],
                }
            ]
        }
    }

    model: str | None = Field(
        None,
        max_length=200,
        description="Model id; left out: the selected model if it ranks, else one that does.",
    )
    query: str = Field(min_length=1)
    documents: list[Document] = Field(
        min_length=1, max_length=MOST_DOCUMENTS, description="Texts, or objects with a `text`."
    )
    top_n: Whole | None = Field(None, ge=1, description="Only the best so many; all when left out.")
    return_documents: Flag = Field(False, description="Send the texts back with the results.")
    truncate: Literal["window", "end"] = Field(
        "window",
        description="A document that does not fit beside the query is read in overlapping windows, of which the best counts; with `end` its beginning alone is read.",
    )
    method: wire.RankMethod = Field(
        "auto",
        description="`cross-encoder` needs a model whose task is `rerank`; `similarity` and `late-interaction` (the likest token of the document for each of the query) need one that makes embeddings. `auto` takes what the model can do best.",
    )
    keep_alive: KeepAlive = None

    @property
    def texts(self) -> list[str]:
        return [d if isinstance(d, str) else d.text for d in self.documents]


class RankedDocument(Reply):
    """A document's text."""

    text: str


class RerankResult(Reply):
    """One document's rank."""

    index: int = Field(description="Of the document in the request.")
    relevance_score: float = Field(
        description="Higher is better. Of a cross-encoder 0 to 1, the sigmoid of its one logit or its probability of the answer yes, or the logit itself where the model is made so (`scale` says `raw`); else a cosine."
    )
    document: RankedDocument | None = Field(None, exclude_if=absent)


class RerankUsage(Reply):
    """What was read: the query counts with every document, or window of one."""

    prompt_tokens: int
    total_tokens: int


class RerankTokens(Reply):
    """Cohere's way to tell the usage."""

    input_tokens: int
    output_tokens: int = 0


class RerankMeta(Reply):
    """About the request, as Cohere's API has it."""

    tokens: RerankTokens


class Reranking(Reply):
    """The documents, the most relevant first."""

    id: str
    object: Literal["list"] = "list"
    model: str
    method: Literal["cross-encoder", "similarity", "late-interaction"] = Field(
        description="How the scores were made."
    )
    scale: Literal["probability", "raw", "cosine"] = Field(description="What the scores are.")
    results: list[RerankResult]
    usage: RerankUsage
    meta: RerankMeta


class Rerank:
    """`resolve` finds a model, `ask` asks its worker."""

    def __init__(self, resolve: Resolve, ask: Ask) -> None:
        self._resolve, self._ask = resolve, ask

    async def create(self, request: RerankRequest, call: Call) -> Reranking:
        """Rank documents by their relevance to a query.

        Higher is better; scores compare documents of one query. Every document has a result unless
        `top_n` says otherwise. Takes a model whose `task` is `rerank`, or one that makes embeddings
        when it is named or `method` asks for one.
        """
        by_vectors = request.method in ("similarity", "late-interaction")
        model = await self._model(request.model, by_vectors=by_vectors)
        texts = request.texts
        answer = await self._ask(
            model,
            lambda id_: wire.Rank(
                id_, request.query, texts, request.truncate == "end", request.method
            ),
            request.keep_alive,
        )
        scores: list[float] = answer["scores"]
        order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
        tokens: int = answer["tokens"]
        method: wire.RankMethod = answer["method"]
        raw = model.reading is not None and model.reading.scale == "raw"
        return Reranking(
            id="rerank-" + call.request_id.replace("-", ""),
            model=model.id,
            method=method,
            scale="cosine" if method != "cross-encoder" else "raw" if raw else "probability",
            results=[
                RerankResult(
                    index=index,
                    relevance_score=scores[index],
                    document=RankedDocument(text=texts[index])
                    if request.return_documents
                    else None,
                )
                for index in order[: request.top_n]
            ],
            usage=RerankUsage(prompt_tokens=tokens, total_tokens=tokens),
            meta=RerankMeta(tokens=RerankTokens(input_tokens=tokens)),
        )

    def scorer(self, name: str | None) -> Scores:
        """A function that says how well texts answer a query, with the model of this name."""

        async def score(query: str, texts: Sequence[str]) -> list[float]:
            model = await self._model(name, by_vectors=False)
            answer = await self._ask(
                model, lambda id_: wire.Rank(id_, query, list(texts), False, "auto"), None
            )
            scores: list[float] = answer["scores"]
            return scores

        return score

    async def _model(self, name: str | None, *, by_vectors: bool) -> Model:
        model = await self._resolve(name, "embedding" if by_vectors else "rerank")
        if model is None and by_vectors:
            raise EmbeddingModelNotAvailable("there is no embedding model here", param="model")
        if model is None:
            raise ModelNotFound(
                "there is no rerank model here",
                param="model",
                model=name or "",
                pull_hint='put a reranker into the models directory, or send method: "similarity"',
            )
        if model.problem is None and model.task not in ("rerank", "embedding"):
            raise WrongModelTask(
                f"{model.id} does not rank: use a model whose task is rerank or embedding",
                param="model",
            )
        return model
