"""Requests and replies of what is worked out from vectors."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tabagent.operation import Reply, Request
from tabagent.parameters import Number, Whole
from tabagent.parameters.keep_alive import KeepAlive

Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=1000)]
Few = Annotated[list[Text], Field(min_length=1, max_length=256)]


class VectorRequest(Request):
    """What makes the vectors."""

    model: str | None = Field(
        None,
        max_length=200,
        description="Model id; left out: the selected model if it makes embeddings, else one that does.",
    )
    truncate: Literal["error", "end", "split"] = Field(
        "error",
        description="What becomes of a text that is too long: `end` cuts it, `split` takes the mean of its parts.",
    )
    keep_alive: KeepAlive = None


class SimilarityRequest(VectorRequest):
    """Texts to compare: with `others`, or with each other."""

    model_config = {
        "json_schema_extra": {
            "examples": [{"texts": ["How do I pull a model?"], "others": ["Getting models", "Tea"]}]
        }
    }

    texts: Few
    others: Few | None = None


class SearchRequest(VectorRequest):
    """A question, and the texts to look in."""

    model_config = {
        "json_schema_extra": {
            "examples": [{"query": "a model for chat", "texts": ["Chat models", "Tea"], "top_k": 1}]
        }
    }

    query: Text
    texts: Texts
    top_k: Whole = Field(10, ge=1, le=1000)
    min_score: Number | None = Field(None, ge=-1, le=1, description="Leave out what is less alike.")


class RecommendRequest(VectorRequest):
    """What was liked, and what there is to choose from."""

    model_config = {
        "json_schema_extra": {
            "examples": [
                {"liked": ["green tea"], "texts": ["black tea", "white tea", "coffee"], "top_k": 2}
            ]
        }
    }

    liked: Few = Field(description="Their mean is what is looked for.")
    texts: Texts
    top_k: Whole = Field(10, ge=1, le=1000)
    diversity: Number = Field(
        0.3, ge=0, le=1, description="0 goes by likeness alone; 1 takes what is unlike the others."
    )


class EvaluateRequest(VectorRequest):
    """Documents, and queries with what is relevant to each."""

    model_config = {
        "json_schema_extra": {
            "examples": [
                {"documents": ["green tea", "a car"], "queries": ["a drink"], "relevant": [[0]]}
            ]
        }
    }

    documents: Annotated[list[Text], Field(min_length=2, max_length=1000)]
    queries: Few | None = None
    relevant: list[Annotated[list[Annotated[Whole, Field(ge=0)]], Field(min_length=1)]] | None = (
        Field(None, description="For each query, the indexes of the documents that answer it.")
    )
    cutoffs: list[Annotated[Whole, Field(ge=1, le=1000)]] = Field(
        [1, 5, 10], min_length=1, max_length=10, description="The k of recall@k and nDCG@k."
    )

    @model_validator(mode="after")
    def _they_belong_together(self) -> Self:
        if (self.queries is None) != (self.relevant is None):
            raise ValueError("queries and relevant go together")
        if self.queries is not None and len(self.queries) != len(self.relevant or ()):
            raise ValueError("relevant needs an entry for each query")
        if any(index >= len(self.documents) for each in self.relevant or () for index in each):
            raise ValueError("relevant names a document that is not there")
        return self


class ClusterRequest(VectorRequest):
    """Texts to put together by what they are about."""

    model_config = {
        "json_schema_extra": {
            "examples": [
                {"texts": ["green tea", "black tea", "a red car", "a blue car"], "count": 2}
            ]
        }
    }

    texts: Annotated[list[Text], Field(min_length=2, max_length=1000)]
    count: Whole | None = Field(
        None,
        ge=1,
        le=1000,
        description="Clusters, by k-means; as many as HDBSCAN finds if left out.",
    )
    min_size: Whole = Field(2, ge=2, le=1000, description="Least members, where HDBSCAN counts.")

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.count is not None and self.count > len(self.texts):
            raise ValueError("count is more than there are texts")
        return self


class ReadTokens(Reply):
    """What was read."""

    prompt_tokens: int
    total_tokens: int


class Similarities(Reply):
    """Cosines, -1 to 1: a row for each text, a column for each it was compared with."""

    model: str
    similarities: list[list[float]]
    usage: ReadTokens


class Match(Reply):
    """A text of the request."""

    index: int
    score: float = Field(description="How much it is like what was looked for: a cosine.")
    text: str


class Matches(Reply):
    """The texts that are most alike; recommended ones in the order of their choice."""

    model: str
    results: list[Match]
    usage: ReadTokens


class Evaluation(Reply):
    """How a model's vectors do on these texts. Means over the queries, null without queries."""

    model: str
    recall: dict[int, float] | None = Field(description="By k: what was found of the relevant.")
    ndcg: dict[int, float] | None = Field(description="By k, of binary relevance.")
    mrr: float | None = Field(description="Mean reciprocal rank of the first relevant one.")
    anisotropy: float = Field(description="Mean cosine of two documents; near 1 is bad.")
    usage: ReadTokens


class Cluster(Reply):
    """Texts that belong together, by their indexes."""

    size: int
    members: list[int]
    representative: int = Field(description="The one nearest to the middle.")
    text: str = Field(description="The representative's.")


class Clusters(Reply):
    """The largest first."""

    model: str
    clusters: list[Cluster]
    alone: list[int] = Field(description="What belongs to none.")
    usage: ReadTokens
