"""ONNX models that read whole texts, as the pooling backend needs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt

from tabagent import wire
from tabagent.errors import UnsupportedModel
from tabagent.worker.onnx.session import CPU, ENGINE, Feed, Kept, open_session
from tabagent.worker.pooling.backend import PoolingBackend
from tabagent.worker.pooling.encoder import Encoder
from tabagent.worker.pooling.model import Ids
from tabagent.worker.pooling.texts import Texts, folder_of

SENTENCE: Final = "sentence_embedding"  # an output that is a text's vector already
BY_TOKEN: Final = ("last_hidden_state", "token_embeddings")
LOGITS: Final = ("logits", "scores")
MOST_LANES: Final = 4


def backend() -> PoolingBackend:
    return PoolingBackend(OnnxPooling())


class OnnxPooling(Encoder):
    """One encoder, with or without a head."""

    engine = ENGINE

    def load(self, command: wire.Load, progress: Callable[[float], None]) -> dict[str, Any]:
        assert command.pooling is not None, "the pooling backend sees to it"
        path = Path(command.path)
        reading = command.reading or wire.Reading()
        self._pooling, self._reading = command.pooling, reading
        self.limit = command.n_ctx
        self._texts = Texts(folder_of(path), reading, self.limit)
        self._lanes = 1 if command.providers else max(1, min(command.threads, MOST_LANES))
        opened = open_session(
            path,
            providers=command.providers,
            lanes=self._lanes,
            threads=command.threads,
            device=command.main_gpu or 0,
            kept=Kept(Path(command.graph_path), command.graph_bytes)
            if command.graph_path
            else None,
        )
        self._session, self._on_device = opened.session, opened.provider != CPU
        self._feed = Feed(opened.session)
        self._choose_outputs()
        self._probe()
        progress(1.0)
        return {
            "device": "gpu" if self._on_device else "cpu",
            "execution_provider": opened.provider,
            "vocabulary": self._texts.size,
            "notes": [opened.note] if opened.note else [],
        }

    def _choose_outputs(self) -> None:
        """Which outputs are asked for: one row a text, and one a token where there is one."""
        outputs = {out.name: len(out.shape or ()) for out in self._session.get_outputs()}
        per_token = _named(outputs, BY_TOKEN if self._makes_vectors else LOGITS, 3)
        per_text = _named(outputs, (SENTENCE,) if self._makes_vectors else LOGITS, 2)
        if self._makes_vectors and SENTENCE not in outputs:
            per_text = None
            if self._reading.after:
                raise UnsupportedModel(
                    f"its vectors go through {', '.join(self._reading.after)}, which this file "
                    f"does not hold: it has no output {SENTENCE}",
                    architecture="unknown",
                )
        wanted = per_token if self._pooling == "spans" else per_text or per_token
        if wanted is None or (
            not self._makes_vectors and self._pooling != "spans" and not per_text
        ):
            raise UnsupportedModel(
                f"none of its outputs is what it is for: {', '.join(outputs)[:200]}",
                architecture="unknown",
            )
        self._per_text, self._per_token = per_text, per_token
        self.by_token = per_token is not None

    @property
    def _makes_vectors(self) -> bool:
        return self._pooling not in ("rank", "labels", "spans")

    def _run(self, ids: Ids, mask: Ids, kinds: Ids, by_token: bool) -> npt.NDArray[Any]:
        name = self._per_token if by_token else self._per_text or self._per_token
        found: npt.NDArray[Any] = self._session.run([name], self._feed.of(ids, mask, kinds))[0]
        return found


def _named(outputs: dict[str, int], names: Sequence[str], sides: int) -> str | None:
    """The output of one of these names, else the first that has so many sides."""
    for name in names:
        if outputs.get(name, 0) == sides:
            return name
    return next((name for name, found in outputs.items() if found == sides), None)
