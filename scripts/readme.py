"""Writes the configuration table of the README from Settings; `--check` fails when it is stale."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic_core import PydanticUndefined

from tabagent.config import PREFIX, Settings

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- settings: begin -->\n", "<!-- settings: end -->\n"


def table() -> str:
    rows = ["| variable | default | what it does |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.default
        if default is PydanticUndefined:
            shown = "the user's data directory"
        elif default is None or default == []:
            shown = ""
        else:
            shown = f"`{default}`"
        rows.append(f"| `{PREFIX}{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    current = before + BEGIN + table() + END + after
    if "--check" in sys.argv and current != text:
        sys.exit("the README's settings table is stale: run `make readme`")
    README.write_text(current)


if __name__ == "__main__":
    main()
