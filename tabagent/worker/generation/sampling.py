"""From sampling parameters to a chain of samplers that runs in C, one per sequence.

llama.cpp's chain wants an array of all tokens of the vocabulary. Where the chain begins by keeping
the `top_k` likeliest anyway, only those are handed to it, found by numpy in a tenth of the time.
"""

from __future__ import annotations

import ctypes
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tabagent import wire
from tabagent.errors import InvalidRequest
from tabagent.worker.binding import C
from tabagent.worker.generation.model import Logits, TextModel

DEFAULTS: Final = {
    "temperature": 0.8, "dynatemp_range": 0.0, "dynatemp_exponent": 1.0,
    "top_k": 40, "top_p": 0.95, "min_p": 0.05, "typical_p": 1.0, "top_n_sigma": -1.0,
    "xtc_probability": 0.0, "xtc_threshold": 0.1,
    "dry_multiplier": 0.0, "dry_base": 1.75, "dry_allowed_length": 2, "dry_penalty_last_n": -1,
    "mirostat": 0, "mirostat_tau": 5.0, "mirostat_eta": 0.1,
    "repeat_penalty": 1.0, "repeat_last_n": 64, "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip
"""llama.cpp's own (common/common.h there)."""
BREAKERS: Final = ["\n", ":", '"', "*"]  # where DRY stops looking for repetitions
BLOCKS: Final = 128  # each holds every 128th token; see `shortlist`
CANDIDATE: Final = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
SEED_STRIDE: Final = 0x9E3779B1  # between the seeds of choices; odd, so that none comes twice


def biases(model: TextModel, wish: wire.Sampling) -> dict[int, float]:
    """What is added to which token's logit. Raises InvalidRequest for what is no token.

    A text stands for the one token that it is; a longer one has no logit of its own.
    """
    found: dict[int, float] = {}
    if wish.ignore_eos:
        found = dict.fromkeys(model.end_tokens, float("-inf"))
    for token, bias in wish.logit_bias:
        if isinstance(token, str):
            ids = model.tokenize(token, add_special=False, parse_special=True)
        else:
            ids = [token]
        if len(ids) != 1 or not 0 <= ids[0] < model.n_vocab:
            detail = (
                f"{token!r} is {len(ids)} tokens to this model; a bias is for one"
                if isinstance(token, str)
                else f"token {token} is not in the vocabulary of {model.n_vocab}"
            )
            pointer = "/logit_bias/" + str(token).replace("~", "~0").replace("/", "~1")
            raise InvalidRequest(
                detail, param="logit_bias", errors=[{"pointer": pointer, "detail": detail}]
            )
        found[ids[0]] = bias
    return found


class Sampler:
    """One sequence's sampler chain. `close` frees it."""

    def __init__(
        self,
        model: TextModel,
        wish: wire.Sampling,
        defaults: dict[str, float],
        bias: dict[int, float],
        *,
        choice: int = 0,
    ) -> None:
        """`bias` is from `biases`. Choices of one request differ by their seeds."""

        def value(name: str) -> float:
            own = getattr(wish, name)
            return float(own if own is not None else defaults[name])

        seed = wish.seed if wish.seed is not None else secrets.randbits(32)
        # Far apart: the next seed's choices must not be this one's again.
        seed = (seed + choice * SEED_STRIDE) & 0xFFFFFFFF
        self._chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        self._touched = set(bias)  # tokens whose logits the chain changes before it looks
        self._whole = False  # whether it has to look at the whole vocabulary
        self._looks_back = 0
        self._recent: deque[int] = deque()
        if bias:
            array = (C.llama_logit_bias * len(bias))(*bias.items())
            self._add(C.llama_sampler_init_logit_bias(model.n_vocab, len(bias), array))
        self._add_penalties(model, value, wish.dry_sequence_breakers)
        temperature, mirostat = value("temperature"), int(value("mirostat"))
        self._keep = 1 if temperature <= 0 else int(value("top_k"))
        if temperature <= 0:
            self._add(C.llama_sampler_init_greedy())
        elif mirostat:
            self._whole = True
            self._add(C.llama_sampler_init_temp(temperature))
            tau, eta = value("mirostat_tau"), value("mirostat_eta")
            if mirostat == 1:
                self._add(C.llama_sampler_init_mirostat(model.n_vocab, seed, tau, eta, 100))
            else:
                self._add(C.llama_sampler_init_mirostat_v2(seed, tau, eta))
        else:
            self._add_truncations(value, seed)
            self._add(
                C.llama_sampler_init_temp_ext(
                    temperature, value("dynatemp_range"), value("dynatemp_exponent")
                )
            )
            self._add(C.llama_sampler_init_dist(seed))
        self._whole = self._whole or self._keep <= 0
        self._plain = temperature <= 0 and not bias and not self._looks_back

    def _add_penalties(
        self, model: TextModel, value: Callable[[str], float], breakers: list[str] | None
    ) -> None:
        penalties = tuple(
            value(name) for name in ("repeat_penalty", "frequency_penalty", "presence_penalty")
        )
        last = int(value("repeat_last_n"))
        if penalties != (1.0, 0.0, 0.0) and last:
            self._looks_back = last
            self._recent = deque(maxlen=last)
            self._add(C.llama_sampler_init_penalties(model.n_vocab, last, *penalties))
        if (multiplier := value("dry_multiplier")) > 0:
            # It lowers any number of tokens: no short list can know how many.
            self._whole = True
            last = int(value("dry_penalty_last_n"))
            last = model.context_length if last < 0 else last
            self._looks_back = max(self._looks_back, last)
            texts = [text.encode() for text in (BREAKERS if breakers is None else breakers)]
            array = (ctypes.c_char_p * len(texts))(*texts)
            self._add(
                C.llama_sampler_init_dry(
                    model.vocab, multiplier, value("dry_base"),
                    int(value("dry_allowed_length")), last, array, len(texts),
                )
            )  # fmt: skip

    def _add_truncations(self, value: Callable[[str], float], seed: int) -> None:
        """In llama.cpp's order; what would change nothing is left out."""
        if (sigma := value("top_n_sigma")) > 0:
            self._whole = True  # it measures the spread of all logits
            self._add(C.llama_sampler_init_top_n_sigma(sigma))
        if self._keep > 0:
            self._add(C.llama_sampler_init_top_k(self._keep))
        if (typical := value("typical_p")) < 1:
            self._add(C.llama_sampler_init_typical(typical, 1))
        if (top_p := value("top_p")) < 1:
            self._add(C.llama_sampler_init_top_p(top_p, 1))
        if (min_p := value("min_p")) > 0:
            self._add(C.llama_sampler_init_min_p(min_p, 1))
        if (chance := value("xtc_probability")) > 0:
            self._add(C.llama_sampler_init_xtc(chance, value("xtc_threshold"), 1, seed))

    def _add(self, sampler: Any) -> None:
        C.llama_sampler_chain_add(self._chain, sampler)

    # ---- drawing --------------------------------------------------------------------------------
    def remember(self, prompt: Sequence[int]) -> None:
        """Let penalties look back into the prompt too, as llama.cpp's server does."""
        for token in prompt[-self._looks_back :] if self._looks_back else ():
            self.accept(token)

    def sample(self, logits: Logits) -> int:
        """Draw a token; `accept` makes it remembered."""
        if self._plain:
            return int(logits.argmax())
        if self._whole:
            chosen = np.arange(len(logits), dtype=np.int32)
        else:
            touched = self._touched.union(self._recent) if self._recent else self._touched
            chosen = shortlist(logits, self._keep, touched)
        candidates = np.empty(len(chosen), CANDIDATE)
        candidates["id"] = chosen
        candidates["logit"] = logits if self._whole else logits[chosen]
        array = C.llama_token_data_array(
            data=candidates.ctypes.data_as(C.llama_token_data_p),
            size=len(chosen),
            selected=-1,
            sorted=False,
        )
        C.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def accept(self, token: int) -> None:
        C.llama_sampler_accept(self._chain, token)
        if self._recent.maxlen:
            self._recent.append(token)

    def close(self) -> None:
        C.llama_sampler_free(self._chain)


def shortlist(logits: Logits, keep: int, touched: set[int]) -> NDArray[np.int32]:
    """Ids of tokens among which are the `keep` likeliest, however `touched` ones are changed.

    The vocabulary is seen as `BLOCKS` rows; each column has its maximum. The n-th largest of those
    maxima is a floor that at least n tokens reach, and few more.
    """
    wanted = keep + len(touched)  # so many may fall behind others
    columns = len(logits) // BLOCKS
    if wanted >= columns:
        return np.arange(len(logits), dtype=np.int32)
    maxima = logits[: columns * BLOCKS].reshape(BLOCKS, columns).max(axis=0)
    floor = np.partition(maxima, columns - wanted)[columns - wanted]
    chosen = np.flatnonzero(logits >= floor if floor > -np.inf else logits > floor)
    low = [token for token in islice(touched, len(touched)) if logits[token] < floor]
    return np.append(chosen, low).astype(np.int32) if low else chosen.astype(np.int32)
