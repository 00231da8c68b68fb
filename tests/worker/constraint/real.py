"""The built-in model's vocabulary as the engine gives it, and sequences that draw from it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import tabagent
from tabagent import wire
from tabagent.worker.constraint.compiler import Compiler, Constraint
from tabagent.worker.constraint.grammar import answer_rules
from tabagent.worker.constraint.vocabulary import Vocabulary
from tabagent.worker.gguf.native import Model

GUIDE: Final = Path(tabagent.__file__).parent / "builtin" / "guide.gguf"
CLOSING: Final = (b'"', b"]", b"}")


def load() -> Model:
    return Model(str(GUIDE), lambda fraction: None)


def vocabulary(model: Model) -> Vocabulary:
    special = set(model.control_tokens)
    return Vocabulary(
        pieces=[model.piece(token, special=True) for token in range(model.n_vocab)],
        special=[token in special for token in range(model.n_vocab)],
        end_tokens=model.end_tokens,
        tokenize=lambda text: model.tokenize(text, add_special=False, parse_special=False),
    )


def allowed(constraint: Constraint, vocabulary: Vocabulary) -> list[int]:
    """The tokens that may follow."""
    logits: NDArray[np.float32] = np.zeros(len(vocabulary.pieces), dtype=np.float32)
    constraint.allow(logits)
    return [int(token) for token in np.flatnonzero(logits == 0)]


def walk(
    constraint: Constraint, vocabulary: Vocabulary, rng: random.Random, most: int = 500
) -> bytes | None:
    """Draw allowed tokens until the end; the text. None when there is no end within `most`.

    Anything that is allowed may be drawn; what closes something is, more often than not, once the
    text has become long.
    """
    text = b""
    for step in range(most):
        tokens = allowed(constraint, vocabulary)
        assert tokens, "nothing may follow"
        ends = [token for token in tokens if token in vocabulary.end_tokens]
        if ends and (constraint.finished or rng.random() < 0.3):
            return text
        others = [token for token in tokens if token not in vocabulary.end_tokens]
        closing = [token for token in others if vocabulary.pieces[token].startswith(CLOSING)]
        pool = closing if step > 20 and closing and rng.random() < 0.7 else others
        token = rng.choice(pool)
        constraint.accept(token)
        text += vocabulary.pieces[token]
    return None


def takes(constraint: Constraint, vocabulary: Vocabulary, text: str) -> bool:
    """Whether the constraint lets `text`, byte by byte, be a whole answer."""
    try:
        for byte in text.encode():
            constraint.accept(vocabulary.pieces.index(bytes([byte])))
    except ValueError:
        return False
    return constraint.accepting


def start(compiler: Compiler, kind: Any, **asked: Any) -> Constraint:
    """A constraint of an answer alone."""
    return compiler.compile("start: answer\n" + answer_rules(wire.Format(kind, "/format", **asked)))
