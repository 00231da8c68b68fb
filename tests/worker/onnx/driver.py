"""Drives an ONNX model that reads whole texts, in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tabagent import wire
from tabagent.catalog.layouts import read_layout
from tabagent.worker.onnx.encoder import backend
from tabagent.worker.pooling.backend import PoolingBackend

Run = Callable[..., Any]


class Reader:
    """One model, told how it reads by the catalogue, as the gateway does."""

    def __init__(
        self,
        folder: Path,
        *,
        file: str = "onnx/model.onnx",
        make: Callable[[], PoolingBackend] = backend,
        threads: int = 2,
        n_ctx: int | None = None,
        **more: Any,
    ) -> None:
        path = folder / file
        layout = read_layout(path)
        assert layout is not None
        self.layout, self.backend = layout, make()
        command = wire.Load(
            1,
            str(path),
            n_ctx or layout.context_length,
            8,
            1024,
            threads,
            60.0,
            pooling=layout.pooling,
            reading=layout.reading,
            **more,
        )
        self.facts = self.backend.load(command, lambda _: None)
        self.ended: dict[int, wire.Done | wire.Failed] = {}
        self._last = 0

    def close(self) -> None:
        self.backend.close()

    def submit(self, build: Callable[[int], wire.Pooled]) -> int:
        self._last += 1
        command = build(self._last)
        self.backend.submit(command, self.backend.prepare(command))
        return command.id

    def run(self) -> None:
        for _ in range(100_000):
            if not self.backend.busy:
                return
            for event in self.backend.step():
                assert isinstance(event, wire.Done | wire.Failed)
                assert event.id not in self.ended, "a second end"
                self.ended[event.id] = event
        raise AssertionError("it does not come to an end")

    def ask(self, build: Callable[[int], wire.Pooled]) -> dict[str, Any]:
        id_ = self.submit(build)
        self.run()
        end = self.ended[id_]
        assert isinstance(end, wire.Done), end
        return end.result

    def vectors(self, texts: Sequence[str], **more: Any) -> npt.NDArray[np.float32]:
        return rows(self.ask(lambda id_: wire.Embed(id_, list(texts), **more)))

    def scores(self, query: str, documents: Sequence[str], **more: Any) -> list[float]:
        found = self.ask(lambda id_: wire.Rank(id_, query, list(documents), **more))
        scores: list[float] = found["scores"]
        return scores


def rows(result: dict[str, Any]) -> npt.NDArray[np.float32]:
    return np.stack([np.frombuffer(vector, "<f4") for vector in result["vectors"]])
