"""The corpus as data: intents with their phrasings, answers and required facts."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "corpus"
ERROR_WEIGHT = 0.6  # one slug is easier to recognise than a topic in a person's own words


@dataclass(frozen=True)
class Intent:
    """One thing a person may want, and what is answered."""

    id: str
    answers: tuple[str, ...]
    facts: tuple[str, ...]
    do: tuple[str, ...] = ()
    topic: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    group: str = ""
    weight: float = 1.0
    plain: bool = False  # no politeness is put around it: "please hello" is nobody's sentence
    slug: str = ""
    status: int = 0

    @property
    def kind(self) -> str:
        """The name under which an answer counts as right: the group, or the intent itself."""
        return self.group or self.id


def _lines(block: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in block.splitlines() if line.strip())


def _intent(row: dict[str, Any]) -> Intent:
    return Intent(
        id=row["id"],
        answers=tuple(row["answers"]),
        facts=tuple(row["facts"]),
        do=_lines(row.get("do", "")),
        topic=_lines(row.get("topic", "")),
        ask=_lines(row.get("ask", "")),
        group=row.get("group", ""),
        weight=float(row.get("weight", 1.0)),
        plain=bool(row.get("plain", False)),
    )


def _error(row: dict[str, Any]) -> Intent:
    slug = str(row["slug"])
    return Intent(
        id=f"error-{slug}",
        answers=(row["answer"],),
        facts=(f"^{re.escape(slug)}:",),
        ask=_lines(row.get("says", "")),
        weight=ERROR_WEIGHT,
        slug=slug,
        status=int(row["status"]),
    )


def load_intents() -> dict[str, Intent]:
    """Every intent of the corpus by id, in a fixed order."""
    intents: dict[str, Intent] = {}
    for path in sorted(CORPUS.glob("*.toml")):
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        rows = [_intent(row) for row in table.get("intent", [])]
        rows += [_error(row) for row in table.get("error", [])]
        for row in rows:
            if row.id in intents:
                raise ValueError(f"two intents are called {row.id}")
            if not all(re.search(fact, text) for fact in row.facts for text in row.answers):
                raise ValueError(f"an answer of {row.id} lacks one of its facts")
            intents[row.id] = row
    return intents


class Wrappers:
    """What is put around a phrasing: lists of strings, some with a weight, and word tables."""

    def __init__(self, tables: dict[str, Any]) -> None:
        self._tables = tables

    def __getitem__(self, name: str) -> tuple[str, ...]:
        return tuple(self._tables[name])

    def weighted(self, name: str) -> tuple[tuple[str, int], ...]:
        """(text, weight) pairs; "how do i {} #8" has the weight 8, and one is the default."""
        parts = (text.partition(" #") for text in self._tables[name])
        return tuple((text, int(weight or 1)) for text, _, weight in parts)

    def table(self, name: str) -> dict[str, list[str]]:
        """Words and what may stand for them."""
        return dict(self._tables[name])


def load_wrappers() -> Wrappers:
    """The tables of wrappers.toml."""
    return Wrappers(tomllib.loads((CORPUS / "wrappers.toml").read_text(encoding="utf-8")))


def load_slots() -> dict[str, list[str]]:
    """The word lists that stand for `<name>` in a phrasing."""
    return tomllib.loads((CORPUS / "slots.toml").read_text(encoding="utf-8"))


def load_held_back(part: str) -> list[tuple[str, str]]:
    """(kind, phrasing) pairs that training never sees; `part` is "test" or "dev"."""
    table = tomllib.loads((CORPUS / "held_back.toml").read_text(encoding="utf-8"))
    return [(kind, text) for kind, texts in table[part].items() for text in texts]
