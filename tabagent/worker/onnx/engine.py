"""ONNX models that generate, behind the worker's contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tabagent import wire
from tabagent.errors import InvalidRequest, UnsupportedParameter, WrongModelTask
from tabagent.worker.backend import Counts, Work
from tabagent.worker.generation import vocabulary
from tabagent.worker.generation.prompter import Prompter
from tabagent.worker.generation.sampling import DEFAULTS, Sampler
from tabagent.worker.generation.sequence import Prompt
from tabagent.worker.onnx.decoder import Decoder
from tabagent.worker.onnx.scheduler import Generation, OnnxScheduler, Sequence
from tabagent.worker.onnx.session import CPU, ENGINE, Kept, open_session
from tabagent.worker.onnx.words import Words
from tabagent.worker.pooling.texts import folder_of

LEAST_KEPT: Final = 2**24  # bytes of what ended, where the gateway names none


class OnnxBackend:
    """One decoder in ONNX Runtime."""

    engine = ENGINE

    def __init__(self) -> None:
        self._words: Words | None = None
        self._prompter: Prompter | None = None
        self._scheduler: OnnxScheduler | None = None

    def load(self, command: wire.Load, progress: Callable[[float], None]) -> dict[str, Any]:
        speaking = command.speaking or wire.Speaking()
        if command.speculation != "off":
            detail = "ONNX models guess no tokens ahead: load it without speculation"
            errors = [{"pointer": "/speculation", "detail": detail}]
            raise InvalidRequest(detail, param="speculation", errors=errors)
        path = Path(command.path)
        self._words = Words(folder_of(path), speaking, command.n_ctx)
        kept = Kept(Path(command.graph_path), command.graph_bytes) if command.graph_path else None
        opened = open_session(
            path,
            providers=command.providers,
            device=command.main_gpu or 0,
            lanes=1,
            threads=command.threads,
            kept=kept,
        )
        decoder = Decoder(opened.session, opened.operations, speaking)
        decoder.read(decoder.nothing, [0])  # what cannot be computed is found now
        self._words.n_vocab = decoder.n_vocab or self._words.n_vocab
        self._defaults = DEFAULTS | speaking.sampling
        self._prompter = Prompter(self._words, command.n_ctx)
        self._scheduler = OnnxScheduler(
            decoder,
            command.slots,
            frozenset(self._words.end_tokens),
            command.queue_wait_s,
            room=command.kv_tokens,
            kept_bytes=command.kept_bytes or LEAST_KEPT,
        )
        progress(1.0)
        return {
            "device": "cpu" if opened.provider == CPU else "gpu",
            "execution_provider": opened.provider,
            "vocabulary": self._words.n_vocab,
            "kv_tokens": command.kv_tokens,
            "notes": [opened.note] if opened.note else [],
        }

    # ---- beside the engine's thread -------------------------------------------------------------
    def ask(self, command: wire.Render | wire.Tokenize | wire.Detokenize) -> dict[str, Any]:
        words, prompter = self._loaded()
        if isinstance(command, wire.Render):
            text, tokens = prompter.render(
                command.messages, command.dialogue, command.add_generation_prompt
            )
            return {"text": text, "tokens": tokens}
        return vocabulary.answer(words, command)

    def prepare(self, command: Work) -> Prompt:
        if not isinstance(command, wire.Generate):
            raise WrongModelTask("this model generates text: it makes no vectors and ranks nothing")
        if command.loras:
            raise UnsupportedParameter("ONNX models take no adapters", param="lora")
        if command.sampling.dry_multiplier:
            raise UnsupportedParameter(
                "DRY looks into a llama.cpp vocabulary, which ONNX models have none of",
                param="dry_multiplier",
            )
        return self._loaded()[1].prepare(command)

    def _loaded(self) -> tuple[Words, Prompter]:
        assert self._words is not None, "the gateway loads before it asks"
        assert self._prompter is not None
        return self._words, self._prompter

    # ---- the engine's thread --------------------------------------------------------------------
    def submit(self, command: Work, prepared: Prompt) -> None:
        assert self._scheduler is not None
        assert isinstance(command, wire.Generate), "`prepare` refuses the others"
        words, _ = self._loaded()
        generation: Generation = Generation(command, prepared)
        generation.sequences = [
            Sequence(
                generation,
                index,
                Sampler(words, command.sampling, self._defaults, prepared.bias, choice=index),
                words.piece,
            )
            for index in range(command.n)
        ]
        self._scheduler.submit(generation)

    def cancel(self, id: int, *, halt: bool) -> list[wire.Event]:
        return self._scheduler.cancel(id, halt=halt) if self._scheduler else []

    def step(self) -> list[wire.Event]:
        assert self._scheduler is not None
        return self._scheduler.step()

    @property
    def busy(self) -> bool:
        return self._scheduler is not None and self._scheduler.busy

    def counts(self) -> Counts:
        scheduler = self._scheduler
        if scheduler is None:
            return Counts(0, 0, 0)
        return Counts(scheduler.running, scheduler.waiting, scheduler.steps)

    def sleep(self) -> bool:
        """Forget what ended; the weights stay."""
        return not self.busy and self._scheduler is not None and self._scheduler.forget()

    def close(self) -> None:
        if self._prompter:
            self._prompter.close()
