"""From sampling parameters to a chain of samplers that runs in C, one per sequence."""

from __future__ import annotations

import secrets
from typing import Final

import llama_cpp.llama_cpp as C

from tabagent import wire
from tabagent.worker.gguf.native import Context, Model

DEFAULTS: Final = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
META: Final = {  # the key in a model file, and what a recommendation may say
    "temperature": ("temp", 0.0, 100.0),
    "top_k": ("top_k", 0.0, 2.0**31 - 1),
    "top_p": ("top_p", 0.0, 1.0),
    "min_p": ("min_p", 0.0, 1.0),
    "repeat_penalty": ("penalty_repeat", 0.01, 100.0),
    "repeat_last_n": ("penalty_last_n", 0.0, 2.0**20),
}


def model_defaults(model: Model) -> dict[str, float]:
    """llama.cpp's defaults, overridden by what the model file recommends."""
    found = dict(DEFAULTS)
    for name, (key, least, most) in META.items():
        try:
            value = float(model.meta(f"general.sampling.{key}") or "")
        except ValueError:
            continue  # what is no number recommends nothing, nor does one out of range
        if least <= value <= most:
            found[name] = value
    return found


class Sampler:
    """One sequence's sampler chain. `close` frees it."""

    def __init__(self, model: Model, wish: wire.Sampling, defaults: dict[str, float]) -> None:
        def value(name: str, neutral: float) -> float:
            own = getattr(wish, name)
            return float(own if own is not None else defaults.get(name, neutral))

        self._chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        if wish.ignore_eos and model.end_tokens:
            biases = (C.llama_logit_bias * len(model.end_tokens))(
                *((token, float("-inf")) for token in model.end_tokens)
            )
            self._add(C.llama_sampler_init_logit_bias(model.n_vocab, len(biases), biases))
        penalties = (
            value("repeat_penalty", 1.0),
            value("frequency_penalty", 0.0),
            value("presence_penalty", 0.0),
        )
        if penalties != (1.0, 0.0, 0.0):
            look_back = int(value("repeat_last_n", 64))
            self._add(C.llama_sampler_init_penalties(model.n_vocab, look_back, *penalties))
        temperature = value("temperature", 1.0)
        if temperature <= 0:
            self._add(C.llama_sampler_init_greedy())
            return
        if (top_k := int(value("top_k", 0))) > 0:  # first: everything after it works on k, not all
            self._add(C.llama_sampler_init_top_k(top_k))
        if (top_p := value("top_p", 1.0)) < 1:
            self._add(C.llama_sampler_init_top_p(top_p, 1))
        if (min_p := value("min_p", 0.0)) > 0:
            self._add(C.llama_sampler_init_min_p(min_p, 1))
        self._add(C.llama_sampler_init_temp(temperature))
        seed = wish.seed if wish.seed is not None else secrets.randbits(32)
        self._add(C.llama_sampler_init_dist(seed & 0xFFFFFFFF))

    def _add(self, sampler: C.llama_sampler_p) -> None:
        C.llama_sampler_chain_add(self._chain, sampler)

    def sample(self, context: Context, index: int) -> int:
        """Draw from the logits at a batch index, and remember the token."""
        return int(C.llama_sampler_sample(self._chain, context.pointer, index))

    def close(self) -> None:
        C.llama_sampler_free(self._chain)
