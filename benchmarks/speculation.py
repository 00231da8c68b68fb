"""Does guessing ahead pay? What a step with guesses costs, and what an answer gains or loses.

A guess pays when more of it is right than checking it costs. The first table is that cost on this
machine: a step with k guesses over a step with none, and so how many must be right. The second is
prompt lookup at work: one greedy answer that repeats itself, and one drawn at random that does not.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import prompts
from benchmarks.model import SHAPES, model
from tabagent import wire
from tabagent.worker.gguf.context import Context
from tabagent.worker.gguf.engine import GgufBackend
from tabagent.worker.gguf.native import Model

GUESSES: Final = (1, 2, 3, 4, 7, 8, 11, 15)
CONTEXT: Final = 256  # tokens that are computed before the steps that count
STREAMS: Final = (1, 4)


@dataclass(frozen=True, slots=True)
class Answer:
    """Tokens a second, and which share of the guesses was right."""

    rate: float
    right: float
    drafted: int


def costs(path: Path, threads: int, repeats: int) -> dict[int, float]:
    """Seconds of one step, by how many guesses it checks."""
    weights = Model(str(path), lambda _: None)
    room = CONTEXT + max(GUESSES) + 1
    context = Context(weights, kv_tokens=room, sequences=1, outputs=room, threads=threads)
    tokens = [100 + n for n in range(room)]
    context.begin()
    context.add(0, 0, tokens[:CONTEXT], logits=1)
    context.decode()
    found: dict[int, list[float]] = {guesses: [] for guesses in (0, *GUESSES)}
    for _ in range(repeats):
        for guesses, times in found.items():
            began = time.perf_counter()
            context.begin()
            context.add(0, CONTEXT, tokens[: guesses + 1], logits=guesses + 1)
            context.decode()
            context.logits(0)
            times.append(time.perf_counter() - began)
            context.forget(0, CONTEXT)
    context.close()
    weights.close()
    return {guesses: median(times) for guesses, times in found.items()}


@contextmanager
def loaded(path: Path, threads: int, speculation: wire.Speculation) -> Iterator[GgufBackend]:
    backend = GgufBackend()
    command = wire.Load(
        id=0,
        path=str(path),
        n_ctx=1024,
        slots=max(STREAMS),
        kv_tokens=1024 * max(STREAMS),
        threads=threads,
        queue_wait_s=60,
        speculation=speculation,
        draft_tokens=7,
    )
    try:
        backend.load(command, lambda _: None)
        yield backend
    finally:
        backend.close()


def answer(backend: GgufBackend, streams: int, sampling: wire.Sampling, tokens: int) -> Answer:
    """`streams` answers together."""
    for number in range(streams):
        command = wire.Generate(
            number, sampling, text=prompts.text(64, f"guess/{number}"), max_tokens=tokens
        )
        backend.submit(command, backend.prepare(command))
    usages: list[wire.Usage] = []
    began = time.perf_counter()
    while backend.busy:
        usages += [e.usage for e in backend.step() if isinstance(e, wire.Finished)]
    seconds = time.perf_counter() - began
    drafted = sum(usage.drafted_tokens for usage in usages)
    right = sum(usage.accepted_tokens for usage in usages)
    return Answer(streams * tokens / seconds, right / drafted if drafted else 0.0, drafted)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="135m")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    path = model(given.shape)
    found = costs(path, given.threads, given.repeats)
    print("| guesses in a step | step | times a step without | must be right |")
    print("| --- | --- | --- | --- |")
    for guesses, seconds in found.items():
        ratio = seconds / found[0]
        share = f"{(ratio - 1) / guesses:.0%}" if guesses else ""
        print(f"| {guesses} | {seconds * 1e3:.1f} ms | {ratio:.2f} | {share} |")
    print("\n| answer | streams | without | prompt lookup | ratio | guesses right |")
    print("| --- | --- | --- | --- | --- | --- |")
    kinds = {
        "repeats itself": wire.Sampling(temperature=0.0, ignore_eos=True),
        "repeats nothing": wire.Sampling(temperature=1.0, top_k=0, seed=1, ignore_eos=True),
    }
    for kind, sampling in kinds.items():
        for streams in STREAMS:
            sides: dict[wire.Speculation, list[Answer]] = {"off": [], "ngram": []}
            for speculation in (*sides, *reversed(sides)):  # so that a drift meets both
                with loaded(path, given.threads, speculation) as backend:
                    answer(backend, 1, sampling, 8)
                    sides[speculation].append(answer(backend, streams, sampling, given.tokens))
            plain, guessed = (max(side, key=lambda one: one.rate) for side in sides.values())
            right = f"{guessed.right:.0%} of {guessed.drafted}"
            print(
                f"| {kind} | {streams} | {plain.rate:.0f} tok/s | {guessed.rate:.0f} tok/s "
                f"| {guessed.rate / plain.rate:.2f} x | {right} |"
            )


if __name__ == "__main__":
    main()
