"""What vectors tell of texts: how alike they are, which fit a question, which belong together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from tabagent.operation import Call
from tabagent.replies.vectors import Embedder, Vectors
from tabagent.services.likeness import measures
from tabagent.services.likeness.shapes import (
    Cluster,
    ClusterRequest,
    Clusters,
    EvaluateRequest,
    Evaluation,
    Match,
    Matches,
    ReadTokens,
    RecommendRequest,
    SearchRequest,
    Similarities,
    SimilarityRequest,
    VectorRequest,
)

ASKED_AND_TOLD: Final = {
    "query": "query", "queries": "query", "texts": "passage", "documents": "passage",
}  # fmt: skip
"""The prompts of models that read questions otherwise than what answers them."""


class Likeness:
    """Works on texts that a request brings, with the model that it names."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def similarity(self, request: SimilarityRequest, call: Call) -> Similarities:
        """Say how alike texts are, each with each or with others."""
        others = request.others or []
        found = await self._vectors(request, texts=request.texts, others=others)

        def compare() -> list[list[float]]:
            rows = found.matrix()
            count = len(request.texts)
            return _rounded(measures.alike(rows[:count], rows[count:] if others else rows).tolist())

        return Similarities(
            model=found.model, similarities=await asyncio.to_thread(compare), usage=_usage(found)
        )

    async def search(self, request: SearchRequest, call: Call) -> Matches:
        """Find the texts that fit a question best, by meaning."""
        found = await self._vectors(
            request, roles=ASKED_AND_TOLD, query=request.query, texts=request.texts
        )

        def look() -> list[Match]:
            rows = found.matrix()
            scores = measures.alike(rows[:1], rows[1:])[0].tolist()
            least = -1.0 if request.min_score is None else request.min_score
            order = measures.best(scores, request.top_k)
            return [_match(i, scores, request.texts) for i in order if scores[i] >= least]

        return await _matches(found, look)

    async def recommend(self, request: RecommendRequest, call: Call) -> Matches:
        """Choose texts like those that were liked, and not all alike (MMR)."""
        found = await self._vectors(request, liked=request.liked, texts=request.texts)

        def choose() -> list[Match]:
            rows = found.matrix()
            liked, texts = rows[: len(request.liked)], rows[len(request.liked) :]
            middle = liked.mean(axis=0, keepdims=True)
            length = float((middle**2).sum() ** 0.5) or 1.0  # opposites have no middle
            scores = measures.alike(middle / length, texts)[0].tolist()
            each = measures.alike(texts, texts)
            order = measures.diverse(scores, each, request.top_k, request.diversity)
            return [_match(i, scores, request.texts) for i in order]

        return await _matches(found, choose)

    async def evaluate(self, request: EvaluateRequest, call: Call) -> Evaluation:
        """Measure how well a model's vectors find what is relevant, and how they use their space."""
        queries = request.queries or []
        found = await self._vectors(
            request, roles=ASKED_AND_TOLD, documents=request.documents, queries=queries
        )

        def measure() -> tuple[measures.Ranking | None, float]:
            rows = found.matrix()
            documents = rows[: len(request.documents)]
            ranking = None
            if request.relevant is not None:
                likeness = measures.alike(rows[len(request.documents) :], documents)
                ranking = measures.ranking(likeness, request.relevant, sorted(set(request.cutoffs)))
            return ranking, measures.anisotropy(documents)

        ranking, anisotropy = await asyncio.to_thread(measure)
        return Evaluation(
            model=found.model,
            recall=ranking.recall if ranking else None,
            ndcg=ranking.ndcg if ranking else None,
            mrr=ranking.mrr if ranking else None,
            anisotropy=round(anisotropy, 6),
            usage=_usage(found),
        )

    async def cluster(self, request: ClusterRequest, call: Call) -> Clusters:
        """Put texts together by what they are about, each cluster with the text in its middle."""
        found = await self._vectors(request, texts=request.texts)
        groups, alone = await asyncio.to_thread(
            lambda: measures.groups(found.matrix(), request.count, request.min_size)
        )
        return Clusters(
            model=found.model,
            clusters=[
                Cluster(
                    size=len(group.members),
                    members=group.members,
                    representative=group.representative,
                    text=request.texts[group.representative],
                )
                for group in groups
            ],
            alone=alone,
            usage=_usage(found),
        )

    async def _vectors(
        self,
        request: VectorRequest,
        roles: Mapping[str, str] = MappingProxyType({}),
        **fields: str | Sequence[str],
    ) -> Vectors:
        """The vectors of all texts in these fields, in their order; `roles` by field."""
        texts: list[str] = []
        pointers: list[str] = []
        played: list[str | None] = []
        for name, value in fields.items():
            if isinstance(value, str):
                texts.append(value)
                pointers.append(f"/{name}")
            else:
                texts += value
                pointers += [f"/{name}/{index}" for index in range(len(value))]
            played += [roles.get(name)] * (len(texts) - len(played))
        return await self._embedder.vectors(
            request.model,
            texts,
            pointers=pointers,
            truncate=request.truncate,
            roles=played if roles else (),
            keep_alive_s=request.keep_alive,
        )


async def _matches(found: Vectors, work: Callable[[], list[Match]]) -> Matches:
    results = await asyncio.to_thread(work)
    return Matches(model=found.model, results=results, usage=_usage(found))


def _match(index: int, scores: Sequence[float], texts: Sequence[str]) -> Match:
    return Match(index=index, score=round(scores[index], 6), text=texts[index])


def _rounded(rows: list[list[float]]) -> list[list[float]]:
    return [[round(value, 6) for value in row] for row in rows]


def _usage(found: Vectors) -> ReadTokens:
    return ReadTokens(prompt_tokens=found.tokens, total_tokens=found.tokens)
