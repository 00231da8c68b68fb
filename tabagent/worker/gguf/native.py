"""llama.cpp's C API as this project needs it. The only module that touches pointers."""

from __future__ import annotations

import collections
import ctypes
import os
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any, Final

import llama_cpp.llama_cpp as C

from tabagent.errors import ModelCorrupt, OutOfMemory, UnsupportedModel

ENGINE: Final = (
    f"llama.cpp {C.llama_version().decode()} (llama-cpp-python {version('llama-cpp-python')})"
)
_recent: collections.deque[str] = collections.deque(maxlen=20)


@C.llama_log_callback  # type: ignore[untyped-decorator]  # ctypes
def _log(level: int, text: bytes, _: Any) -> None:
    """llama.cpp is talkative: warnings and errors go to stderr, which the gateway keeps."""
    if level >= 3:
        line = text.decode(errors="replace").rstrip()
        _recent.append(line)
        print(line, file=sys.stderr)


class Model:
    """A loaded model and its vocabulary."""

    def __init__(self, path: str, progress: Callable[[float], None]) -> None:
        """Load `path` through mmap. Raises ModelCorrupt, UnsupportedModel or OutOfMemory."""
        C.llama_log_set(_log, ctypes.c_void_p(0))
        C.llama_backend_init()
        params = C.llama_model_default_params()
        last = -1

        @C.llama_progress_callback  # type: ignore[untyped-decorator]  # ctypes
        def on_progress(fraction: float, _: Any) -> bool:
            nonlocal last
            if int(fraction * 100) > last:  # at most a hundred frames
                last = int(fraction * 100)
                progress(fraction)
            return True

        params.progress_callback = on_progress
        _recent.clear()
        self.pointer = C.llama_model_load_from_file(os.fsencode(path), params)
        if not self.pointer:
            raise _load_error(path)
        self._vocab = C.llama_model_get_vocab(self.pointer)
        self.n_vocab: int = C.llama_vocab_n_tokens(self._vocab)
        self.context_length: int = C.llama_model_n_ctx_train(self.pointer)
        bos = C.llama_vocab_bos(self._vocab)
        self.bos = self._special(bos)
        self.prompt_start = [bos] if bos >= 0 and C.llama_vocab_get_add_bos(self._vocab) else []
        self.eos = self._special(C.llama_vocab_eos(self._vocab))
        template = C.llama_model_chat_template(self.pointer, None)
        self.chat_template: str | None = template.decode(errors="replace") if template else None
        self.end_tokens = [t for t in range(self.n_vocab) if C.llama_vocab_is_eog(self._vocab, t)]
        self._pieces: dict[int, bytes] = {}

    def control_tokens(self) -> list[str]:
        """The spellings of all tokens that `parse_special` reads."""
        special = C.LLAMA_TOKEN_ATTR_CONTROL | C.LLAMA_TOKEN_ATTR_UNKNOWN
        return [
            self.piece(token, special=True).decode(errors="replace")
            for token in range(self.n_vocab)
            if C.llama_vocab_get_attr(self._vocab, token) & special
        ]

    def meta(self, key: str) -> str | None:
        """A metadata value as text."""
        buffer = ctypes.create_string_buffer(256)
        length = C.llama_model_meta_val_str(self.pointer, key.encode(), buffer, len(buffer))
        return buffer.value.decode(errors="replace") if length >= 0 else None

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode()
        room = len(data) + 8
        tokens = (C.llama_token * room)()
        count = C.llama_tokenize(
            self._vocab, data, len(data), tokens, room, add_special, parse_special
        )
        if count < 0:  # says how many it needs
            tokens = (C.llama_token * -count)()
            count = C.llama_tokenize(
                self._vocab, data, len(data), tokens, -count, add_special, parse_special
            )
        return list(tokens[:count])

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of one token; those of a control token only when `special`."""
        if not special and token in self._pieces:
            return self._pieces[token]
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            length = C.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
            if length >= 0:
                break
            room = -length
        data = buffer.raw[:length]
        if not special:
            self._pieces[token] = data
        return data

    def _special(self, token: int) -> str:
        return self.piece(token, special=True).decode(errors="replace") if token >= 0 else ""

    def close(self) -> None:
        C.llama_model_free(self.pointer)


def _load_error(path: str) -> Exception:
    name = os.path.basename(path)
    lines = [line.replace(path, name) for line in _recent]  # a path is nobody else's business
    said = "\n".join(lines)
    if "unknown model architecture" in said:
        kind = said.partition("unknown model architecture: ")[2].split("\n")[0].strip("' ")
        return UnsupportedModel(
            f"llama.cpp does not know the architecture {kind!r}", architecture=kind
        )
    if "failed to allocate" in said or "unable to allocate" in said:
        return OutOfMemory("llama.cpp could not allocate the model", device="cpu")
    last = next((line for line in reversed(lines) if "error" in line.lower()), "")
    return ModelCorrupt(
        "llama.cpp cannot load this file",
        file=name,
        check="engine",
        expected="a model that loads",
        actual=last.rpartition(": ")[2][:300] or "refused",
    )


class Context:
    """The KV cache of a model, shared by `slots` sequences, and the batch that feeds it."""

    def __init__(self, model: Model, *, kv_tokens: int, slots: int, batch: int, threads: int):
        params = C.llama_context_default_params()
        params.n_ctx = kv_tokens
        params.n_batch = params.n_ubatch = batch
        params.n_seq_max = slots
        params.n_outputs_max = max(slots, 1)
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        params.no_perf = True
        _recent.clear()
        self.pointer = C.llama_init_from_model(model.pointer, params)
        if not self.pointer:
            raise OutOfMemory("llama.cpp could not make room for the KV cache", device="cpu")
        self._memory = C.llama_get_memory(self.pointer)
        # No more than the context holds: it aborts on one token over.
        self.batch_size: int = C.llama_n_batch(self.pointer)
        self._batch = C.llama_batch_init(self.batch_size, 0, 1)
        self.kv_tokens: int = C.llama_n_ctx(self.pointer)

    def clear_batch(self) -> None:
        self._batch.n_tokens = 0

    def add(self, sequence: int, start: int, tokens: Iterable[int], *, logits: bool) -> int:
        """Append tokens of one sequence; returns the batch index of the last. `logits` for it."""
        batch = self._batch
        i = int(batch.n_tokens)
        token, pos, n_seq, seq, wanted = (
            batch.token, batch.pos, batch.n_seq_id, batch.seq_id, batch.logits,
        )  # fmt: skip
        for offset, value in enumerate(tokens):
            token[i] = value
            pos[i] = start + offset
            n_seq[i] = 1
            seq[i][0] = sequence
            wanted[i] = 0
            i += 1
        wanted[i - 1] = 1 if logits else 0
        batch.n_tokens = i
        return i - 1

    def decode(self) -> bool:
        """Compute the batch. False when the KV cache has no room for it; nothing changed then."""
        code = C.llama_decode(self.pointer, self._batch)
        if code == 1:
            return False
        if code != 0:
            raise RuntimeError(f"llama_decode returned {code}: {' '.join(_recent)}")
        return True

    def forget(self, sequence: int, start: int = 0) -> bool:
        """Drop a sequence from position `start` on. False when this memory cannot be cut there."""
        return bool(C.llama_memory_seq_rm(self._memory, sequence, start, -1))

    def close(self) -> None:
        C.llama_batch_free(self._batch)
        C.llama_free(self.pointer)
