"""JSON files that describe a model, which anybody may have written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tabagent.errors import ModelCorrupt, TabAgentError

LARGEST_JSON: Final = 16 * 2**20  # bytes; tokenizer files are a few megabytes


def json_object(file: Path) -> dict[str, Any] | None:
    """An object, or None where there is no such file. Raises ModelCorrupt."""
    return parsed_object(file, read_whole(file)) if file.is_file() else None


def json_list(file: Path) -> list[Any] | None:
    """A list, or None where there is no such file. Raises ModelCorrupt."""
    if not file.is_file():
        return None
    value = _parsed(file, read_whole(file))
    if not isinstance(value, list):
        raise corrupt(file, "a JSON list", type(value).__name__)
    return value


def parsed_object(file: Path, data: bytes) -> dict[str, Any]:
    value = _parsed(file, data)
    if not isinstance(value, dict):
        raise corrupt(file, "a JSON object", type(value).__name__)
    return value


def text_in(said: Mapping[str, Any], name: str) -> str:
    """A short text; empty where there is none."""
    value = said.get(name)
    return value[:64] if isinstance(value, str) else ""


def read_whole(file: Path) -> bytes:
    try:
        with file.open("rb") as source:
            data = source.read(LARGEST_JSON + 1)
    except OSError as error:
        raise corrupt(file, "a file that can be read", error.strerror or "an error") from None
    if len(data) > LARGEST_JSON:
        raise corrupt(file, f"at most {LARGEST_JSON} bytes", "more")
    return data


def _parsed(file: Path, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise corrupt(file, "JSON", type(error).__name__) from None


def corrupt(file: Path, expected: str, actual: str) -> TabAgentError:
    return ModelCorrupt(
        f"{file.name} must hold {expected}",
        file=file.name,
        check="layout",
        expected=expected,
        actual=actual,
    )
