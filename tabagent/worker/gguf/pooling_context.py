"""A llama.cpp context that turns whole sequences into one row of numbers each.

Two kinds of model come here. One that sees
both ways (BERT) or pools over all tokens needs a whole input in one micro-batch: llama.cpp aborts on
more. One that is causal and pools the last token reads an input in chunks, through its KV cache.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psutil

from tabagent import wire
from tabagent.errors import OutOfMemory
from tabagent.worker.binding import C
from tabagent.worker.gguf.context import CACHE, FLASH
from tabagent.worker.gguf.native import Model, recent
from tabagent.worker.pooling.model import Broken, Part, Row, Tokens

BATCH: Final = 512  # tokens: more at once is slower, for every token is compared with every other
ROWS_BYTES: Final = (
    128 * 2**20
)  # that llama.cpp may keep outputs in while no single input is longer
MEMORY_SHARE: Final = 0.25  # of what is available now, for one input of full length
SHORTEST_LIMIT: Final = 512  # tokens an input may have however little memory there is
WHOLE_SEQUENCES: Final = 64
CHUNKED_SEQUENCES: Final = 32

POOLING: Final[Mapping[wire.Pooling, int]] = {
    "mean": C.LLAMA_POOLING_TYPE_MEAN,
    "cls": C.LLAMA_POOLING_TYPE_CLS,
    "last": C.LLAMA_POOLING_TYPE_LAST,
    "rank": C.LLAMA_POOLING_TYPE_RANK,
}


class PoolingContext:
    """Room to compute in. `close` gives it back.

    limit      tokens of the longest input
    batch      tokens worth computing together; a single input may be longer where it cannot be cut
    chunked    whether an input may come in several parts
    sequences  how many sequences there may be at once
    room       tokens that all unfinished sequences share
    width      numbers in a row
    """

    def __init__(
        self, model: Model, command: wire.Load, pooling: wire.Pooling, limit: int | None = None
    ) -> None:
        """`limit`: the longest input, where that is settled. Raises OutOfMemory."""
        outputs = C.llama_model_n_cls_out if pooling == "rank" else C.llama_model_n_embd_out
        self.width = int(outputs(model.pointer))
        self._settled = limit is not None
        self.limit = limit or min(command.n_ctx, model.context_length or command.n_ctx)
        self.chunked = _reads_last_token(model, pooling)
        self._open(model, command, pooling)
        if self.chunked and not self._memory:  # an encoder whose file does not say that it is one
            self.close()
            self.chunked = False
            self._open(model, command, pooling)
        # Without a memory there is nothing to decode into, and an encoder wants to be called so.
        encodes = not self._memory or C.llama_model_has_encoder(model.pointer)
        self._compute = C.llama_encode if encodes else C.llama_decode
        self._embeds = True
        self.progress = 0

        @C.ggml_abort_callback  # type: ignore[untyped-decorator]  # ctypes
        def tick(_: Any) -> bool:
            self.progress += 1
            return False

        self._tick, self._no_tick = tick, C.ggml_abort_callback()

    def _open(self, model: Model, command: wire.Load, pooling: wire.Pooling) -> None:
        params = C.llama_context_default_params()
        if self.chunked:
            self.sequences = CHUNKED_SEQUENCES
            self.batch = size = BATCH
            self.room = self.limit + self.batch  # others go on beside a long one
            params.n_outputs_max = self.sequences
        else:
            self.sequences = WHOLE_SEQUENCES
            row = 4 * (model.n_vocab + int(C.llama_model_n_embd_out(model.pointer)))
            if not self._settled:
                self.limit = min(self.limit, _affordable(model, row, command.flash_attention))
            # A graph is reserved for equally long sequences: another size makes llama.cpp abort.
            size = math.ceil(max(self.limit, self.sequences) / self.sequences) * self.sequences
            self.batch = min(size, max(self.sequences, min(BATCH, ROWS_BYTES // row)))
            self.room = size
        params.n_ctx = self.room
        params.n_batch = params.n_ubatch = size
        params.n_seq_max = self.sequences
        params.n_threads = command.threads
        params.n_threads_batch = command.threads_batch or command.threads
        params.flash_attn_type = FLASH[command.flash_attention]
        params.type_k, params.type_v = CACHE[command.cache_type_k], CACHE[command.cache_type_v]
        params.pooling_type = POOLING[pooling]
        params.embeddings = True
        params.kv_unified = True
        params.no_perf = True
        recent.clear()
        self.pointer = C.llama_init_from_model(model.pointer, params)
        if not self.pointer:
            said = " ".join(recent)[-300:]
            raise OutOfMemory(
                f"llama.cpp could not make room to compute {size} tokens in: {said}",
                device="gpu" if model.offload.layers else "cpu",
            )
        self._memory = C.llama_get_memory(self.pointer)
        self._allocate(size)

    def _allocate(self, size: int) -> None:
        """Arrays that the batch points into: a token's own numbers go in, the rest never changes."""
        self._token, self._position, self._sequence = (np.zeros(size, np.int32) for _ in range(3))
        self._output = np.zeros(size, np.int8)
        self._one = np.ones(size, np.int32)
        self._sequences = (
            self._sequence.ctypes.data + self._sequence.itemsize * np.arange(size)
        ).astype(np.uintp)
        self._batch = batch = C.llama_batch()
        batch.token = _pointer(self._token, C.llama_token)
        batch.pos = _pointer(self._position, C.llama_pos)
        batch.n_seq_id = _pointer(self._one, ctypes.c_int32)
        batch.seq_id = _pointer(self._sequences, ctypes.POINTER(C.llama_seq_id))
        batch.logits = _pointer(self._output, ctypes.c_int8)

    def compute(self, parts: Sequence[Part]) -> list[Row | Broken | None]:
        """Compute the parts together; the row of each that ends its sequence.

        Together they have at most `batch` tokens, or are one whole input.
        """
        total = sum(len(part.tokens) for part in parts)
        if self.chunked and total > self.sequences:
            # Each output costs a row of the vocabulary's size, in time and memory: the last tokens
            # are computed by themselves, and only they have outputs.
            self._run([(p, p.tokens[:-1] if p.ends else p.tokens, 0) for p in parts], outputs=False)
            last = [(p, p.tokens[-1:], len(p.tokens) - 1) for p in parts if p.ends]
            self._run(last, outputs=True)
        else:
            self._run([(part, part.tokens, 0) for part in parts], outputs=True)
        return [self._row(part.sequence) if part.ends else None for part in parts]

    def _run(self, pieces: list[tuple[Part, Tokens, int]], *, outputs: bool) -> None:
        at = 0
        for part, tokens, skipped in pieces:
            end = at + len(tokens)
            start = part.start + skipped
            self._token[at:end] = tokens
            self._position[at:end] = np.arange(start, start + len(tokens))
            self._sequence[at:end] = part.sequence
            at = end
        if not at:
            return
        self._output[:at] = outputs
        self._batch.n_tokens = at
        if outputs != self._embeds:
            self._embeds = outputs
            C.llama_set_embeddings(self.pointer, outputs)
        # An input that is longer than a batch may take long: then the graph's nodes are progress.
        # Each call of `tick` may have to wait for the interpreter, so not for the short ones.
        tick = self._tick if at > self.batch else self._no_tick
        C.llama_set_abort_callback(self.pointer, tick, None)
        code = self._compute(self.pointer, self._batch)
        if code != 0:
            said = " ".join(recent)
            raise RuntimeError(f"llama.cpp returned {code} for a batch of {at} tokens: {said}")

    def _row(self, sequence: int) -> Row:
        pointer = C.llama_get_embeddings_seq(self.pointer, sequence)
        if not pointer:
            raise RuntimeError("llama.cpp has no pooled row for a sequence that it computed")
        return np.frombuffer(ctypes.string_at(pointer, 4 * self.width), np.float32)

    def forget(self, sequence: int) -> None:
        """Drop a sequence, so that its number and its room can be used again."""
        if self._memory:
            C.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def clear(self) -> None:
        """Drop all sequences and zero what they left: a NaN would reach others through a zero mask."""
        if self._memory:
            C.llama_memory_clear(self._memory, True)

    def close(self) -> None:
        C.llama_free(self.pointer)


def _reads_last_token(model: Model, pooling: wire.Pooling) -> bool:
    """Whether a row is that of the last token, which has seen all others."""
    architecture = model.meta("general.architecture")
    if model.meta(f"{architecture}.attention.causal") == "false":
        return False
    if pooling == "rank":
        others = [str(C.LLAMA_POOLING_TYPE_MEAN), str(C.LLAMA_POOLING_TYPE_CLS)]
        return model.meta(f"{architecture}.classifier.pooling_type") not in others
    return pooling == "last"


def _affordable(model: Model, row: int, flash_attention: wire.FlashAttention) -> int:
    """Tokens of the longest input that a share of the memory available now can hold.

    Grows with the length: the outputs (llama.cpp keeps a row of logits for each token even where
    nobody wants them) and activations. Grows with its square: the attention mask of 2 bytes, twice
    where windows slide; without flash attention also a matrix of 4 bytes for each head, twice.
    """
    room = psutil.virtual_memory().available * MEMORY_SHARE
    linear = row + 64 * int(C.llama_model_n_embd(model.pointer))
    square = 4 + (8 * int(C.llama_model_n_head(model.pointer)) if flash_attention == "off" else 0)
    tokens = (math.sqrt(linear**2 + 4 * square * room) - linear) / (2 * square)
    return max(SHORTEST_LIMIT, int(tokens))


def _pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))
