"""Real tokenizers for the grammar library, as an engine makes them."""

from __future__ import annotations

import ctypes
import json
import random
from dataclasses import dataclass
from pathlib import Path

import llama_cpp.llama_cpp as C
import numpy as np
from llguidance import LLMatcher, LLTokenizer


@C.llama_log_callback  # type: ignore[untyped-decorator]  # ctypes
def _quiet(level: int, text: bytes, _: object) -> None:
    """Loading a vocabulary is of no interest."""


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

    def encode(self, text: str) -> list[int]:
        """Tokens of a model's output: each text of a control token is that token."""
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

    def allows(self, grammar: str, text: str) -> bool:
        """Whether `text` may be a whole answer."""
        matcher, tokens = self.matcher(grammar), self.encode(text)
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()

    def begins(self, grammar: str, text: str) -> bool:
        """Whether an answer may begin with `text`."""
        matcher, tokens = self.matcher(grammar), self.encode(text)
        return int(matcher.try_consume_tokens(tokens)) == len(tokens)

    def walk(self, grammar: str, draw: random.Random, soon: int = 60, most: int = 600) -> bytes:
        """An answer of random tokens that `grammar` allows; after `soon` of them it seeks the end."""
        matcher = self.matcher(grammar)
        tokens: list[int] = []
        while len(tokens) < most:
            bits = np.unpackbits(
                np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little"
            )
            allowed = [int(token) for token in np.flatnonzero(bits)]
            if self.end in allowed and (
                len(tokens) > soon or len(allowed) == 1 or draw.random() < 0.3
            ):
                return self.decode(tokens)
            ending = [
                t
                for t in allowed
                if self.bytes_of[t][:1] in (b'"', b"}", b"]", b"<", b"\n", b"\xff")
            ]
            choices = ending if len(tokens) > soon and ending else allowed
            token = draw.choice([t for t in choices if t != self.end])
            assert matcher.consume_token(token), matcher.get_error()
            tokens.append(token)
            if matcher.is_stopped():
                return self.decode(tokens)
        raise AssertionError(
            f"no end after {most} tokens: {json.dumps(self.decode(tokens).decode(errors='replace'))}"
        )
