"""A query and a document as one sequence, the way a model was trained to read the two.

Files of causal rerankers bring a template named `rerank` with `{query}` and `{document}` in it, as
llama.cpp's converter writes it; encoders read BOS, query, EOS, SEP, document and the end token, as far
as their vocabulary adds these. What people wrote is never read as control tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tabagent.errors import UnsupportedModel
from tabagent.worker.binding import C
from tabagent.worker.gguf.native import Model
from tabagent.worker.pooling.faults import query_too_long
from tabagent.worker.pooling.windows import least_room, window_starts

PLACE: Final = re.compile(r"\{(query|document)\}")
DOCUMENT: Final = "{document}"


@dataclass(frozen=True, slots=True)
class _Frame:
    """What stands around the document when the query is known."""

    before: list[int]
    after: list[int]

    def around(self, document: list[int]) -> list[int]:
        return [*self.before, *document, *self.after]


class RankPairs:
    """Builds the sequences of one model, of at most `limit` tokens each."""

    def __init__(self, model: Model, limit: int) -> None:
        """Raises UnsupportedModel when the file's template has no place for one of the two."""
        self._model, self._limit = model, limit
        template = C.llama_model_chat_template(model.pointer, b"rerank")
        self._template = _parts(model, template.decode(errors="replace")) if template else None
        self._signs = _Signs.of(model)

    def sequences(
        self, query: str, documents: list[str], *, first_window: bool
    ) -> Iterator[tuple[int, list[int]]]:
        """(index of the document, tokens): one for each, or several windows of a long one.

        Raises ContextLengthExceeded when the query leaves no room.
        """
        frame = self._frame(query)
        fixed = len(frame.before) + len(frame.after)
        room = self._limit - fixed
        if room < least_room(self._limit):
            raise query_too_long(fixed, self._limit)
        for index, document in enumerate(documents):
            pair = self._pair(frame, query, document)
            if len(pair) <= self._limit:
                yield index, pair
                continue
            tokens = self._plain(document)
            starts = window_starts(len(tokens), room)
            for start in starts[:1] if first_window else starts:
                yield index, frame.around(tokens[start : start + room])

    def _pair(self, frame: _Frame, query: str, document: str) -> list[int]:
        if self._template is None:
            return frame.around(self._plain(document))
        # As one text: a space before the document may be a part of its first token.
        return self._fill(self._template, {"query": query, "document": document})

    def _frame(self, query: str) -> _Frame:
        if self._template is None:
            signs = self._signs
            return _Frame([*signs.start, *self._plain(query), *signs.between], signs.end)
        at = next(i for i, part in enumerate(self._template) if _has(part, DOCUMENT))
        text = self._template[at]
        assert isinstance(text, str)
        before, _, after = text.partition(DOCUMENT)
        words = {"query": query}
        return _Frame(
            self._fill([*self._template[:at], before], words),
            self._fill([after, *self._template[at + 1 :]], words),
        )

    def _fill(self, parts: list[str | int], words: dict[str, str]) -> list[int]:
        tokens: list[int] = []
        for part in parts:
            if isinstance(part, int):
                tokens.append(part)
            else:
                tokens += self._plain(PLACE.sub(lambda found: words[found[1]], part))
        return tokens

    def _plain(self, text: str) -> list[int]:
        return self._model.tokenize(text, add_special=False, parse_special=False)


def _parts(model: Model, template: str) -> list[str | int]:
    """The template as text with places in it, and control tokens between."""
    pieces = (model.piece(token, special=True) for token in model.control_tokens)
    ids = {
        piece.decode(errors="replace"): token
        for piece, token in zip(pieces, model.control_tokens, strict=True)
        if piece
    }
    longest_first = sorted(ids, key=len, reverse=True)
    cuts = f"({'|'.join(map(re.escape, longest_first))})" if ids else "(?!)"
    split = filter(None, re.split(cuts, template))
    parts: list[str | int] = [ids.get(piece, piece) for piece in split]
    for place in ("{query}", DOCUMENT):
        if sum(part.count(place) for part in parts if isinstance(part, str)) != 1:
            raise UnsupportedModel(
                f"its rerank template does not name {place} once",
                architecture=model.meta("general.architecture"),
            )
    return parts


def _has(part: str | int, place: str) -> bool:
    return isinstance(part, str) and place in part


@dataclass(frozen=True, slots=True)
class _Signs:
    """The special tokens of a pair."""

    start: list[int]
    between: list[int]
    end: list[int]

    @classmethod
    def of(cls, model: Model) -> _Signs:
        """As the vocabulary says. Files of before it could say so close a BERT's pair with SEP too."""
        vocab = model.vocab
        bos, eos, sep = (
            [token] if token >= 0 else []
            for token in (
                C.llama_vocab_bos(vocab),
                C.llama_vocab_eos(vocab),
                C.llama_vocab_sep(vocab),
            )
        )
        start = bos if C.llama_vocab_get_add_bos(vocab) else []
        ending = (eos or sep) if C.llama_vocab_get_add_eos(vocab) else []
        parting = sep if C.llama_vocab_get_add_sep(vocab) else []
        return cls(start, ending + parting, ending or parting)
