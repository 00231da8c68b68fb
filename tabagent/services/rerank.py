"""Documents in the order of their relevance to a query, in the shape of Jina's and Cohere's APIs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from tabagent import wire
from tabagent.catalog.models import Model, Task
from tabagent.engine.pooling import Ask
from tabagent.errors import ModelNotFound, WrongModelTask
from tabagent.operation import Call, Reply, Request
from tabagent.parameters import Flag, Whole
from tabagent.parameters.keep_alive import KeepAlive
from tabagent.replies.usage import absent

MOST_DOCUMENTS = 1000

Resolve = Callable[[str | None, Task], Awaitable[Model | None]]
"""The model that a request names; one for the task when it names none, or None."""


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
        description="0 to 1, higher is better: the sigmoid of the model's one logit, or its probability of the answer yes."
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
    results: list[RerankResult]
    usage: RerankUsage
    meta: RerankMeta


class Rerank:
    """`resolve` finds a model, `ask` asks its worker."""

    def __init__(self, resolve: Resolve, ask: Ask) -> None:
        self._resolve, self._ask = resolve, ask

    async def create(self, request: RerankRequest, call: Call) -> Reranking:
        """Rank documents by their relevance to a query.

        A score is 0 to 1, higher is better, and compares documents of one query. Every document has
        a result unless `top_n` says otherwise. Needs a model whose `task` is `rerank`.
        """
        model = await self._resolve(request.model, "rerank")
        if model is None:
            raise ModelNotFound(
                "there is no rerank model here",
                param="model",
                model=request.model or "",
                pull_hint="put the .gguf file of a reranker into the models directory",
            )
        if model.problem is None and model.task != "rerank":
            raise WrongModelTask(
                f"{model.id} has no head that ranks: use a model whose task is rerank, "
                "or compare embeddings of the texts yourself",
                param="model",
            )
        texts = request.texts
        answer = await self._ask(
            model,
            lambda id_: wire.Rank(id_, request.query, texts, request.truncate == "end"),
            request.keep_alive,
        )
        scores: list[float] = answer["scores"]
        order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
        tokens: int = answer["tokens"]
        return Reranking(
            id="rerank-" + call.request_id.replace("-", ""),
            model=model.id,
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
