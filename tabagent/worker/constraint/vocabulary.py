"""A model's vocabulary, as llguidance needs it, from whichever engine has the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from llguidance import LLTokenizer, TokenizerWrapper

SENTINELS: Final = [chr(code) for code in range(1, 32)]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What every token stands for.

    `special[t]` marks tokens that are no text (`<|im_end|>`): only a grammar that names one, as
    `<|im_end|>` or `<[151645]>`, lets it be drawn. `tokenize` is the model's own tokeniser for plain
    text; nothing in the text may be read as special, nothing put before it. Threads share it.
    """

    pieces: Sequence[bytes]
    special: Sequence[bool]
    end_tokens: Sequence[int]
    tokenize: Callable[[str], list[int]]


def make_tokenizer(vocabulary: Vocabulary) -> LLTokenizer:
    """Takes half a second for 150,000 tokens."""
    source = _Source(vocabulary)
    return LLTokenizer(source, eos_token=source.end_tokens)


class _Source(TokenizerWrapper):
    """Tells llguidance its tokens. Not its base's `__init__`: that wraps Guidance's tokenisers."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.is_tokenizer_wrapper = True
        self.bos_token_id = None
        self.tokens: list[bytes] = list(vocabulary.pieces)
        self.special_token_ids = [
            token
            for token, special in enumerate(vocabulary.special)
            if special and self.tokens[token]
        ]
        self.end_tokens = list(vocabulary.end_tokens)
        if not self.end_tokens:  # a model that never ends; a token it does not have ends it
            self.end_tokens = [len(self.tokens)]
            self.tokens.append(b"")
        self.eos_token_id = self.end_tokens[0]
        self._tokenize = vocabulary.tokenize
        self._before, self._skip = self._find_sentinel()

    def __call__(self, text: str) -> list[int]:
        return self._tokenize(self._before + text)[self._skip :] if text else []

    def _find_sentinel(self) -> tuple[str, int]:
        """A text to put first, and its tokens, for tokenisers that put a space before the text."""
        for before in ("", *SENTINELS):
            own = self._tokenize(before) if before else []
            found = self._tokenize(before + "a")
            if found[: len(own)] == own and self._bytes(found[len(own) :]) == b"a":
                return before, len(own)
        return "", 0  # it changes the text itself; then forced text is tokenised as it likes

    def _bytes(self, tokens: list[int]) -> bytes:
        return b"".join(self.tokens[token] for token in tokens)
