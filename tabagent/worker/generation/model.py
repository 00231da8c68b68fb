"""What prompts, grammars and samplers need to know of a model, whatever engine has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]
"""[vocabulary], of the token that follows."""


class TextModel(Protocol):
    """A vocabulary, and what a model's files say of its use. Threads share it."""

    @property
    def n_vocab(self) -> int: ...
    @property
    def context_length(self) -> int: ...
    @property
    def chat_template(self) -> str | None: ...
    @property
    def bos(self) -> str:
        """The text of the token that begins a text; empty where there is none."""

    @property
    def eos(self) -> str: ...
    @property
    def control_tokens(self) -> Sequence[int]:
        """Those that are no text, such as `<|im_end|>`."""

    @property
    def end_tokens(self) -> Sequence[int]: ...
    @property
    def prompt_start(self) -> list[int]:
        """What stands before every prompt."""

    @property
    def fill_tokens(self) -> Sequence[int]:
        """Before, after and middle of a gap; none where a model fills none."""

    @property
    def vocab(self) -> Any:
        """llama.cpp's vocabulary, which DRY looks into; None where an engine has no such."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """`parse_special`: control tokens in the text are read as such."""

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """A token's bytes; those of control tokens only with `special`."""
