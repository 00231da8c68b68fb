"""ONNX models that generate, behind the worker's contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tabagent import wire
from tabagent.errors import InvalidRequest, UnsupportedParameter
from tabagent.worker.backend import Work
from tabagent.worker.generation.backend import GeneratingBackend
from tabagent.worker.generation.prompter import Prompter
from tabagent.worker.generation.sampling import DEFAULTS
from tabagent.worker.generation.sequence import Prompt
from tabagent.worker.onnx.decoder import Decoder
from tabagent.worker.onnx.scheduler import OnnxScheduler, Sequence
from tabagent.worker.onnx.session import CPU, ENGINE, Kept, open_session
from tabagent.worker.onnx.words import Words
from tabagent.worker.pooling.texts import folder_of

LEAST_KEPT: Final = 2**24  # bytes of what ended, where the gateway names none


class OnnxBackend(GeneratingBackend):
    """One decoder in ONNX Runtime."""

    engine = ENGINE
    sequence = Sequence
    _turns: OnnxScheduler | None

    def load(self, command: wire.Load, progress: Callable[[float], None]) -> dict[str, Any]:
        speaking = command.speaking or wire.Speaking()
        if command.speculation != "off":
            detail = "ONNX models guess no tokens ahead: load it without speculation"
            errors = [{"pointer": "/speculation", "detail": detail}]
            raise InvalidRequest(detail, param="speculation", errors=errors)
        path = Path(command.path)
        words = self._text_model = Words(folder_of(path), speaking, command.n_ctx)
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
        words.n_vocab = decoder.n_vocab or words.n_vocab
        self._defaults = DEFAULTS | speaking.sampling
        self._prompter = Prompter(words, command.n_ctx)
        self._turns = OnnxScheduler(
            decoder,
            command.slots,
            frozenset(words.end_tokens),
            command.queue_wait_s,
            room=command.kv_tokens,
            kept_bytes=command.kept_bytes or LEAST_KEPT,
        )
        progress(1.0)
        return {
            "device": "cpu" if opened.provider == CPU else "gpu",
            "execution_provider": opened.provider,
            "vocabulary": words.n_vocab,
            "kv_tokens": command.kv_tokens,
            "notes": [opened.note] if opened.note else [],
        }

    def prepare(self, command: Work) -> Prompt:
        if isinstance(command, wire.Generate):
            if command.loras:
                raise UnsupportedParameter("ONNX models take no adapters", param="lora")
            if command.sampling.dry_multiplier:
                raise UnsupportedParameter(
                    "DRY looks into a llama.cpp vocabulary, which ONNX models have none of",
                    param="dry_multiplier",
                )
        return super().prepare(command)

    def sleep(self) -> bool:
        """Forget what ended; the weights stay."""
        return not self.busy and self._turns is not None and self._turns.forget()

    def close(self) -> None:
        if self._prompter:
            self._prompter.close()
