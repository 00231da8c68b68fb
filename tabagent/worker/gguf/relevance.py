"""What the outputs of a head that ranks mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from tabagent.errors import UnsupportedModel
from tabagent.worker.binding import C
from tabagent.worker.gguf.native import Model
from tabagent.worker.pooling.model import Row as Rows
from tabagent.worker.pooling.requests import scaled

RELEVANT: Final = "yes"  # the label of the output that says so, in heads with several
PROBABILITIES: Final = ("qwen3", "qwen3vl")  # llama.cpp puts these heads through a softmax itself
TANGENTS: Final = ("jina-bert-v2",)  # and these through a hyperbolic tangent
EDGE: Final = 1 - 2**-25  # between 1 and the float32 below it


def relevance(model: Model) -> Callable[[Rows], Any]:
    """How a row of the head's outputs becomes a relevance of 0 to 1.

    One output is the logit of a sigmoid, as cross-encoders are trained. Of several, the share of the
    one that says yes.
    """
    architecture = model.meta("general.architecture")
    count = C.llama_model_n_cls_out(model.pointer)
    if count == 1 and architecture in TANGENTS:
        # tanh z as float32 is 1 from z = 9.01 on: so far its inverse leads back.
        return lambda rows: scaled(
            np.arctanh(np.clip(rows[:, 0].astype(np.float64), -EDGE, EDGE)), "sigmoid"
        )
    if count == 1:
        return lambda rows: scaled(rows[:, 0], "sigmoid")
    labels = [(C.llama_model_cls_label(model.pointer, i) or b"").decode(errors="replace")
              for i in range(count)]  # fmt: skip
    if RELEVANT not in labels:
        raise UnsupportedModel(
            f"its head has {count} outputs, none of them labelled {RELEVANT}: "
            "it classifies, and does not rank",
            architecture=architecture,
        )
    column = labels.index(RELEVANT)
    if architecture in PROBABILITIES:
        return lambda rows: rows[:, column].astype(np.float64)

    return lambda rows: scaled(rows, "softmax")[:, column]
