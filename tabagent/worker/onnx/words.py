"""A `tokenizer.json` as what generates needs it: tokens of a text, and bytes of a token."""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

from llguidance import LLTokenizer

from tabagent import wire
from tabagent.worker.pooling.texts import FILE, read_tokenizer

SENTINEL: Final = "\x01"  # stands before a text whose tokenizer would put a space there


class Words:
    """One model's vocabulary; a TextModel. Threads share it."""

    vocab: Any = None  # llama.cpp's
    fill_tokens: tuple[int, ...] = ()

    def __init__(self, folder: Path, speaking: wire.Speaking, context_length: int) -> None:
        """Raises UnsupportedModel where there is no tokenizer.json, ModelCorrupt for a bad one."""
        self._plain, self._control = read_tokenizer(folder), read_tokenizer(folder)
        self._plain.encode_special_tokens = True  # as text
        self._control.encode_special_tokens = False
        self._bytes = LLTokenizer((folder / FILE).read_text())
        self._size = int(self._bytes.vocab_size)
        self.context_length = context_length
        self.chat_template, self.bos, self.eos = speaking.template, speaking.bos, speaking.eos
        self.n_vocab = int(self._plain.get_vocab_size())
        added = self._plain.get_added_tokens_decoder()
        self.control_tokens = sorted(token for token, how in added.items() if how.special)
        named = [self._plain.token_to_id(self.eos)] if self.eos else []
        ends = {*speaking.end_tokens, *(token for token in named if token is not None)}
        self.end_tokens = sorted(token for token in ends if 0 <= token < self.n_vocab)
        found = self._plain.encode("a")
        begins = next((at for at, of in enumerate(found.sequence_ids) if of == 0), 0)
        self.prompt_start: list[int] = list(found.ids[:begins])
        self.piece = lru_cache(2**16)(self._piece)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        tokenizer = self._control if parse_special else self._plain
        if add_special:
            return list(tokenizer.encode(text).ids)
        if not self._padded:
            return list(tokenizer.encode(text, add_special_tokens=False).ids)
        own = len(tokenizer.encode(SENTINEL, add_special_tokens=False).ids)
        return list(tokenizer.encode(SENTINEL + text, add_special_tokens=False).ids[own:])

    @cached_property
    def _padded(self) -> bool:
        """Whether the tokenizer puts a space before a text, as SentencePiece's do."""
        (first, *_) = self._plain.encode("a", add_special_tokens=False).ids or [0]
        return self._bytes.decode_bytes([first]).startswith(b" ")

    def _piece(self, token: int, *, special: bool = False) -> bytes:
        if token >= self._size or (token in self._controls and not special):
            return b""  # a graph may have more rows than there are tokens
        found: bytes = self._bytes.decode_bytes([token])
        return found

    @cached_property
    def _controls(self) -> frozenset[int]:
        return frozenset(self.control_tokens)
