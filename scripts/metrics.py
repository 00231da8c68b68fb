"""Writes the list of metrics from the code; `--check` fails when it is stale."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from tabagent.exposition import FAMILIES

LIST: Final = Path(__file__).parent.parent / "observability" / "metrics.md"


def table() -> str:
    rows = [
        "# Metrics",
        "",
        "What `GET /metrics` answers; written by `python -m scripts.metrics`.",
        "",
        "| name | kind | labels | what it is |",
        "|---|---|---|---|",
    ]
    for family in FAMILIES:
        labels = ", ".join(f"`{label}`" for label in family.labels)
        rows.append(f"| `{family.name}` | {family.kind} | {labels} | {family.help} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    if "--check" not in sys.argv:
        LIST.parent.mkdir(exist_ok=True)
        LIST.write_text(table())
    elif LIST.read_text() != table():
        sys.exit("the list of metrics is stale: run `python -m scripts.metrics`")


if __name__ == "__main__":
    main()
