"""Embeddings and rerank beside sentence-transformers and infinity, on one model, in one run.

`python -m benchmarks.encoders [--infinity /path/to/infinity_emb] [--output FILE]`. Ours and infinity
answer over HTTP, sentence-transformers encodes in its own process, which is what it is best at; each
has two threads, the same weights and the same texts. infinity's dependencies fit no other program's:
it lives in an environment of its own, and its rows are left out without `--infinity`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.load import HOST, post
from benchmarks.server import child, healthy, wait
from benchmarks.tabagent_server import tabagent
from benchmarks.vectors_of import made_once, ranker_in

THREADS: Final = 2
TEXTS: Final = 512
CLIENTS: Final = 32
PAIRS: Final = 256
QUERY: Final = "the green house on the river"
ROUNDS: Final = 3
TARGETS: Final = {"sentence-transformers": 2.5, "infinity": 1.1}
ALONE: Final = 0.8  # of the batch rate, when each text comes by itself
WORDS: Final = [
    "river",
    "paper",
    "garden",
    "engine",
    "market",
    "silent",
    "bright",
    "travel",
    "winter",
    "number",
    "window",
    "orange",
    "letter",
    "planet",
    "doctor",
    "bridge",
    "yellow",
    "school",
    "friend",
    "answer",
    "simple",
    "before",
    "little",
    "people",
    "because",
    "water",
    "history",
    "music",
    "morning",
    "never",
    "small",
    "country",
    "between",
    "great",
    "house",
    "world",
]

Vectors = npt.NDArray[np.float32]


def texts(seed: int = 1) -> list[str]:
    """Of 8 to 64 words."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(8, 64))) for _ in range(TEXTS)]


def documents_of_pairs(seed: int = 2) -> list[str]:
    draw = random.Random(seed)
    words = ["the", "cat", "sat", "on", "mat", "dog", "tree", "house", "green", "river"]
    return [" ".join(draw.choices(words, k=draw.randint(16, 96))) for _ in range(PAIRS)]


@dataclass(frozen=True, slots=True)
class Side:
    """A program under test: how fast it is, in texts a second, and what it makes."""

    name: str
    batch: float
    alone: float | None
    vectors: Vectors


# ---- over HTTP ----------------------------------------------------------------------------------
async def _answers(port: int, requests: list[bytes], clients: int) -> list[bytes]:
    """The body of each answer; as many connections as clients, each kept open."""
    bodies: list[bytes] = [b""] * len(requests)
    waiting = iter(enumerate(requests))

    async def one() -> None:
        reader, writer = await asyncio.open_connection(HOST, port, limit=2**26)
        for index, request in waiting:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length")
            )
            bodies[index] = await reader.readexactly(length)
            if b" 200 " not in head.split(b"\r\n")[0]:
                raise SystemExit(f"refused: {bodies[index][:300]!r}")
        writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(one())
    return bodies


def _rate(port: int, requests: list[bytes], clients: int, units: int) -> tuple[float, list[bytes]]:
    """Units a second, the median of several rounds, and the last answers."""
    rates, answers = [], []
    for _ in range(ROUNDS):
        began = perf_counter()
        answers = asyncio.run(_answers(port, requests, clients))
        rates.append(units / (perf_counter() - began))
    return statistics.median(rates), answers


def over_http(name: str, port: int, path: str, model: str, *, size: int = 64) -> Side:
    """Batches of `size` from two clients, then single texts from many."""

    def ask(batch: list[str] | str) -> bytes:
        return post(port, path, {"model": model, "input": batch, "encoding_format": "base64"})

    said = texts()
    asyncio.run(_answers(port, [ask(said[:32])], 1))  # loads it
    parts = [said[start : start + size] for start in range(0, TEXTS, size)]
    batch, answers = _rate(port, [ask(part) for part in parts], 2, TEXTS)
    alone, _ = _rate(port, [ask(text) for text in said], CLIENTS, TEXTS)
    rows = [
        np.frombuffer(base64.b64decode(entry["embedding"]), "<f4")
        for answer in answers
        for entry in json.loads(answer)["data"]
    ]
    return Side(name, batch, alone, np.stack(rows))


def ours(model: Path) -> list[Side]:
    """The model as it is, and its int8 and half-precision variants."""
    sides = []
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(model, Path(place) / "peer" / "minilm")
        settings = {"THREADS": str(THREADS), "MODELS_DIR": place}
        with tabagent(settings) as server:
            for variant in ("FP32", "FP16", "INT8"):
                name = f"peer/minilm:{variant}"
                sides.append(over_http(variant, server.port, "/v1/embeddings", name))
    return sides


def ranked(name: str, port: int, path: str, model: str) -> float:
    """Pairs a second: one query and 64 documents a request, two clients."""
    documents = documents_of_pairs()
    parts = [documents[start : start + 64] for start in range(0, PAIRS, 64)]
    requests = [post(port, path, {"model": model, "query": QUERY, "documents": p}) for p in parts]
    asyncio.run(_answers(port, requests[:1], 1))
    return _rate(port, requests, 2, PAIRS)[0]


def our_ranks(model: Path) -> float:
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(model, Path(place) / "peer" / "ranker")
        with tabagent({"THREADS": str(THREADS), "MODELS_DIR": place}) as server:
            return ranked("tabagent", server.port, "/v1/rerank", "peer/ranker:FP32")


@contextmanager
def infinity(program: Path, model: Path) -> Iterator[int]:
    """The peer's server with its ONNX engine and this model; its port."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "minilm"
        shutil.copytree(model, folder)
        for other in (folder / "onnx").glob("model_*"):
            other.unlink()  # it would take the first it finds
        command = [str(program), "v2", "--model-id", str(folder), "--served-model-name", "peer"]
        command += ["--engine", "optimum", "--device", "cpu", "--port", "7997"]
        command += ["--pooling-method", "mean"]
        with child(command, environment) as (process, _):
            wait("infinity", process, lambda: healthy(7997), 0.5)
            yield 7997


def torch_side(model: Path, ranker: Path) -> tuple[Side, float]:
    """sentence-transformers, in a process with nothing else in it; and its pairs a second."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "vectors.npy"
        said = json.dumps(
            {
                "folder": str(model), "texts": texts(), "out": str(out), "ranker": str(ranker),
                "pairs": [[QUERY, document] for document in documents_of_pairs()],
            }
        )  # fmt: skip
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.vectors_of"]
        environment = os.environ | {"OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"}
        found = subprocess.run(
            command, input=said, text=True, capture_output=True, check=True, env=environment
        )
        batch, pairs = json.loads(found.stdout.splitlines()[-1])
        return Side("sentence-transformers", batch, None, np.load(out)), pairs


# ---- the table ----------------------------------------------------------------------------------
def table(sides: list[Side], reference: Vectors) -> list[str]:
    base = next(side for side in sides if side.name == "FP32")
    rows = [
        "| side | texts/s in batches | 32 single texts at once | ours / it | target | "
        "worst cosine | mean |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for side in sides:
        like = (_units(side.vectors) * _units(reference)).sum(axis=1)
        peer = side.name in TARGETS
        ratio = f"{base.batch / side.batch:.2f}" if peer else ""
        target = f"{TARGETS[side.name]}" if peer else ""
        name = side.name if peer else f"tabagent {side.name}"
        alone = f"{side.alone:.0f} ({side.alone / side.batch:.0%})" if side.alone else ""
        rows.append(
            f"| {name} | {side.batch:.0f} | {alone} | {ratio} | {target} | "
            f"{like.min():.5f} | {like.mean():.5f} |"
        )
    return rows


def table_of_pairs(pairs: dict[str, float]) -> list[str]:
    rows = ["| rerank | pairs/s | ours / it |", "| --- | --- | --- |"]
    return rows + [
        f"| {n} | {rate:.0f} | {pairs['tabagent'] / rate:.2f} |" for n, rate in pairs.items()
    ]


def _units(vectors: Vectors) -> Vectors:
    found: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoders", description=__doc__)
    parser.add_argument("--infinity", type=Path, help="its program, in its own environment")
    parser.add_argument("--output", type=Path, help="where the table is written too")
    given = parser.parse_args()
    model = made_once()
    with tempfile.TemporaryDirectory() as place:
        ranker = ranker_in(Path(place) / "ranker")
        torch, their_pairs = torch_side(model, ranker)
        sides = [torch, *ours(model)]
        pairs = {"sentence-transformers": their_pairs, "tabagent": our_ranks(ranker)}
        if given.infinity:
            with infinity(given.infinity, model) as port:
                sides.append(over_http("infinity", port, "/embeddings", "peer"))
            with infinity(given.infinity, ranker) as port:
                pairs["infinity"] = ranked("infinity", port, "/rerank", "peer")
    rows = [*table(sides, torch.vectors), "", *table_of_pairs(pairs)]
    text = "\n".join(rows)
    print(text)
    if given.output:
        given.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
