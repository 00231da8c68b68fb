"""Real tokenizers for the grammar library, as an engine makes them."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import llama_cpp.llama_cpp as C
import numpy as np
from llguidance import LLMatcher, LLTokenizer


@C.llama_log_callback  # type: ignore[untyped-decorator]  # ctypes
def _quiet(level: int, text: bytes, _: object) -> None:
    """Loading a vocabulary is of no interest."""


ENDS: Final = ('"', '"}', "}", "]", ":", ",", "1")
"""What brings JSON nearer to its end, in one place or another."""


@dataclass
class Tokens:
    """A tokenizer, and the ids of its control tokens by their text."""

    tokenizer: LLTokenizer
    specials: dict[str, int]
    bytes_of: list[bytes]

    @classmethod
    def load(cls, path: Path, renamed: dict[str, str] | None = None) -> Tokens:
        """From a GGUF vocabulary; `renamed` gives control tokens of it another text."""
        C.llama_log_set(_quiet, ctypes.c_void_p(0))
        C.llama_backend_init()
        params = C.llama_model_default_params()
        params.vocab_only = True
        model = C.llama_model_load_from_file(str(path).encode(), params)
        vocab = C.llama_model_get_vocab(model)
        buffer = ctypes.create_string_buffer(4096)

        def piece(token: int, special: bool) -> bytes:
            length = C.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, special)
            return buffer.raw[: max(length, 0)]

        bytes_of, specials = [], {}
        for token in range(C.llama_vocab_n_tokens(vocab)):
            data = piece(token, False)
            if not data and (control := piece(token, True)):
                text = control.decode()
                specials[(renamed or {}).get(text, text)] = token
                data = b"\xff" + control  # how the library knows a control token
            bytes_of.append(data)
        # The model stays loaded: the tokenizer reads its vocabulary.
        tokenizer = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]  # its own llamacpp.py uses it
            tokens=bytes_of,
            vocab_ptr=vocab,
            tokenize_fptr=ctypes.cast(C._lib.llama_tokenize, ctypes.c_void_p).value,
            eos_token=C.llama_vocab_eos(vocab),
        )
        return cls(tokenizer, specials, bytes_of)

    @property
    def end(self) -> int:
        return int(self.tokenizer.eos_token)

    def encode(self, text: str, plain: str = "") -> list[int]:
        """Tokens of a model's output: each text of a control token is that token, but in `plain`."""
        if plain and plain in text:
            before, _, after = text.partition(plain)
            middle: list[int] = self.tokenizer.tokenize_str(plain)
            return [*self.encode(before), *middle, *self.encode(after, plain)]
        tokens: list[int] = []
        while text:
            at, special = min(
                ((found, s) for s in self.specials if (found := text.find(s)) >= 0),
                default=(len(text), ""),
            )
            if at:
                tokens += self.tokenizer.tokenize_str(text[:at])
            if special:
                tokens.append(self.specials[special])
            text = text[at + len(special) :]
        return tokens

    def decode(self, tokens: list[int]) -> bytes:
        texts = {id_: text.encode() for text, id_ in self.specials.items()}
        return b"".join(texts.get(token, self.bytes_of[token]) for token in tokens)

    def matcher(self, grammar: str) -> LLMatcher:
        """The compiled grammar."""
        matcher = LLMatcher(self.tokenizer, grammar)
        assert not matcher.is_error(), f"{matcher.get_error()}\n{grammar}"
        return matcher

    def allows(self, grammar: str, text: str, plain: str = "") -> bool:
        """Whether `text` may be a whole answer."""
        matcher, tokens = self.matcher(grammar), self.encode(text, plain)
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()

    def begins(self, grammar: str, text: str) -> bool:
        """Whether an answer may begin with `text`."""
        matcher, tokens = self.matcher(grammar), self.encode(text)
        return int(matcher.try_consume_tokens(tokens)) == len(tokens)

    def walk(
        self, grammar: str, draw: random.Random, ends: Sequence[str] = (), soon: int = 40
    ) -> str:
        """An answer of random tokens that `grammar` allows.

        After `soon` of them it takes what ends something wherever it may.
        """
        most = soon + 1000
        matcher = self.matcher(grammar)
        tokens: list[int] = []
        while len(tokens) < most:
            mask = np.frombuffer(matcher.compute_bitmask(), np.uint8)
            allowed = np.flatnonzero(np.unpackbits(mask, bitorder="little"))
            late = len(tokens) > soon
            if self.end in allowed and (late or len(allowed) == 1 or draw.random() < 0.2):
                return self.decode(tokens).decode(errors="replace")
            following = [int(draw.choice(allowed[allowed != self.end]))]
            if late:
                for text in draw.sample([*ENDS, *ends], len(ENDS) + len(ends)):
                    ending = self.encode(text)
                    if matcher.validate_tokens(ending) == len(ending):
                        following = ending
                        break
            assert matcher.consume_tokens(following), matcher.get_error()
            tokens += following
            if matcher.is_stopped():
                return self.decode(tokens).decode(errors="replace")
        raise AssertionError(f"no end of {self.decode(tokens)!r}")
