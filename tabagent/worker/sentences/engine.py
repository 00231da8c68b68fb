"""Models that sentence-transformers runs, as the pooling backend needs them: the one place with torch.

Safetensors only, and no code that a model brings: neither is a choice of the model's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt

from tabagent import wire
from tabagent.errors import ModelCorrupt, OutOfMemory, TabAgentError, UnsupportedModel
from tabagent.worker.pooling.backend import PoolingBackend
from tabagent.worker.pooling.encoder import Encoder
from tabagent.worker.pooling.model import Ids
from tabagent.worker.pooling.texts import Texts, folder_of

BEHIND: Final = frozenset({"Dense", "LayerNorm"})  # steps of the library's own that are let run
HEADS: Final[dict[wire.Pooling, str]] = {
    "rank": "AutoModelForSequenceClassification",
    "labels": "AutoModelForSequenceClassification",
    "spans": "AutoModelForTokenClassification",
}
LEAST_HELD: Final = 0.9  # of the weights; layers that nobody uses are often left out
KINDS: Final = {"CUDAExecutionProvider": "cuda", "CoreMLExecutionProvider": "mps"}
"""torch's devices, by the names that others give them; ROCm calls itself CUDA there."""


def backend() -> PoolingBackend:
    return PoolingBackend(SentencePooling())


class SentencePooling(Encoder):
    """One model in torch."""

    engine = f"sentence-transformers {version('sentence-transformers')}"

    def load(self, command: wire.Load, progress: Callable[[float], None]) -> dict[str, Any]:
        assert command.pooling is not None, "the pooling backend sees to it"
        os.environ["HF_HUB_OFFLINE"] = "1"  # what is not there is not fetched
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        reading = command.reading or wire.Reading()
        folder = folder_of(Path(command.path))
        if strange := [kind for kind in reading.after if kind not in BEHIND]:
            raise UnsupportedModel(
                f"its vectors go through {', '.join(strange)[:200]}, which is not run here",
                architecture="unknown",
            )
        import torch

        self._torch = torch
        self._pooling, self._reading, self.limit = command.pooling, reading, command.n_ctx
        self._texts = Texts(folder, reading, self.limit)
        torch.set_num_threads(command.threads)
        torch.set_grad_enabled(False)
        self._device, note = _device(torch, command)
        self._on_device = self._device != "cpu"
        try:
            self._model = self._read(folder)
        except Exception as error:  # of three libraries
            raise _load_error(folder, error) from None
        self._check_weights(folder)
        self._probe()
        progress(1.0)
        return {
            "device": "gpu" if self._on_device else "cpu",
            "vocabulary": self._texts.size,
            "notes": [note] if note else [],
        }

    def _read(self, folder: Path) -> Any:
        """The model: of one without a head the library's, with its pooling and what comes after."""
        safe = {"use_safetensors": True}
        if (head := HEADS.get(self._pooling)) is not None:
            import transformers

            made = getattr(transformers, head).from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, **safe
            )
            return made.eval().to(self._device)
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(
            str(folder),
            device=self._device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs=safe,
        ).eval()

    def _check_weights(self, folder: Path) -> None:
        """Libraries draw at random what a file does not hold: numbers that mean nothing."""
        from safetensors import safe_open

        held = 0
        for file in folder.glob("*.safetensors"):
            with safe_open(file, "np") as tensors:
                held += sum(math.prod(tensors.get_slice(k).get_shape()) for k in tensors.keys())  # noqa: SIM118  # no mapping
        wanted = sum(weights.numel() for weights in self._model.parameters())
        if held < wanted * LEAST_HELD:
            raise ModelCorrupt(
                f"its safetensors hold {held} of {wanted} weights",
                file=folder.name,
                check="weights",
                expected=str(wanted),
                actual=str(held),
            )

    def _run(self, ids: Ids, mask: Ids, kinds: Ids, by_token: bool) -> npt.NDArray[Any]:
        # torch keeps this in a variable of the thread.
        self._torch.set_grad_enabled(False)
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds}
        if not kinds.any():
            del given["token_type_ids"]  # many models know none, to the others they are zeros
        feed = {name: self._torch.from_numpy(v).to(self._device) for name, v in given.items()}
        if self._pooling in HEADS:
            output = self._model(**feed).logits
        else:
            found = self._model(feed)
            whole = not by_token and self._reading.pools_prompt
            output = found["sentence_embedding" if whole else "token_embeddings"]
        array: npt.NDArray[Any] = output.float().cpu().numpy()
        return array


def _device(torch: Any, command: wire.Load) -> tuple[str, str | None]:
    """Where torch runs it, and why not where it was meant to."""
    wanted = next((KINDS[name] for name in command.providers if name in KINDS), "")
    if not command.providers:
        return "cpu", None
    if wanted == "mps" and torch.backends.mps.is_available():
        return "mps", None
    if torch.cuda.is_available():
        return f"cuda:{command.main_gpu or 0}", None
    return "cpu", "it runs on the CPU: the installed torch can use no other device"


def _load_error(folder: Path, error: Exception) -> TabAgentError:
    said = str(error)
    if isinstance(error, MemoryError) or "out of memory" in said.lower():
        return OutOfMemory(f"torch ran out of memory: {said[:300]}", device="cpu")
    if "trust_remote_code" in said or "custom code" in said:
        return UnsupportedModel(
            "it brings code of its own, which is not run here", architecture="unknown"
        )
    return ModelCorrupt(
        f"sentence-transformers cannot read it: {said[:300]}",
        file=folder.name,
        check="sentence-transformers",
        expected="a model that the library opens",
        actual=said[:200],
    )
