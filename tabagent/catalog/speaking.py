"""How a model in a folder generates: its end tokens, what a template calls them, how it wants to draw.

Sources: `generation_config.json`, `tokenizer_config.json` and `config.json` of transformers, and
`genai_config.json` of onnxruntime-genai.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tabagent.catalog.json_files import json_object
from tabagent.wire import Speaking

NAMES: Final = {  # of transformers; ours, and what a recommendation may say
    "temperature": ("temperature", 0.0, 100.0),
    "top_k": ("top_k", 0.0, 2.0**31 - 1),
    "top_p": ("top_p", 0.0, 1.0),
    "min_p": ("min_p", 0.0, 1.0),
    "typical_p": ("typical_p", 0.0, 1.0),
    "repetition_penalty": ("repeat_penalty", 0.01, 100.0),
}
MOST_ENDS: Final = 64


def speaking_of(
    folder: Path, config: Mapping[str, Any], search: Mapping[str, Any], template: str | None
) -> Speaking:
    """What the files say; `search` is that of genai_config.json. Raises ModelCorrupt."""
    advised = json_object(folder / "generation_config.json") or search
    tokens = json_object(folder / "tokenizer_config.json") or {}
    ends = dict.fromkeys(
        end for said in (advised, config) for end in _numbers(said.get("eos_token_id"))
    )
    return Speaking(
        template=template,
        bos=_token(tokens.get("bos_token")),
        eos=_token(tokens.get("eos_token")),
        end_tokens=list(ends)[:MOST_ENDS],
        sampling=_sampling(advised),
    )


def _sampling(advised: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, (ours, least, most) in NAMES.items():
        value: Any = advised.get(name)
        number = type(value) in (int, float)
        if number and least <= value <= most:
            found[ours] = float(value)
    if advised.get("do_sample") is False:
        found["temperature"] = 0.0
    return found


def _numbers(said: Any) -> list[int]:
    values = said if isinstance(said, list) else [said]
    return [value for value in values if type(value) is int and value >= 0]


def _token(said: Any) -> str:
    """A token's text, which may be in an object."""
    if isinstance(said, dict):
        said = said.get("content")
    return said[:256] if isinstance(said, str) else ""
