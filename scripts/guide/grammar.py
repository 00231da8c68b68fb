"""A phrasing such as "(pull|get) a <model>" as a small tree that can be sampled."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from random import Random

SPACES = re.compile(r"\s+")
BEFORE_COMMA = re.compile(r"\s+([,?!])")
SLOT = re.compile(r"<([a-z]+)>")


@dataclass
class Choice:
    """Alternatives, each a sequence of literal strings and nested choices."""

    options: list[list[str | Choice]] = field(default_factory=lambda: [[]])

    def count(self) -> int:
        """How many strings this can become (slots count as one)."""
        total = 0
        for option in self.options:
            product = 1
            for part in option:
                product *= part.count() if isinstance(part, Choice) else 1
            total += product
        return total

    def sample(self, rng: Random) -> str:
        """One string; an option is the more likely the more strings it stands for."""
        option = self.options[0]
        if len(self.options) > 1:
            weights = [_weight(option) for option in self.options]
            option = rng.choices(self.options, weights)[0]
        return "".join(p.sample(rng) if isinstance(p, Choice) else p for p in option)


def _weight(option: list[str | Choice]) -> float:
    product = 1
    for part in option:
        product *= part.count() if isinstance(part, Choice) else 1
    return float(product)


@cache
def parse(pattern: str) -> Choice:
    """Read a pattern; raises ValueError when brackets do not match."""
    root = Choice()
    stack = [root]
    for piece in re.split(r"([()|])", pattern):
        if piece == "(":
            inner = Choice()
            stack[-1].options[-1].append(inner)
            stack.append(inner)
        elif piece == ")":
            stack.pop()
            if not stack:
                raise ValueError(f"unmatched ) in {pattern!r}")
        elif piece == "|":
            stack[-1].options.append([])
        elif piece:
            stack[-1].options[-1].append(piece)
    if len(stack) != 1:
        raise ValueError(f"unmatched ( in {pattern!r}")
    return root


@cache
def size(pattern: str) -> int:
    """How many strings a pattern stands for."""
    return parse(pattern).count()


def expand(pattern: str, slots: Mapping[str, list[str]], rng: Random) -> str:
    """One string of the pattern with its slots filled."""
    text = parse(pattern).sample(rng)
    text = SLOT.sub(lambda match: rng.choice(slots[match.group(1)]), text)
    return BEFORE_COMMA.sub(r"\1", SPACES.sub(" ", text)).strip()
