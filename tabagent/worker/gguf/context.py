"""llama.cpp's context: the KV cache that all sequences share, and the batch that feeds it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tabagent import wire
from tabagent.errors import InvalidRequest, OutOfMemory
from tabagent.worker.binding import C
from tabagent.worker.gguf.native import Model, recent

BATCH: Final = 2048  # tokens given at once
MICRO_BATCH: Final = 512  # of which so many are computed together
Logits: TypeAlias = NDArray[np.float32]
State: TypeAlias = NDArray[np.uint8]
"""A sequence's part of the KV cache, as llama.cpp writes it."""

FLASH: Final[dict[wire.FlashAttention, int]] = {
    "auto": C.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": C.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": C.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
CACHE: Final[dict[wire.CacheType, int]] = {
    "f32": C.GGML_TYPE_F32,
    "f16": C.GGML_TYPE_F16,
    "bf16": 30,  # GGML_TYPE_BF16, which the binding does not name
    "q8_0": C.GGML_TYPE_Q8_0,
    "q5_1": C.GGML_TYPE_Q5_1,
    "q5_0": C.GGML_TYPE_Q5_0,
    "q4_1": C.GGML_TYPE_Q4_1,
    "q4_0": C.GGML_TYPE_Q4_0,
}
Adapters: TypeAlias = tuple[tuple[str, float], ...]
"""LoRA adapter files and their scales."""


class Context:
    """Room for `kv_tokens` tokens of at most `sequences` sequences; `outputs` logits rows a batch.

    `unified`: all sequences share the room; else each has its part of it.
    """

    def __init__(
        self,
        model: Model,
        *,
        kv_tokens: int,
        sequences: int,
        outputs: int,
        threads: int,
        unified: bool = True,
        threads_batch: int = 0,
        flash_attention: wire.FlashAttention = "auto",
        cache_type_k: wire.CacheType = "f16",
        cache_type_v: wire.CacheType = "f16",
    ) -> None:
        params = C.llama_context_default_params()
        params.n_ctx = kv_tokens
        params.n_batch = min(BATCH, kv_tokens)
        params.n_ubatch = min(MICRO_BATCH, kv_tokens)
        params.n_seq_max = sequences
        params.n_outputs_max = min(outputs, params.n_batch)
        params.n_threads = threads
        params.n_threads_batch = threads_batch or threads
        params.flash_attn_type = FLASH[flash_attention]
        params.type_k, params.type_v = CACHE[cache_type_k], CACHE[cache_type_v]
        params.kv_unified = unified
        params.swa_full = True  # else a sliding window could not be cut where a prompt differs
        params.no_perf = True
        recent.clear()
        self.pointer = C.llama_init_from_model(model.pointer, params)
        if not self.pointer:
            said = " ".join(recent)[-300:]
            if "cache type" in said or "V cache" in said:
                param = "cache_type_v" if "V cache" in said else "cache_type_k"
                raise InvalidRequest(
                    f"llama.cpp cannot keep this model's keys and values so: {said}", param=param
                )
            raise OutOfMemory(
                f"llama.cpp could not make room for a context of {kv_tokens} tokens: {said}",
                device="gpu" if model.offload.layers else "cpu",
            )
        self._model = model
        self._memory = C.llama_get_memory(self.pointer)
        self._row = ctypes.c_float * model.n_vocab
        self._adapters: Adapters = ()
        self.kv_tokens: int = C.llama_n_ctx(self.pointer)
        self.sequences, self.outputs = sequences, params.n_outputs_max
        self.unified = unified
        self.stream_tokens = self.kv_tokens if unified else self.kv_tokens // sequences
        # No more than the context takes at once: it aborts on one token over.
        self.batch_size: int = C.llama_n_batch(self.pointer)
        self._allot(self.batch_size)

    def _allot(self, size: int) -> None:
        """The batch's arrays: ours, so that a stretch of tokens is one assignment."""
        self._token = np.zeros(size, np.int32)
        self._pos = np.zeros(size, np.int32)
        self._seq = np.zeros(size, np.int32)
        self._seq_count = np.ones(size, np.int32)
        self._wanted = np.zeros(size, np.int8)
        first = self._seq.ctypes.data
        self._seq_at = np.arange(first, first + 4 * size, 4, dtype=np.uint64)
        integers = ctypes.POINTER(ctypes.c_int32)
        self._batch = C.llama_batch(
            n_tokens=0,
            token=self._token.ctypes.data_as(integers),
            pos=self._pos.ctypes.data_as(integers),
            n_seq_id=self._seq_count.ctypes.data_as(integers),
            seq_id=self._seq_at.ctypes.data_as(ctypes.POINTER(integers)),
            logits=self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )
        self._filled = 0

    # ---- a batch --------------------------------------------------------------------------------
    def begin(self, adapters: Adapters = ()) -> None:
        """Start a new batch, computed with these adapters."""
        self._filled = 0
        if adapters != self._adapters:
            pointers = [self._model.adapter(path) for path, _ in adapters]
            count = len(adapters)
            C.llama_set_adapters_lora(
                self.pointer,
                (C.llama_adapter_lora_p_ctypes * count)(*pointers),
                count,
                (ctypes.c_float * count)(*(scale for _, scale in adapters)),
            )
            self._adapters = adapters

    def add(self, sequence: int, start: int, tokens: Sequence[int], logits: int) -> int:
        """Append tokens of one sequence, which begin at position `start`.

        The last `logits` of them get a row of logits. Returns the batch index of the last token.
        """
        begin, end = self._filled, self._filled + len(tokens)
        self._token[begin:end] = tokens
        self._pos[begin:end] = range(start, start + len(tokens))
        self._seq[begin:end] = sequence
        self._wanted[begin : end - logits] = 0
        self._wanted[end - logits : end] = 1
        self._filled = end
        return end - 1

    def decode(self) -> bool:
        """Compute the batch. False when the KV cache has no room for it; nothing changed then."""
        self._batch.n_tokens = self._filled
        code = C.llama_decode(self.pointer, self._batch)
        if code == 1:
            return False
        if code != 0:
            raise RuntimeError(f"llama_decode returned {code}: {' '.join(recent)}")
        return True

    def logits(self, index: int) -> Logits:
        """The logits at a batch index: a view, good until the next batch, that may be written to."""
        row = C.llama_get_logits_ith(self.pointer, index)
        memory = self._row.from_address(ctypes.addressof(row.contents))
        # An array over the same memory; numpy's own way to make one costs ten times as much.
        view: Logits = np.frombuffer(memory, np.float32)  # type: ignore[call-overload]  # ctypes
        return view

    # ---- sequences ------------------------------------------------------------------------------
    def forget(self, sequence: int, start: int = 0) -> bool:
        """Drop a sequence from position `start` on. False when this memory cannot be cut there."""
        return bool(C.llama_memory_seq_rm(self._memory, sequence, start, -1))

    def share(self, source: int, target: int, length: int) -> None:
        """Let `target`, which is empty, begin with the first `length` tokens of `source`."""
        end = -1 if self._model.recurrent else length
        C.llama_memory_seq_cp(self._memory, source, target, 0, end)

    def size_of(self, sequence: int) -> int:
        """Bytes that `take_out` would give."""
        return int(C.llama_state_seq_get_size(self.pointer, sequence))

    def take_out(self, sequence: int) -> State:
        """A copy of what is computed of a sequence, outside the context."""
        state: State = np.empty(self.size_of(sequence), np.uint8)
        pointer = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        size = C.llama_state_seq_get_data(self.pointer, pointer, state.nbytes, sequence)
        if size != state.nbytes:
            raise RuntimeError(f"a sequence of {state.nbytes} bytes came out as {size}")
        return state

    def put_back(self, sequence: int, state: State) -> None:
        """Let a sequence be what `take_out` gave."""
        pointer = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        if not C.llama_state_seq_set_data(self.pointer, pointer, state.nbytes, sequence):
            raise RuntimeError(f"a sequence could not be put back: {' '.join(recent)}")

    def save(self, sequence: int, tokens: list[int], path: str) -> int:
        """Write a sequence and its tokens to a file; its size in bytes, 0 when it failed."""
        array = (C.llama_token * len(tokens))(*tokens)
        return int(
            C.llama_state_seq_save_file(
                self.pointer, os.fsencode(path), sequence, array, len(tokens)
            )
        )

    def restore(self, sequence: int, path: str) -> list[int]:
        """Read a sequence back; its tokens, none when it does not fit this context."""
        array = (C.llama_token * self.kv_tokens)()
        count = ctypes.c_size_t(0)
        read = C.llama_state_seq_load_file(
            self.pointer, os.fsencode(path), sequence, array, len(array), ctypes.byref(count)
        )
        return list(array[: count.value]) if read else []

    def close(self) -> None:
        C.llama_free(self.pointer)
