"""Texts as sequences of tokens, by the `tokenizer.json` beside a model's weights.

What people wrote is never read as control tokens. Padding and truncation that a file asks for are
switched off: nothing is cut that nobody asked to cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from tabagent import wire
from tabagent.errors import InvalidRequest, ModelCorrupt, UnsupportedModel
from tabagent.worker.pooling.faults import query_too_long
from tabagent.worker.pooling.model import Tokens, Window
from tabagent.worker.pooling.windows import least_room, window_starts

TOKEN: Final = np.dtype([("id", np.int32), ("kind", np.int8), ("pooled", np.bool_)])
"""A token: its number, the segment it is of, and whether it counts in the text's vector."""
FILE: Final = "tokenizer.json"
LARGEST: Final = 64 * 2**20  # bytes of it

Own = tuple[int, int]
"""Where a text's own tokens begin in a sequence, and where they end."""


def folder_of(weights: Path) -> Path:
    """Where a model's tokenizer lies: beside its weights, or above `onnx/`."""
    return weights.parent.parent if weights.parent.name == "onnx" else weights.parent


def read_tokenizer(folder: Path) -> Tokenizer:
    """The folder's tokenizer, which neither pads nor cuts.

    Raises UnsupportedModel where there is none, ModelCorrupt for one that cannot be read.
    """
    file = folder / FILE
    if not file.is_file():
        raise UnsupportedModel(
            f"there is no {FILE} beside it, which tells how to read a text",
            architecture="unknown",
        )
    try:
        if file.stat().st_size > LARGEST:
            raise ValueError(f"larger than {LARGEST} bytes")
        found = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exceptions
        raise ModelCorrupt(
            f"{FILE} is none: {error}",
            file=FILE,
            check="tokenizer",
            expected="a tokenizer that the tokenizers library reads",
            actual=str(error)[:200],
        ) from None
    found.no_padding()
    found.no_truncation()
    return found


class Texts:
    """One model's tokenizer, for sequences of at most `limit` tokens."""

    def __init__(self, folder: Path, reading: wire.Reading, limit: int) -> None:
        """Raises UnsupportedModel where there is no tokenizer.json, ModelCorrupt for a bad one."""
        self._tokenizer = read_tokenizer(folder)
        self._tokenizer.encode_special_tokens = True
        self._reading, self.limit = reading, limit
        self.size = int(self._tokenizer.get_vocab_size())

    # ---- sequences ------------------------------------------------------------------------------
    def sequences(self, texts: Sequence[str], prompt: str = "") -> list[Tokens]:
        return [self._packed(found, prompt) for found in self._encoded(texts, prompt)]

    def cut(self, tokens: Tokens) -> Tokens:
        _, closing = self._frame()
        return np.concatenate([tokens[: self.limit - closing], tokens[len(tokens) - closing :]])

    def windows(self, text: str, prompt: str = "") -> list[Tokens]:
        (found,) = self._encoded([text], prompt)
        whole, (begin, end) = self._packed(found, prompt), _own(found, 0)
        begin += int((~self._beyond(found, prompt)[begin:end]).sum())  # it stands before each
        return [tokens for tokens, _ in self._parted(whole, (begin, end))]

    def marked(self, text: str) -> list[Window]:
        (found,) = self._encoded([text])
        whole = self._packed(found, "")
        begin, end = own = _own(found, 0)
        spans = np.array(found.offsets, np.int64).reshape(-1, 2)
        added = np.ones(len(spans), np.bool_)
        added[begin:end] = False
        spans[added] = 0
        words = np.array([-1 if word is None else word for word in found.word_ids], np.int64)
        if len(whole) <= self.limit:
            return [Window(whole, spans, words, 0)] if len(whole) else []
        return [
            Window(
                tokens,
                self._around(spans, own, start, tokens),
                self._around(words, own, start, tokens),
                int((spans[begin : begin + start, 1] > spans[begin : begin + start, 0]).sum()),
            )
            for tokens, start in self._parted(whole, own)
        ]

    def pairs(
        self, query: str, documents: list[str], *, first_window: bool
    ) -> Iterator[tuple[int, Tokens]]:
        asked = self._cased(query)
        together = [(asked, self._cased(document)) for document in documents]
        fixed = len(self._tokenizer.encode(asked, "").ids)
        room = self.limit - fixed
        if room < least_room(self.limit):
            raise query_too_long(fixed, self.limit)
        for index, found in enumerate(self._tokenizer.encode_batch(together)):
            whole = self._packed(found, "")
            if len(whole) <= self.limit:
                yield index, whole
                continue
            parted = self._parted(whole, _own(found, 1))
            for tokens, _ in parted[:1] if first_window else parted:
                yield index, tokens

    def _parted(self, whole: Tokens, own: Own) -> list[tuple[Tokens, int]]:
        """Windows of a sequence over its `own` part, and where in that each begins."""
        begin, end = own
        room = self.limit - (len(whole) - (end - begin))
        return [
            (np.concatenate([whole[:begin], whole[begin + s : begin + s + room], whole[end:]]), s)
            for s in window_starts(end - begin, room)
        ]

    def _around(
        self, values: npt.NDArray[Any], own: Own, start: int, tokens: Tokens
    ) -> npt.NDArray[Any]:
        begin, end = own
        room = len(tokens) - begin - (len(values) - end)
        inside = values[begin + start : begin + start + room]
        return np.concatenate([values[:begin], inside, values[end:]])

    def _encoded(self, texts: Sequence[str], prompt: str = "") -> list[Encoding]:
        cased = [self._cased(prompt + text) for text in texts]
        found: list[Encoding] = self._tokenizer.encode_batch(cased)
        return found

    def _packed(self, found: Encoding, prompt: str) -> Tokens:
        tokens = np.zeros(len(found.ids), TOKEN)
        tokens["id"], tokens["kind"] = found.ids, found.type_ids
        tokens["pooled"] = True
        if prompt and not self._reading.pools_prompt:
            begin, end = _own(found, 0)
            tokens["pooled"][begin:end] = self._beyond(found, prompt)[begin:end]
            tokens["pooled"][:begin] = False  # as sentence-transformers counts a prompt's length
        return tokens

    def _beyond(self, found: Encoding, prompt: str) -> npt.NDArray[np.bool_]:
        """Which tokens end behind the prompt, [tokens]."""
        length = len(self._cased(prompt))
        return np.array([end > length for _, end in found.offsets], np.bool_)

    def _cased(self, text: str) -> str:
        return text.lower() if self._reading.lowercase else text

    def _frame(self) -> tuple[int, int]:
        """How many tokens are added before and after a text."""
        found = self._tokenizer.encode("a")
        begin, end = _own(found, 0)
        return begin, len(found.ids) - end

    # ---- what needs the vocabulary alone --------------------------------------------------------
    def ask(self, command: wire.Tokenize | wire.Detokenize) -> dict[str, Any]:
        if isinstance(command, wire.Detokenize):
            for position, token in enumerate(command.tokens):
                if self._tokenizer.id_to_token(token) is None if token >= 0 else True:
                    raise InvalidRequest(
                        f"token {token} is not in the vocabulary of {self.size}",
                        param="tokens",
                        errors=[
                            {"pointer": f"/tokens/{position}", "detail": "there is no such token"}
                        ],
                    )
            return {"text": self._tokenizer.decode(command.tokens, skip_special_tokens=False)}
        (found,) = self._encoded([command.text])
        ids, pieces = list(found.ids), list(found.tokens)
        if not command.add_special:
            begin, end = _own(found, 0)
            ids, pieces = ids[begin:end], pieces[begin:end]
        return {"tokens": ids, "pieces": pieces}


def _own(found: Encoding, sequence: int) -> Own:
    """The place of a text's own tokens, between those that were added."""
    places = [at for at, of in enumerate(found.sequence_ids) if of == sequence]
    return (places[0], places[-1] + 1) if places else (len(found.ids), len(found.ids))
