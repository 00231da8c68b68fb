"""Retrieval over Python's own documentation: what is found, how fast it is read, how fast it answers.

`python -m benchmarks.retrieval [--quick] [--output FILE]`. Part of `make bench`. Pages come from
Debian's package (scripts/python_docs.sh), questions from tests/retrieval/python_docs.py. A rate of
reading is beside that of the same chunks sent to /v1/embeddings of the same server: what reading,
saving and indexing cost. Questions are asked over HTTP, one after the other, embedding included.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import httpx

from benchmarks.server import child, wait
from benchmarks.vectors_of import made_once
from tabagent.retrieval.entries import placed
from tests.retrieval.python_docs import PLACE, QUESTIONS, pages

TARGET_RATE: Final = 0.85  # of the raw rate of embedding
TARGET_MS: Final = (8.0, 15.0)  # p50 and p95 at 100,000 chunks
TARGET_RECALL: Final = 0.85  # of hybrid search with MiniLM
DEPTH: Final = 5
PASSAGES: Final = 40  # that are asked for, to have five pages
ASKED: Final = 200  # questions that are timed
SMALL: Final = 48  # tokens of a chunk, for as many chunks as are wanted
SIZES: Final = (1_000, 10_000, 100_000)
MODES: Final = ("hybrid", "vector", "words")


class Gateway:
    """A server of our own with a data directory that can be looked into."""

    def __init__(self, port: int, directory: Path) -> None:
        token = (directory / "token").read_text().strip()
        self.database = directory / "tabagent.db"
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=None,
            trust_env=False,
        )

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        response = self.client.request(method, path, json=body)
        if response.status_code != 200:
            sys.exit(f"{path}: {response.text}")
        return response.json()

    def texts(self, collection: str) -> list[str]:
        """The chunks of a collection, as they are embedded."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            query = (
                "SELECT title, headings, chunks.text FROM chunks"
                " JOIN documents ON documents.id = document_id"
                " WHERE chunks.collection = ? ORDER BY number"
            )
            rows = connection.execute(query, (collection,))
            return [placed(title, json.loads(headings), text) for title, headings, text in rows]


@contextmanager
def gateway(models: Path) -> Iterator[Gateway]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TABAGENT_")}
    environment |= {"TABAGENT_MODELS_DIR": str(models), "TABAGENT_LOG_LEVEL": "warning"}
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        command = [sys.executable, "-m", "tabagent", "serve", "--port", "0"]
        command += ["--data-dir", place]
        with child(command, environment) as (process, _):
            file = directory / "runtime.json"
            wait("tabagent", process, file.exists, 0.01)
            yield Gateway(int(json.loads(file.read_text())["url"].rpartition(":")[2]), directory)


def linked(files: Sequence[Path], root: Path, target: Path) -> None:
    """The same tree with these files alone."""
    for file in files:
        link = target / file.relative_to(root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.resolve())


def ingest(server: Gateway, collection: str, folder: Path) -> tuple[int, float]:
    """(chunks, how many a second)."""
    began = perf_counter()
    body = {"path": str(folder), "collection": collection, "patterns": ["*.html"]}
    job = server.ask("POST", "/v1/rag/folders", body)
    seconds = perf_counter() - began
    if job["counts"].get("failed"):
        print(f"{job['counts']['failed']} pages failed: {job['failures'][:3]}", file=sys.stderr)
    rows = server.ask("GET", "/v1/rag/collections")["data"]
    chunks = next(row["chunks"] for row in rows if row["name"] == collection)
    return chunks, chunks / seconds


def raw(server: Gateway, model: str, texts: Sequence[str], most: int) -> float:
    """Texts a second of /v1/embeddings, two requests at a time."""
    some = texts[:: max(len(texts) // most, 1)]
    parts = [some[at : at + 128] for at in range(0, len(some), 128)]

    def send(part: Sequence[str]) -> None:
        body = {"model": model, "input": part, "truncate": "split", "encoding_format": "base64"}
        server.ask("POST", "/v1/embeddings", body)

    send(parts[0])
    began = perf_counter()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(send, parts))
    return len(some) / (perf_counter() - began)


def recall(server: Gateway, collection: str, mode: str) -> float:
    """The share of questions of which a page that answers is among the first five."""
    found = 0
    for question, answers in QUESTIONS:
        body = {
            "query": question, "collections": [collection], "mode": mode, "top_k": PASSAGES,
            "answer": False,
        }  # fmt: skip
        seen: dict[str, None] = {}
        for source in server.ask("POST", "/v1/rag/query", body)["sources"]:
            seen[source["source"]] = None
        first = list(seen)[:DEPTH]
        found += any(page.endswith("/" + answer) for page in first for answer in answers)
    return found / len(QUESTIONS)


def times(server: Gateway, collection: str) -> tuple[float, float]:
    """(p50, p95) in milliseconds of a hybrid query for five passages, over one connection."""
    taken: list[float] = []
    # The standard library's client: a comfortable one takes most of a millisecond for itself.
    connection = HTTPConnection("127.0.0.1", server.client.base_url.port)
    headers = {
        "Authorization": server.client.headers["Authorization"],
        "Content-Type": "application/json",
    }
    for number in range(ASKED + 20):
        question = QUESTIONS[number % len(QUESTIONS)][0]
        body = {"query": question, "collections": [collection], "answer": False}
        began = perf_counter()
        connection.request("POST", "/v1/rag/query", json.dumps(body), headers)
        response = connection.getresponse()
        said = response.read()
        if response.status != 200:
            sys.exit(said.decode())
        if number >= 20:
            taken.append((perf_counter() - began) * 1000)
    connection.close()
    cuts = statistics.quantiles(taken, n=20)
    return statistics.median(taken), cuts[-1]


def found_and_read(quick: bool) -> list[str]:
    lines = [
        "| embedder | recall@5 hybrid | vectors alone | words alone | chunks | read, chunks/s "
        "| embedded alone, chunks/s | share |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    files = pages()
    if quick:
        wanted = {answer for _, answers in QUESTIONS for answer in answers}
        files = [f for f in files if str(f.relative_to(PLACE)) in wanted]
    with tempfile.TemporaryDirectory() as place:
        models, tree = Path(place) / "models", Path(place) / "pages"
        (models / "local").mkdir(parents=True)
        (models / "local" / "minilm").symlink_to(made_once())
        linked(files, PLACE, tree)
        with gateway(models) as server:
            for model in ("tabagent/embed", "local/minilm"):
                name = model.rpartition("/")[2]
                server.ask("POST", "/v1/rag/collections", {"name": name, "model": model})
                chunks, rate = ingest(server, name, tree)
                alone = raw(server, model, server.texts(name), 2_000 if name == "minilm" else 8_000)
                shares = [recall(server, name, mode) for mode in MODES]
                lines.append(
                    f"| {model} | {shares[0]:.3f} | {shares[1]:.3f} | {shares[2]:.3f} | {chunks:,} "
                    f"| {rate:.0f} | {alone:.0f} | {rate / alone:.2f} (target {TARGET_RATE}) |"
                )
                print(lines[-1], flush=True)
    return lines


def answered(sizes: Sequence[int]) -> list[str]:
    lines = ["| chunks | p50 ms | p95 ms |", "| --- | --- | --- |"]
    files = sorted(pages(), key=lambda file: str(file))
    with tempfile.TemporaryDirectory() as place, gateway(Path(place)) as server:
        for size in sizes:
            name = f"c{size}"
            body = {"name": name, "chunk_tokens": SMALL, "chunk_overlap": 0}
            server.ask("POST", "/v1/rag/collections", body)
            at = chunks = 0
            while chunks < size and at < len(files):
                tree = Path(place) / name / str(at)
                step = max(min(int((size - chunks) / 250), 100), 1)
                linked(files[at : at + step], PLACE, tree)
                at += step
                chunks, _ = ingest(server, name, tree)
            server.ask("POST", f"/v1/rag/collections/{name}/rebuild")
            while server.ask("GET", "/v1/rag/jobs?limit=1")["data"][0]["state"] == "running":
                pass
            p50, p95 = times(server, name)
            lines.append(f"| {chunks:,} | {p50:.1f} | {p95:.1f} |")
            print(lines[-1], flush=True)
    return [*lines, "", f"Target at 100,000: p50 {TARGET_MS[0]:g} ms, p95 {TARGET_MS[1]:g} ms."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer pages, fewer chunks")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    subprocess.run(["sh", "scripts/python_docs.sh"], check=True)
    if not PLACE.is_dir():
        return
    lines = [*found_and_read(arguments.quick), ""]
    lines += answered(SIZES[:2] if arguments.quick else SIZES)
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
