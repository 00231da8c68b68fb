"""A model in llama.cpp: its weights, its vocabulary and what its file says."""

from __future__ import annotations

import collections
import ctypes
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any, Final

from tabagent.errors import ModelCorrupt, NotAvailableHere, OutOfMemory, UnsupportedModel
from tabagent.worker.binding import C
from tabagent.worker.gguf import buffers
from tabagent.worker.gguf.tiles import tiles_are_sound

ENGINE: Final = (
    f"llama.cpp {C.llama_version().decode()} (llama-cpp-python {version('llama-cpp-python')})"
)
recent: Final[collections.deque[str]] = collections.deque(maxlen=20)
"""What llama.cpp last complained of."""


@C.llama_log_callback  # type: ignore[untyped-decorator]  # ctypes
def _log(level: int, text: bytes, _: Any) -> None:
    """llama.cpp is talkative: warnings and errors go to stderr, which the gateway keeps."""
    buffers.note(text)
    if level >= 3 and EXPECTED not in text:
        line = text.decode(errors="replace").rstrip()
        recent.append(line)
        print(line, file=sys.stderr)


EXPECTED: Final = b"failed to find a memory slot"
"""Said whenever the KV cache is full, which is how it should be: room is made then."""
CONTROL: Final = C.LLAMA_TOKEN_ATTR_CONTROL | C.LLAMA_TOKEN_ATTR_UNKNOWN
"""Tokens that are read in a text only when control tokens may be."""
LOAD_MODES: Final = {
    (False, False): C.LLAMA_LOAD_MODE_NONE,
    (True, False): C.LLAMA_LOAD_MODE_AUTO,  # mapped, except where a device has better
    (False, True): C.LLAMA_LOAD_MODE_MLOCK,
    (True, True): C.LLAMA_LOAD_MODE_MMAP_MLOCK,
}
"""By whether the file is mapped, and whether its pages are kept in memory."""
NO_MEMORY: Final = ("failed to allocate", "unable to allocate", "out of memory", "alloc_buffer")


@dataclass(frozen=True, slots=True)
class Offload:
    """How many layers lie on graphics processors, and on which: one, or several by their `split`."""

    layers: int = 0
    main: int | None = None
    split: tuple[float, ...] = ()

    def apply(self, params: Any) -> None:
        """Raises NotAvailableHere where the build or the machine has none."""
        params.n_gpu_layers = self.layers
        if not self.layers:
            # Else a build with devices computes long prompts there all the same.
            params.split_mode, params.main_gpu = C.LLAMA_SPLIT_MODE_NONE, -1
            return
        if not C.llama_supports_gpu_offload():
            raise NotAvailableHere(
                "llama.cpp finds no graphics processor here",
                what="gpu",
                why="the installed build has none it can use, or its driver is missing",
            )
        if self.main is not None:
            params.split_mode, params.main_gpu = C.LLAMA_SPLIT_MODE_NONE, self.main
        elif self.split:
            parts = (ctypes.c_float * C.llama_max_devices())(*self.split)
            params.split_mode, params.tensor_split = C.LLAMA_SPLIT_MODE_LAYER, parts


CPU_ALONE: Final = Offload()


class Model:
    """A loaded model and its vocabulary."""

    def __init__(
        self,
        path: str,
        progress: Callable[[float], None],
        *,
        mmap: bool = True,
        mlock: bool = False,
        offload: Offload = CPU_ALONE,
    ) -> None:
        """Load `path`. Raises ModelCorrupt, UnsupportedModel, NotAvailableHere or OutOfMemory."""
        C.llama_log_set(_log, ctypes.c_void_p(0))
        C.llama_backend_init()
        params = C.llama_model_default_params()
        params.use_extra_bufts = tiles_are_sound()
        params.load_mode = LOAD_MODES[mmap, mlock]
        offload.apply(params)
        last = -1

        @C.llama_progress_callback  # type: ignore[untyped-decorator]  # ctypes
        def on_progress(fraction: float, _: Any) -> bool:
            nonlocal last
            if int(fraction * 100) > last:  # at most a hundred frames
                last = int(fraction * 100)
                progress(fraction)
            return True

        params.progress_callback = on_progress
        recent.clear()
        self.pointer = C.llama_model_load_from_file(os.fsencode(path), params)
        if not self.pointer:
            raise _load_error(path, offloaded=offload.layers > 0)
        if mmap and not mlock:
            buffers.forget_copied()
        self.offload = offload
        self.vocab = vocab = C.llama_model_get_vocab(self.pointer)
        self.n_vocab: int = C.llama_vocab_n_tokens(vocab)
        self.context_length: int = C.llama_model_n_ctx_train(self.pointer)
        # A state of fixed size, as recurrent layers have, can be kept or dropped but not cut.
        self.recurrent = bool(
            C.llama_model_is_recurrent(self.pointer) or C.llama_model_is_hybrid(self.pointer)
        )
        # Of a sliding window llama.cpp writes out only what the next token sees.
        self.sliding = C.llama_model_n_swa(self.pointer) > 0
        self._pieces: dict[tuple[int, bool], bytes] = {}
        self.parameters: int = C.llama_model_n_params(self.pointer)
        self.heads: int = C.llama_model_n_head(self.pointer) * C.llama_model_n_layer(self.pointer)
        bos = C.llama_vocab_bos(vocab)
        self.bos = self._special(bos)
        self.prompt_start = [bos] if bos >= 0 and C.llama_vocab_get_add_bos(vocab) else []
        self.eos = self._special(C.llama_vocab_eos(vocab))
        fill = (C.llama_vocab_fim_pre, C.llama_vocab_fim_suf, C.llama_vocab_fim_mid)
        self.fill_tokens: list[int] = [token for ask in fill if (token := ask(vocab)) >= 0]
        template = C.llama_model_chat_template(self.pointer, None)
        self.chat_template: str | None = template.decode(errors="replace") if template else None
        self._adapters: dict[str, Any] = {}

    @cached_property
    def control_tokens(self) -> list[int]:
        """Tokens that are never text. One look at each of the vocabulary."""
        kind, vocab = C.llama_vocab_get_attr, self.vocab
        return [token for token in range(self.n_vocab) if kind(vocab, token) & CONTROL]

    @cached_property
    def end_tokens(self) -> list[int]:
        """Tokens that end an answer: control tokens, and what the file says they are."""
        named = (C.llama_vocab_eos(self.vocab), C.llama_vocab_eot(self.vocab))
        return [
            token
            for token in sorted({*self.control_tokens, *named})
            if token >= 0 and C.llama_vocab_is_eog(self.vocab, token)
        ]

    def adapter(self, path: str) -> Any:
        """The LoRA adapter at `path`, loaded once. Raises ModelCorrupt when it does not fit."""
        if path not in self._adapters:
            recent.clear()
            pointer = C.llama_adapter_lora_init(self.pointer, os.fsencode(path))
            if not pointer:
                raise _load_error(path, "an adapter made for this model")
            self._adapters[path] = pointer  # freed with the model
        return self._adapters[path]

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
            self.vocab, data, len(data), tokens, room, add_special, parse_special
        )
        if count < 0:  # says how many it needs
            tokens = (C.llama_token * -count)()
            count = C.llama_tokenize(
                self.vocab, data, len(data), tokens, -count, add_special, parse_special
            )
        return list(tokens[:count])

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of one token; those of a control token only when `special`."""
        key = token, special
        if key not in self._pieces:
            self._pieces[key] = self._piece(token, special)
        return self._pieces[key]

    def _piece(self, token: int, special: bool) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            length = C.llama_token_to_piece(self.vocab, token, buffer, room, 0, special)
            if length >= 0:
                return buffer.raw[:length]
            room = -length

    def _special(self, token: int) -> str:
        return self.piece(token, special=True).decode(errors="replace") if token >= 0 else ""

    def close(self) -> None:
        C.llama_model_free(self.pointer)


def _load_error(
    path: str, wanted: str = "a model that loads", *, offloaded: bool = False
) -> Exception:
    name = os.path.basename(path)
    lines = [line.replace(path, name) for line in recent]  # a path is nobody else's business
    said = "\n".join(lines)
    if "unknown model architecture" in said:
        kind = said.partition("unknown model architecture: ")[2].split("\n")[0].strip("' ")
        return UnsupportedModel(
            f"llama.cpp does not know the architecture {kind!r}", architecture=kind
        )
    if any(words in said for words in NO_MEMORY):
        where = "gpu" if offloaded else "cpu"
        return OutOfMemory("llama.cpp could not allocate the model", device=where)
    last = next((line for line in reversed(lines) if "error" in line.lower()), "")
    return ModelCorrupt(
        "llama.cpp cannot load this file",
        file=name,
        check="engine",
        expected=wanted,
        actual=last.rpartition(": ")[2][:300] or "refused",
    )
