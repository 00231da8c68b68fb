"""What the fake engine makes of texts: a vector of their bytes, a rank by the words in common.

It reads one text in a step.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from tabagent import wire
from tabagent.errors import InvalidRequest

WIDTH: Final = 8


@dataclass(eq=False)
class Reading:
    """A request for vectors or ranks, and how many of its texts are read."""

    command: wire.Pooled
    done: int = 0
    texts: list[str] = field(init=False)

    def __post_init__(self) -> None:
        command = self.command
        self.texts = command.documents if isinstance(command, wire.Rank) else command.texts

    def answer(self) -> wire.Done:
        command = self.command
        if isinstance(command, wire.Embed):
            vectors = [_vector(text)[: command.dimensions] for text in command.texts]
            packed = [struct.pack(f"<{len(unit)}f", *unit) for unit in map(_unit, vectors)]
            return wire.Done(
                command.id, {"vectors": packed, "tokens": [len(text) for text in command.texts]}
            )
        if isinstance(command, wire.Label):
            rows = [[len(text) % 2, (len(text) + 1) % 2] for text in command.texts]
            return wire.Done(
                command.id, {"scores": rows, "tokens": [len(text) for text in command.texts]}
            )
        if isinstance(command, wire.Mark):
            spans = [[("LETTERS", 1.0, 0, len(text))] for text in command.texts]
            return wire.Done(
                command.id, {"spans": spans, "tokens": [len(text) for text in command.texts]}
            )
        scores = [_relevance(command.query, document) for document in command.documents]
        tokens = sum(len(command.query) + len(document) for document in command.documents)
        method = "cross-encoder"
        return wire.Done(command.id, {"scores": scores, "tokens": tokens, "method": method})


def check(command: wire.Pooled) -> None:
    """Raise InvalidRequest for more dimensions than there are."""
    if isinstance(command, wire.Embed) and (command.dimensions or 0) > WIDTH:
        detail = f"this model's vectors have {WIDTH} numbers"
        errors = [{"pointer": "/dimensions", "detail": detail}]
        raise InvalidRequest(detail, param="dimensions", errors=errors)


def _vector(text: str) -> list[float]:
    counts = Counter(byte % WIDTH for byte in text.encode())
    return [1.0 + counts[n] for n in range(WIDTH)]


def _unit(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(number * number for number in vector))
    return [number / length for number in vector]


def _relevance(query: str, document: str) -> float:
    wanted = set(query.split())
    return len(wanted & set(document.split())) / max(1, len(wanted))
