"""GGUF models in llama.cpp, behind the worker's contract."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from tabagent import wire
from tabagent.errors import InvalidRequest
from tabagent.worker.backend import Work
from tabagent.worker.generation.backend import GeneratingBackend
from tabagent.worker.generation.prompter import Prompter
from tabagent.worker.generation.sequence import Prompt
from tabagent.worker.gguf import buffers, state
from tabagent.worker.gguf.cells import Cells, SharedCells
from tabagent.worker.gguf.context import Context
from tabagent.worker.gguf.native import ENGINE, Model, Offload
from tabagent.worker.gguf.recommended import model_defaults
from tabagent.worker.gguf.scheduler import SCORED_ROWS, Drafter, Scheduler
from tabagent.worker.gguf.sequence import Sequence
from tabagent.worker.gguf.speculation import DraftModel, PromptLookup
from tabagent.worker.gguf.streams import Streams

KEPT: Final = 32  # ended sequences in a shared cache that the next may begin like
LEAST_KEPT: Final = 2048  # tokens of them
WORK_PER_CELL: Final = 450  # weights multiplied in the time that passing over a cell takes a head


class GgufBackend(GeneratingBackend):
    """One GGUF model."""

    engine = ENGINE
    sequence = Sequence

    def __init__(self) -> None:
        self._model: Model | None = None
        self._turns: Scheduler | None = None
        self._state: Path | None = None

    def load(self, command: wire.Load, progress: Callable[[float], None]) -> dict[str, Any]:
        self._command = command
        model = self._text_model = self._model = Model(
            command.path,
            progress,
            mmap=command.mmap,
            mlock=command.mlock,
            offload=Offload(command.n_gpu_layers, command.main_gpu, tuple(command.tensor_split)),
        )
        self._defaults = model_defaults(model)
        with ThreadPoolExecutor(1) as beside:
            # C clears the cache, without Python's lock: time to read the vocabulary.
            making = beside.submit(self._make_context, command, model)
            self._prompter = Prompter(model, command.n_ctx)
            context = making.result()
        found = buffers.by_device()  # of this model; a draft model makes its own
        restored = self._open(command, model, context)
        return {
            "device": "gpu" if command.n_gpu_layers else "cpu",
            "buffers": found,
            "vocabulary": model.n_vocab,
            "kv_tokens": context.kv_tokens,
            "kv_layout": "shared" if context.unified else "separate",
            "restored_tokens": restored,
        }

    def _make_context(self, command: wire.Load, model: Model) -> Context:
        cuttable, slots = not model.recurrent, command.slots
        separate = _separate(command, model)
        return Context(
            model,
            kv_tokens=max(command.kv_tokens, command.n_ctx * (slots if separate else 1)),
            sequences=slots + (0 if separate else KEPT if cuttable else slots),
            outputs=slots * (1 + command.draft_tokens) + SCORED_ROWS,
            threads=command.threads,
            unified=not separate,
            threads_batch=command.threads_batch,
            flash_attention=command.flash_attention,
            cache_type_k=command.cache_type_k,
            cache_type_v=command.cache_type_v,
        )

    def _open(self, command: wire.Load, model: Model, context: Context) -> int:
        """Get ready to run requests in `context`; how many tokens are computed already."""
        self._context, cuttable = context, not model.recurrent
        self._cells: Cells = (
            SharedCells(context, cuttable=cuttable, budget=_budget(model))
            if context.unified
            else Streams(context, budget=command.kept_bytes)
        )
        self._turns = Scheduler(
            context,
            self._cells,
            command.slots,
            frozenset(model.end_tokens),
            command.queue_wait_s,
            cuttable=cuttable,
            drafter=self._drafter(command, model),
            draft_tokens=command.draft_tokens,
        )
        if not command.state_path:
            return 0
        self._state = Path(command.state_path)
        self._made_by = state.fingerprint(
            command.path,
            engine=ENGINE,
            cache=[command.cache_type_k, command.cache_type_v],
            kv_tokens=context.kv_tokens,
            unified=context.unified,
        )
        return state.restore(self._state, self._cells, context, self._made_by)

    def _drafter(self, command: wire.Load, model: Model) -> Drafter | None:
        if command.speculation == "off" or not command.draft_tokens:
            return None
        if model.recurrent:
            raise InvalidRequest(
                "a recurrent model cannot take a guess back: load it without speculation",
                param="speculation",
            )
        if command.speculation == "ngram":
            return PromptLookup()
        if not command.draft_path:
            raise InvalidRequest("speculation by draft needs a draft model", param="draft_model")
        return DraftModel(
            Model(command.draft_path, lambda _: None, mmap=command.mmap, mlock=command.mlock),
            model,
            lambda draft: Context(
                draft,
                kv_tokens=self._context.kv_tokens,
                sequences=command.slots,
                outputs=command.slots,
                threads=command.threads,
                threads_batch=command.threads_batch,
                flash_attention=command.flash_attention,
            ),
        )

    def submit(self, command: Work, prepared: Prompt) -> None:
        assert self._model is not None
        if self._turns is None:  # it sleeps
            self._open(self._command, self._model, self._make_context(self._command, self._model))
        assert isinstance(command, wire.Generate), "`prepare` refuses the others"
        for path, _ in command.loras:
            self._model.adapter(path)  # refused now, not in the middle of a batch with others
        super().submit(command, prepared)

    def close(self) -> None:
        if self._prompter:
            self._prompter.close()
        self._give_up_context()
        if self._model:
            self._model.close()
        self._prompter = self._text_model = self._model = None

    def sleep(self) -> bool:
        """Free the KV cache and what is computed in; the weights stay."""
        if self._turns is None or self._turns.busy:
            return False
        self._give_up_context()
        return True

    def _give_up_context(self) -> None:
        if self._turns is None:
            return
        if self._state:
            state.save(self._state, self._cells, self._context, self._made_by)
        self._turns.close()
        self._context.close()
        self._turns = None
        del self._cells, self._context


def _separate(command: wire.Load, model: Model) -> bool:
    """Whether each sequence gets a part of the KV cache.

    Attention passes over every cell of its memory: eight chats in one pay for each other's length.
    Parts of full length need the room; and what is kept has to come out and back in a piece, which
    recurrent states and sliding windows do not.
    """
    possible = not model.recurrent and not model.sliding
    if command.kv_layout == "separate" and not possible:
        raise InvalidRequest(
            "recurrent and sliding-window models keep all sequences in one cache",
            param="kv_layout",
        )
    room = command.kv_tokens >= command.n_ctx * command.slots
    return possible and (command.kv_layout == "separate" or (command.kv_layout == "auto" and room))


def _budget(model: Model) -> int:
    """Tokens to keep: as many as slow eight streams by a twentieth, or a few conversations.

    Measured on two cores: with 7,800 kept cells a 135M model gave 16 streams 250 tokens a second
    instead of 345, with 2,100 as many as with none.
    """
    return max(LEAST_KEPT, model.parameters // max(1, model.heads * WORK_PER_CELL))
