"""Conversations that may be gone on with: in memory, bounded, each caller's own."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import msgspec

from tabagent.errors import ResponseNotFound
from tabagent.services.responses.transcript import Message


@dataclass(slots=True)
class _Shelf:
    """One caller's conversations with their sizes in bytes, the longest unused first."""

    kept: OrderedDict[str, tuple[list[Message], int]] = field(default_factory=OrderedDict)
    size: int = 0


class ResponseStore:
    """Keeps the `most` last used of each caller, as long as they take no more than `most_bytes`.

    Every conversation is counted whole, though those that go on from one another share messages.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._shelves: dict[str, _Shelf] = {}

    def keep(self, caller: str, id_: str, messages: list[Message]) -> bool:
        """Whether it is kept: not when it alone is larger than everything may be."""
        size = len(msgspec.json.encode(messages))
        shelf = self._shelves.setdefault(caller, _Shelf())
        self._drop(shelf, id_)
        if size > self._most_bytes or not self._most:
            return False
        shelf.kept[id_] = messages, size
        shelf.size += size
        while shelf.size > self._most_bytes or len(shelf.kept) > self._most:
            self._drop(shelf, next(iter(shelf.kept)))
        return True

    def find(self, caller: str, id_: str) -> list[Message]:
        """The conversation up to that response. Raises ResponseNotFound."""
        shelf = self._shelves.get(caller, _Shelf())
        if id_ not in shelf.kept:
            raise ResponseNotFound(
                f"the response {id_} is not kept, or not any more: send the conversation as input",
                param="previous_response_id",
            )
        shelf.kept.move_to_end(id_)
        return shelf.kept[id_][0]

    @staticmethod
    def _drop(shelf: _Shelf, id_: str) -> None:
        if id_ in shelf.kept:
            shelf.size -= shelf.kept.pop(id_)[1]
