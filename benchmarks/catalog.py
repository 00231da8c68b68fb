"""How long a listing of five hundred models takes: read for the first time, by a process that starts
anew, and again.

The models are small files with headers of a usual size (32,000 tokens), a tenth of them ONNX.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from tabagent.app import GUIDE
from tabagent.catalog.models import Catalog
from tests.catalog.gguf_files import Tensor, basics, gguf, vocabulary

TOKENS: Final = 32_000
AGAIN: Final = 20
CONFIG: Final = {"architectures": ["BertModel"], "hidden_size": 384, "max_position_embeddings": 512}


def write_models(folder: Path, count: int) -> None:
    """`count` models of as many repositories below `folder`."""
    content = gguf([*basics(), *vocabulary(TOKENS)], [Tensor("token_embd.weight")])
    for number in range(count):
        repository = folder / f"maker-{number % 20}" / f"model-{number}"
        repository.mkdir(parents=True)
        if number % 10:
            (repository / "model-Q4_K_M.gguf").write_bytes(content)
        else:
            (repository / "onnx").mkdir()
            (repository / "onnx" / "model_q4.onnx").write_bytes(b"weights")
            (repository / "config.json").write_text(json.dumps(CONFIG))


def listed_ms(catalog: Catalog, count: int) -> float:
    began = time.perf_counter()
    found = catalog.scan()
    taken = (time.perf_counter() - began) * 1000
    if len(found) != count + 1:
        raise SystemExit(f"{len(found)} models were listed, not {count + 1}")
    return taken


def measure(count: int) -> dict[str, float]:
    """Milliseconds by what was measured."""
    with tempfile.TemporaryDirectory() as directory:
        folder, kept = Path(directory) / "models", Path(directory) / "facts"
        write_models(folder, count)

        def anew() -> Catalog:
            return Catalog(folder, GUIDE, kept=kept)

        catalog = anew()
        return {
            "first time, every header read": listed_ms(catalog, count),
            "a process that starts anew": min(listed_ms(anew(), count) for _ in range(3)),
            "again": statistics.median(listed_ms(catalog, count) for _ in range(AGAIN)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--models", type=int, default=500)
    given = parser.parse_args()
    table = Table(f"listing {given.models} models", "ms", box=None, pad_edge=False)
    for what, taken in measure(given.models).items():
        table.add_row(what, f"{taken:,.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
