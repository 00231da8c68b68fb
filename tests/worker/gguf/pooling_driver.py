"""Drives a PoolingBackend in this process, and computes the same with the library's own class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import llama_cpp
import llama_cpp.llama_cpp as C
import numpy as np
import numpy.typing as npt

from tabagent import wire
from tabagent.worker.gguf.pooling_context import POOLING
from tabagent.worker.gguf.pooling_engine import backend

Vectors: TypeAlias = npt.NDArray[np.float32]
EXACT = {"flash_attention": "off", "cache_type_k": "f32", "cache_type_v": "f32"}
"""Whole floats and plain attention: what differs then is a mistake and no rounding."""


class Pooler:
    """One model, exact unless told otherwise."""

    def __init__(
        self,
        path: Path,
        pooling: wire.Pooling,
        *,
        n_ctx: int = 1024,
        queue_wait_s: float = 60.0,
        **more: Any,
    ) -> None:
        self.backend = backend()
        command = wire.Load(
            1, str(path), n_ctx, 8, 8 * n_ctx, 1, queue_wait_s, pooling=pooling, **(EXACT | more)
        )
        self.facts = self.backend.load(command, lambda _: None)
        self.ended: dict[int, wire.Done | wire.Failed] = {}  # in the order of their ends
        self._last_id = 0

    def close(self) -> None:
        self.backend.close()

    def embed(self, texts: Sequence[str], **more: Any) -> int:
        """Queue a request for vectors; its id."""
        self._last_id += 1
        return self._submit(wire.Embed(self._last_id, list(texts), **more))

    def rank(self, query: str, documents: Sequence[str], **more: Any) -> int:
        self._last_id += 1
        return self._submit(wire.Rank(self._last_id, query, list(documents), **more))

    def _submit(self, command: wire.Embed | wire.Rank) -> int:
        self.backend.submit(command, self.backend.prepare(command))
        return command.id

    def step(self) -> None:
        for event in self.backend.step():
            assert isinstance(event, wire.Done | wire.Failed)
            assert event.id not in self.ended, "a second end"
            self.ended[event.id] = event

    def run(self, most: int = 10_000) -> None:
        while self.backend.busy:
            self.step()
            most -= 1
            assert most, "it does not come to an end"

    def result(self, id_: int) -> dict[str, Any]:
        end = self.ended[id_]
        assert isinstance(end, wire.Done), end
        return end.result

    def vectors(self, texts: Sequence[str], **more: Any) -> Vectors:
        """(texts, width), of one request by itself."""
        id_ = self.embed(texts, **more)
        self.run()
        return as_rows(self.result(id_)["vectors"])

    def scores(self, query: str, documents: Sequence[str], **more: Any) -> list[float]:
        id_ = self.rank(query, documents, **more)
        self.run()
        scores: list[float] = self.result(id_)["scores"]
        return scores


def as_rows(vectors: list[bytes]) -> Vectors:
    return np.stack([np.frombuffer(vector, "<f4") for vector in vectors])


def cosines(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Of each row with its like."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    found: npt.NDArray[np.float64] = (a * b).sum(axis=-1) / lengths
    return found


class Peer:
    """The same model in llama_cpp.Llama, one sequence at a time."""

    def __init__(self, path: Path, pooling: wire.Pooling) -> None:
        self._llama = llama_cpp.Llama(
            str(path),
            embedding=True,
            pooling_type=POOLING[pooling],
            n_ctx=1024,
            n_batch=1024,
            n_ubatch=1024,
            n_threads=1,
            n_threads_batch=1,
            type_k=C.GGML_TYPE_F32,
            type_v=C.GGML_TYPE_F32,
            verbose=False,
        )

    def tokens(self, text: str, *, special: bool = True) -> list[int]:
        found: list[int] = self._llama.tokenize(text.encode(), add_bos=special)
        return found

    def vectors(self, texts: Sequence[str]) -> npt.NDArray[Any]:
        return np.stack([self.row(self.tokens(text)) for text in texts])

    def row(self, tokens: Sequence[int], width: int = 0) -> npt.NDArray[Any]:
        """What the model makes of one sequence, as it comes."""
        llama = self._llama
        llama._ctx.kv_cache_clear()
        llama._batch.reset()
        llama._batch.add_sequence([int(token) for token in tokens], 0, True)
        llama._ctx.decode(llama._batch)
        found = C.llama_get_embeddings_seq(llama._ctx.ctx, 0)
        return np.array(found[: width or llama.n_embd()], np.float32)

    def close(self) -> None:
        self._llama.close()


@contextmanager
def peer_of(path: Path, pooling: wire.Pooling) -> Iterator[Peer]:
    peer = Peer(path, pooling)
    try:
        yield peer
    finally:
        peer.close()
