"""Finding passages: by what they mean, by what they say, or by both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Final, Literal

from tabagent.retrieval.embedding import PatientEmbedder
from tabagent.retrieval.fusion import fuse, varied
from tabagent.retrieval.index import Hits, Index
from tabagent.retrieval.tally import Tally
from tabagent.stores.papers import Collection, Passage
from tabagent.stores.records import Records
from tabagent.stores.spacing import spaced
from tabagent.stores.vectors import Filter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Mode = Literal["hybrid", "vector", "words"]
Rerank = Callable[[str, Sequence[str]], Awaitable[list[float]]]
"""Scores of texts for a query; higher is better."""
SPARE: Final = 8  # read beyond what is wanted: the index may hold what is gone
CANDIDATES: Final = 50  # of each half
NO_FILTER: Final = Filter()


@dataclass(slots=True)
class Hit:
    """A passage that was found. `score` orders the hits of one search; `similarity` is a cosine.

    `vector_rank` and `words_rank` are its places in the two halves, from 1.
    """

    passage: Passage
    score: float
    similarity: float | None
    words_score: float | None
    vector_rank: int | None
    words_rank: int | None
    rerank_score: float | None = None

    @property
    def relevance(self) -> float:
        """What is compared with a least score: a reranker's word, else the cosine."""
        if self.rerank_score is not None:
            return self.rerank_score
        return self.similarity if self.similarity is not None else 0.0


@dataclass(frozen=True, slots=True)
class Wish:
    """How to search."""

    query: str
    count: int
    mode: Mode = "hybrid"
    where: Filter = NO_FILTER
    candidates: int = CANDIDATES
    diversity: float = 0.0
    rerank: Rerank | None = None
    min_score: float | None = None

    @property
    def chooses(self) -> bool:
        """Whether candidates beyond the first are looked at."""
        return bool(self.rerank or self.diversity or self.min_score is not None)


class Search:
    """Searches collections."""

    def __init__(
        self,
        records: Records,
        embedder: PatientEmbedder,
        index: Index,
        tally: Tally | None = None,
    ) -> None:
        self._records, self._embedder, self._index = records, embedder, index
        self._tally = tally or Tally()

    async def find(self, collections: Sequence[Collection], wish: Wish) -> list[Hit]:
        """The best first. Raises IndexRebuilding, or what an embedding model raises."""
        began = monotonic()
        found = await self._find(collections, wish)
        self._tally.searches.observe(monotonic() - began)
        return found

    async def _find(self, collections: Sequence[Collection], wish: Wish) -> list[Hit]:
        embedding: dict[str, asyncio.Task[NDArray[np.float32]]] = {}
        if wish.mode != "words" or wish.min_score is not None:
            for model in {collection.model for collection in collections}:
                embedding[model] = asyncio.create_task(self._query(model, wish.query))
        try:
            # The words are looked for while the question is being embedded.
            halves = await asyncio.gather(
                *(self._halves(collection, embedding, wish) for collection in collections)
            )
            queries = {model: await task for model, task in embedding.items()}
        finally:
            for task in embedding.values():
                task.cancel()
        near = [hits for hits, _ in halves]
        said = [hits for _, hits in halves]
        scores = fuse([[number for number, _ in hits] for hits in (*near, *said)])
        order = sorted(scores, key=lambda number: -scores[number])
        # What nothing orders anew is read as far as it is wanted.
        needed = 2 * wish.candidates if wish.chooses else wish.count + SPARE
        passages = await self._records.documents.passages(order[:needed])
        hits = _hits(order[:needed], passages, scores, near, said)
        await self._complete(hits, collections, queries)
        if wish.rerank and hits:
            hits = await _reranked(hits[: wish.candidates], wish.query, wish.rerank)
        if wish.min_score is not None:
            hits = [hit for hit in hits if hit.relevance >= wish.min_score]
        if wish.diversity > 0:
            return await self._varied(hits, collections, wish)
        return hits[: wish.count]

    async def _query(self, model: str, query: str) -> NDArray[np.float32]:
        return _vector(await self._embedder.query(model, query))

    async def _halves(
        self,
        collection: Collection,
        embedding: dict[str, asyncio.Task[NDArray[np.float32]]],
        wish: Wish,
    ) -> tuple[Hits, Hits]:
        name, model = collection.name, collection.model

        async def near() -> Hits:
            if wish.mode == "words":
                return []
            vector = await embedding[model]
            return await self._index.nearest(name, model, vector, wish.candidates, wish.where)

        async def said() -> Hits:
            if wish.mode == "vector":
                return []
            query = spaced(wish.query)
            return await self._index.saying(name, model, query, wish.candidates, wish.where)

        found, words = await asyncio.gather(near(), said())
        return found, words

    async def _complete(
        self,
        hits: Sequence[Hit],
        collections: Sequence[Collection],
        queries: dict[str, NDArray[np.float32]],
    ) -> None:
        """The cosine of what only its words have found."""
        for collection in collections:
            if collection.model not in queries:
                continue
            lacking = {
                hit.passage.chunk.number: hit
                for hit in hits
                if hit.similarity is None and hit.passage.chunk.collection == collection.name
            }
            vectors = await self._records.documents.vectors(list(lacking), collection.model)
            for number, vector in vectors.items():
                lacking[number].similarity = float(_vector(vector) @ queries[collection.model])

    async def _varied(
        self, hits: Sequence[Hit], collections: Sequence[Collection], wish: Wish
    ) -> list[Hit]:
        by_number = {hit.passage.chunk.number: hit for hit in hits}
        vectors: dict[int, NDArray[np.float32]] = {}
        for collection in collections:
            numbers = [
                n for n, h in by_number.items() if h.passage.chunk.collection == collection.name
            ]
            found = await self._records.documents.vectors(numbers, collection.model)
            vectors |= {number: _vector(vector) for number, vector in found.items()}
        scores = {number: hit.score for number, hit in by_number.items()}
        chosen = varied(list(by_number), scores, vectors, wish.count, wish.diversity)
        return [by_number[number] for number in chosen]


def _vector(data: bytes) -> NDArray[np.float32]:
    import numpy as np

    return np.frombuffer(data, np.dtype("<f4"))


def _hits(
    order: Sequence[int],
    passages: dict[int, Passage],
    scores: dict[int, float],
    near: Sequence[Hits],
    said: Sequence[Hits],
) -> list[Hit]:
    cosine = {number: (value, rank) for hits in near for rank, (number, value) in _ranked(hits)}
    words = {number: (value, rank) for hits in said for rank, (number, value) in _ranked(hits)}
    return [
        Hit(
            passages[number],
            scores[number],
            cosine.get(number, (None, None))[0],
            words.get(number, (None, None))[0],
            cosine.get(number, (None, None))[1],
            words.get(number, (None, None))[1],
        )
        for number in order
        if number in passages  # what the index has too much
    ]


def _ranked(hits: Hits) -> list[tuple[int, tuple[int, float]]]:
    return list(enumerate(hits, 1))


async def _reranked(hits: list[Hit], query: str, rerank: Rerank) -> list[Hit]:
    scores = await rerank(query, [hit.passage.chunk.text for hit in hits])
    for hit, score in zip(hits, scores, strict=True):
        hit.rerank_score = hit.score = score
    return sorted(hits, key=lambda hit: -hit.score)
