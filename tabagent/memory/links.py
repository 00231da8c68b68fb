"""What belongs together: near neighbours, and what names the same, each with its reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from tabagent.memory.meaning import Meaning
from tabagent.retrieval.index import Index
from tabagent.stores.papers import Passage
from tabagent.stores.records import Records
from tabagent.stores.shapes import Message
from tabagent.stores.vectors import Filter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Kind = Literal["document", "message"]
PROBES: Final = 8  # chunks of a document whose neighbours are looked for
NEAR: Final = 30  # neighbours of each
SHARED: Final = 200  # of what names the same
NAME: Final = 0.2  # what a name that two alone share counts, beside a likeness of 1


@dataclass(slots=True)
class Link:
    """One that belongs to what was asked for. `names` are those that both name, with how many do."""

    kind: Kind
    id: str
    similarity: float | None = None
    passage: Passage | None = None  # the nearest, of a document
    names: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def score(self) -> float:
        shared = sum(NAME * 2 / count for count in self.names.values())
        return (self.similarity or 0.0) + shared


class Links:
    """Looks for them when it is asked."""

    def __init__(self, records: Records, documents: Index, meaning: Meaning) -> None:
        self._records, self._documents, self._meaning = records, documents, meaning

    async def of(self, kind: Kind, id_: str, least: float) -> list[Link]:
        """The closest first; similarities below `least` say nothing.

        Raises DocumentNotFound or NotFound.
        """
        found: dict[tuple[Kind, str], Link] = {}
        vectors = await (self._of_document(id_) if kind == "document" else self._of_message(id_))
        for model, some in vectors.items():
            for vector in some:
                await self._near_documents(found, model, vector, least)
                await self._near_messages(found, model, vector, least)
        for about, item, label, name, shared in await self._records.memory.sharing(
            kind, id_, SHARED
        ):
            link = _link(found, "document" if about == "document" else "message", item)
            link.names[label, name] = shared
        found.pop((kind, id_), None)
        return sorted(found.values(), key=lambda link: -link.score)

    async def message(self, message_id: str) -> Message | None:
        return await self._records.messages.by_id(message_id)

    async def _of_document(self, document_id: str) -> Mapping[str, list[bytes]]:
        document = await self._records.documents.get(document_id)
        collection = await self._records.collections.get(document.collection)
        chunks = await self._records.documents.chunks(document_id)
        step = max(len(chunks) // PROBES, 1)
        numbers = [chunk.number for chunk in chunks[::step]][:PROBES]
        vectors = await self._records.documents.vectors(numbers, collection.model)
        return {collection.model: list(vectors.values())}

    async def _of_message(self, message_id: str) -> Mapping[str, list[bytes]]:
        message = await self._records.messages.by_id(message_id)
        model = await self._meaning.model()
        if model is None:
            return {}
        vectors = await self._records.memory.vectors([message.number], model)
        return {model: list(vectors.values())}

    async def _near_documents(
        self, found: dict[tuple[Kind, str], Link], model: str, vector: bytes, least: float
    ) -> None:
        for collection in await self._records.collections.all():
            if collection.model != model:
                continue  # vectors of two models cannot be compared
            hits = await self._documents.nearest(
                collection.name, model, _vector(vector), NEAR, Filter()
            )
            passages = await self._records.documents.passages([n for n, _ in hits])
            for number, similarity in hits:
                passage = passages.get(number)
                if passage is None or similarity < least:
                    continue
                link = _link(found, "document", passage.document.id)
                if link.similarity is None or similarity > link.similarity:
                    link.similarity, link.passage = similarity, passage

    async def _near_messages(
        self, found: dict[tuple[Kind, str], Link], model: str, vector: bytes, least: float
    ) -> None:
        if await self._meaning.model() != model:
            return
        hits = await self._meaning.near(vector, NEAR)
        rows = await self._records.messages.by_numbers([n for n, _ in hits])
        best: dict[str, float] = defaultdict(float)
        for number, similarity in hits:
            if number in rows and similarity >= least:
                id_ = rows[number][0].id
                best[id_] = max(best[id_], similarity)
        for id_, similarity in best.items():
            link = _link(found, "message", id_)
            link.similarity = max(link.similarity or 0.0, similarity)


def _link(found: dict[tuple[Kind, str], Link], kind: Kind, id_: str) -> Link:
    return found.setdefault((kind, id_), Link(kind, id_))


def _vector(data: bytes) -> NDArray[np.float32]:
    import numpy as np

    return np.frombuffer(data, np.dtype("<f4"))
