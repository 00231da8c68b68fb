"""How a model file wants its tokens drawn where nobody says otherwise."""

from __future__ import annotations

from typing import Final

from tabagent.worker.generation.sampling import DEFAULTS
from tabagent.worker.gguf.native import Model

META: Final = {  # the key in a model file, and what a recommendation may say
    "temperature": ("temp", 0.0, 100.0),
    "top_k": ("top_k", 0.0, 2.0**31 - 1),
    "top_p": ("top_p", 0.0, 1.0),
    "min_p": ("min_p", 0.0, 1.0),
    "xtc_probability": ("xtc_probability", 0.0, 1.0),
    "xtc_threshold": ("xtc_threshold", 0.0, 1.0),
    "repeat_penalty": ("penalty_repeat", 0.01, 100.0),
    "repeat_last_n": ("penalty_last_n", 0.0, 2.0**20),
    "mirostat": ("mirostat", 0.0, 2.0),
    "mirostat_tau": ("mirostat_tau", 0.0, 100.0),
    "mirostat_eta": ("mirostat_eta", 0.0, 1.0),
}


def model_defaults(model: Model) -> dict[str, float]:
    """llama.cpp's defaults, overridden by what the model file recommends."""
    found: dict[str, float] = dict(DEFAULTS)
    for name, (key, least, most) in META.items():
        try:
            value = float(model.meta(f"general.sampling.{key}") or "")
        except ValueError:
            continue  # what is no number recommends nothing, nor does one out of range
        if least <= value <= most:
            found[name] = value
    return found
