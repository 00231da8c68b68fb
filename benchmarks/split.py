"""Where a token's time goes inside our worker: llama.cpp, drawing from the logits, and the rest.

Drives the GGUF backend in this process, without gateway or pipe, and times two methods that are
found by name. What the rest of the way costs is the difference to the rate over HTTP.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import prompts
from tabagent import wire
from tabagent.worker.gguf import engine

TIMED: Final = {"decode": ("Context", "decode"), "sample": ("Sampler", "sample")}
"""Classes as the engine knows them, and the methods that are timed."""


@dataclass(frozen=True, slots=True)
class Split:
    """Microseconds for each token of all streams together."""

    streams: int
    decode: float
    sample: float
    rest: float

    @property
    def total(self) -> float:
        return self.decode + self.sample + self.rest


def measure(model: Path, streams: int, tokens: int, threads: int) -> Split:
    """Decode `streams` answers of `tokens` together; counted while all of them run."""
    spent: dict[str, float] = dict.fromkeys(TIMED, 0.0)
    restore = []
    for name, (owner, method) in TIMED.items():
        place = getattr(engine, owner)
        original = getattr(place, method)
        setattr(place, method, _timed(original, name, spent))
        restore.append((place, method, original))
    backend = engine.GgufBackend()
    try:
        backend.load(_load(model, streams, tokens, threads), lambda _: None)
        for number in range(streams):
            _submit(backend, number, tokens)
        return _run(backend, streams, spent)
    finally:
        backend.close()
        for place, method, original in restore:
            setattr(place, method, original)


def _timed(method: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    def call(*args: Any, **more: Any) -> Any:
        began = time.perf_counter()
        try:
            return method(*args, **more)
        finally:
            spent[name] += time.perf_counter() - began

    return call


def _load(model: Path, streams: int, tokens: int, threads: int) -> wire.Load:
    n_ctx = tokens + 128
    return wire.Load(
        id=0,
        path=str(model),
        n_ctx=n_ctx,
        slots=streams,
        kv_tokens=n_ctx * streams,
        threads=threads,
        queue_wait_s=60,
    )


def _submit(backend: engine.GgufBackend, number: int, tokens: int) -> None:
    command = wire.Generate(
        number,
        wire.Sampling(
            temperature=0.8, top_k=40, top_p=0.95, min_p=0.05, seed=number, ignore_eos=True
        ),
        text=prompts.text(24, f"split/{number}"),
        max_tokens=tokens,
    )
    backend.submit(command, backend.prepare(command))


def _run(backend: engine.GgufBackend, streams: int, spent: dict[str, float]) -> Split:
    reached: dict[int, int] = {}  # tokens so far, by stream
    ended = False

    def step() -> None:
        nonlocal ended
        for event in backend.step():
            if isinstance(event, wire.Pieces):
                reached.update((piece.id, piece.tokens) for piece in event.items)
            ended = ended or isinstance(event, wire.Finished)

    while len(reached) < streams:
        step()
    before, began = sum(reached.values()), time.perf_counter()
    spent.update(dict.fromkeys(spent, 0.0))
    while not ended:
        step()
    total = time.perf_counter() - began
    scale = 1e6 / (sum(reached.values()) - before)
    rest = total - spent["decode"] - spent["sample"]
    return Split(streams, spent["decode"] * scale, spent["sample"] * scale, rest * scale)


def main() -> None:
    from benchmarks.model import SHAPES, model

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="135m")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one object a line")
    given = parser.parse_args()
    path = model(given.shape)
    if not given.json:
        print("microseconds a token\nstreams   decode   sample     rest    total   tokens/s")
    for streams in given.streams:
        found = measure(path, streams, given.tokens, given.threads)
        if given.json:
            print(json.dumps(asdict(found)))
        else:
            print(
                f"{streams:7} {found.decode:8.0f} {found.sample:8.1f} {found.rest:8.1f} "
                f"{found.total:8.0f} {1e6 / found.total:10.1f}"
            )


if __name__ == "__main__":
    main()
