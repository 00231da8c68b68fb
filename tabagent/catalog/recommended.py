"""Public models that are worth a try: a dated list in a data file, read once.

Sizes are rounded to megabytes; what a pull really takes, the hub says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Final

from tabagent.catalog.models import Task

FILE: Final = Path(__file__).with_name("recommended.json")


@dataclass(frozen=True, slots=True)
class Variant:
    """One quantisation of a model."""

    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommended:
    """A model on the hub. `active_parameters` are those that one token passes through."""

    repo: str
    task: Task
    parameters: int
    active_parameters: int
    context_length: int
    license: str
    tools: bool
    reasoning: bool
    about: str
    variants: tuple[Variant, ...]  # the smallest first


@dataclass(frozen=True, slots=True)
class RecommendedList:
    """The list, and when it was made."""

    dated: date
    models: tuple[Recommended, ...]


@cache
def recommended(file: Path = FILE) -> RecommendedList:
    """The list as shipped."""
    said = json.loads(file.read_text(encoding="utf-8"))
    return RecommendedList(
        date.fromisoformat(said["dated"]), tuple(_model(one) for one in said["models"])
    )


def _model(said: dict[str, Any]) -> Recommended:
    variants = sorted((Variant(**one) for one in said["variants"]), key=lambda one: one.size_bytes)
    facts = {"active_parameters": said["parameters"]} | said | {"variants": tuple(variants)}
    return Recommended(**facts)
