"""A decoder in ONNX Runtime: tokens go in with the keys and values of what came before.

The layout is that of transformers.js and of `optimum`'s exporter: `input_ids`, `attention_mask`,
`position_ids` and `past_key_values.N.key` and `.value` [texts, heads, tokens, numbers]; `logits` and
`present.N.*` come out. Keys and values stay where the engine put them, and are never changed: what two
sequences begin with is one array.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from tabagent import wire
from tabagent.errors import UnsupportedModel
from tabagent.worker.generation.model import Logits
from tabagent.worker.onnx.session import PAST, TYPES
from tabagent.worker.pooling.model import Ids

KNOWN: Final = frozenset(
    {"input_ids", "attention_mask", "position_ids", "use_cache_branch", "num_logits_to_keep"}
)
LOGITS_BYTES: Final = 64 * 2**20  # that one run may return: a row for each token that went in
LONGEST: Final = 256  # tokens of a prompt that are read at once
SHORTEST: Final = 16

Past = tuple[npt.NDArray[Any], ...]
"""Keys and values of all layers, each [texts, heads, tokens, numbers]."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What is computed of one text: `past` is of `tokens`, the last of which may not be all."""

    past: Past
    tokens: int

    def cut(self, tokens: int) -> Memory:
        """The first of them."""
        return Memory(tuple(array[:, :, :tokens] for array in self.past), tokens)

    @property
    def bytes(self) -> int:
        return sum(array.nbytes for array in self.past)


class Decoder:
    """One model. `together`: whether texts of different lengths may share a run."""

    def __init__(
        self,
        session: ort.InferenceSession,
        operations: frozenset[str],
        speaking: wire.Speaking,
    ) -> None:
        """Raises UnsupportedModel for a graph of another kind."""
        self._session = session
        given = {found.name: found for found in session.get_inputs()}
        strange = [n for n in given if n not in KNOWN and not n.startswith(PAST)]
        unknown = [found.type for found in given.values() if found.type not in TYPES]
        self._cache = [name for name in given if name.startswith(PAST)]
        outputs = [found.name for found in session.get_outputs()]
        presents = [name for name in outputs if name != "logits"][: len(self._cache)]
        if strange or unknown or "input_ids" not in given or "logits" not in outputs:
            what = ", ".join([*strange, *unknown]) or "no input_ids or no logits"
            raise UnsupportedModel(f"its graph is no decoder's: {what}", architecture="unknown")
        if not self._cache or len(presents) != len(self._cache):
            raise UnsupportedModel(
                "its graph keeps no keys and values, so each token would compute all before it: "
                "take the export with past (`text-generation-with-past`)",
                architecture="unknown",
            )
        self._given, self._wanted = given, ["logits", *presents]
        self._types = {name: TYPES[found.type] for name, found in given.items()}
        # Fused attention counts a text's tokens by its mask, and wants them all on the left.
        self.together = "position_ids" in given and "GroupQueryAttention" not in operations
        self._empty: Past = tuple(
            np.zeros([1, *self._sides(name, speaking)], self._types[name]) for name in self._cache
        )
        logits = next(found for found in session.get_outputs() if found.name == "logits")
        self.n_vocab = logits.shape[-1] if isinstance(logits.shape[-1], int) else 0
        row = 4 * (self.n_vocab or 2**17)
        self.chunk = max(SHORTEST, min(LONGEST, LOGITS_BYTES // row))

    def _sides(self, name: str, speaking: wire.Speaking) -> list[int]:
        """Heads, no tokens, numbers. Raises UnsupportedModel where the file does not say them."""
        shape = self._given[name].shape
        said = {1: speaking.key_heads, 3: speaking.head_size}
        sides = [side if isinstance(side, int) else said.get(n, 0) for n, side in enumerate(shape)]
        if len(sides) != 4 or not (sides[1] and sides[3]):
            raise UnsupportedModel(
                f"its keys and values are not laid out as heads, tokens, numbers: {shape}",
                architecture="unknown",
            )
        return [sides[1], 0, sides[3]]

    @property
    def nothing(self) -> Memory:
        """Of no token."""
        return Memory(self._empty, 0)

    def read(self, memory: Memory, tokens: Sequence[int]) -> tuple[Logits, Memory]:
        """Go on with one text: logits behind each token, [tokens, vocabulary], and what is computed."""
        end = memory.tokens + len(tokens)
        logits, past = self.run(
            np.array([tokens], np.int64),
            np.ones((1, end), np.int64),
            np.arange(memory.tokens, end, dtype=np.int64)[None],
            memory.past,
        )
        return logits[0], Memory(past, end)

    def run(
        self, ids: Ids, mask: Ids, positions: Ids, past: Past
    ) -> tuple[npt.NDArray[np.float32], Past]:
        """Ids and positions [texts, tokens], mask [texts, tokens of the past and these]."""
        known: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": positions,
            "use_cache_branch": np.array([past[0].shape[2] > 0]),
            "num_logits_to_keep": np.array(0),  # all
        }
        feed = {
            name: np.ascontiguousarray(known[name], self._types[name])
            for name in self._given
            if name in known
        }
        feed |= {n: np.ascontiguousarray(a) for n, a in zip(self._cache, past, strict=True)}
        logits, *present = self._session.run(self._wanted, feed)
        return logits.astype(np.float32, copy=False), tuple(present)


class Batch:
    """Texts that get one token at a time together. Their pasts end together: the shorter begin later,
    and a mask hides what stands before them.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._lengths: list[int] = []
        self._past: Past = ()

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, memory: Memory) -> None:
        """One more text, behind the others."""
        if not self._lengths:
            self._past, self._lengths = memory.past, [memory.tokens]
            return
        width = max(self._past[0].shape[2], memory.tokens)
        self._past = tuple(
            np.concatenate([_widened(mine, width), _widened(other, width)])
            for mine, other in zip(self._past, memory.past, strict=True)
        )
        self._lengths.append(memory.tokens)

    def take(self, row: int) -> Memory:
        """Take a text out, with what is computed of it."""
        length = self._lengths.pop(row)
        width = self._past[0].shape[2]
        memory = Memory(
            tuple(array[row : row + 1, :, width - length :].copy() for array in self._past), length
        )
        rest = [n for n in range(len(self._lengths) + 1) if n != row]
        least = width - max(self._lengths, default=0)
        self._past = tuple(array[rest, :, least:] for array in self._past) if rest else ()
        return memory

    def step(self, tokens: Sequence[int]) -> Logits:
        """The next token of each: logits, [texts, vocabulary]."""
        lengths = np.array(self._lengths, np.int64)
        width = self._past[0].shape[2]
        places = np.arange(width + 1)
        logits, self._past = self._decoder.run(
            np.array(tokens, np.int64)[:, None],
            (places >= (width - lengths)[:, None]).astype(np.int64),
            lengths[:, None],
            self._past,
        )
        self._lengths = [length + 1 for length in self._lengths]
        found: Logits = logits[:, -1]
        return found


def _widened(array: npt.NDArray[Any], width: int) -> npt.NDArray[Any]:
    """With zeros before the tokens, so that there are so many."""
    missing = width - array.shape[2]
    return np.pad(array, ((0, 0), (0, 0), (missing, 0), (0, 0))) if missing else array
