"""Whether a model would fit, in a word and its numbers; also one of which only the size is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tabagent.catalog.models import Model
from tabagent.catalog.shape import Layer, Shape
from tabagent.config import Settings
from tabagent.engine.gate import place
from tabagent.engine.placement import LoadOptions, Placement
from tabagent.errors import OutOfMemory
from tabagent.hardware.devices import Accelerators

Fits = Literal["yes", "smaller", "no", "unknown"]
HEAD: Final = 128  # numbers in a head, and layers for the width of one, in most models
KEY_HEADS: Final = 8  # of models with more heads than that
MIDDLE: Final = 3.5  # times the width
VOCABULARY: Final = 128_000
BITS: Final = 4.85  # of a weight in Q4_K_M, which most downloads are
GUESSED_CONTEXT: Final = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`smaller`: with less context, or fewer sequences at once, than it would have else."""

    fits: Fits
    required_bytes: int
    available_bytes: int
    device: str
    placement: Placement | None = None
    reason: str | None = None
    largest_context: int | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        return self.placement.notes if self.placement else ()


def judge(
    model: Model,
    settings: Settings,
    available: int,
    machine: Accelerators,
    options: LoadOptions | None = None,
) -> Verdict:
    """The gate's answer. Raises InvalidRequest or NotAvailableHere for options that cannot be."""
    try:
        placed = place(model, options or LoadOptions(), settings, available, machine)
    except OutOfMemory as error:
        return Verdict(
            fits="no",
            required_bytes=int(error.members["required_bytes"]),
            available_bytes=int(error.members["available_bytes"]),
            device=str(error.members["device"]),
            reason=error.detail,
            largest_context=error.members["largest_context"],
        )
    known: Fits = "smaller" if placed.notes else "yes"
    return Verdict(
        fits=known if placed.estimate else "unknown",
        required_bytes=placed.bytes,
        available_bytes=available,
        device=placed.device,
        placement=placed,
    )


def guessed(
    name: str,
    *,
    weight_bytes: int | None = None,
    parameters: int | None = None,
    bits: float = BITS,
    context: int | None = None,
) -> Model:
    """A model of which its size alone is known, shaped as models of that size are.

    A transformer has about 12 x layers x width^2 weights, and most are 128 layers wide: that
    gives both from their number. Needs `weight_bytes` or `parameters`.
    """
    assert weight_bytes or parameters
    count = parameters or int((weight_bytes or 0) * 8 / bits)
    layers = max(4, round((count / (12 * HEAD**2)) ** (1 / 3)))
    width = HEAD * max(2, round((count / (12 * layers)) ** 0.5 / HEAD))
    total = weight_bytes or int(count * bits / 8)
    row = min(width, KEY_HEADS * HEAD)
    table = min(total // 4, int(VOCABULARY * width * bits / 8))
    inside = (total - table) // layers
    return Model(
        id=name,
        path=Path(),
        backend="gguf",
        size_bytes=total,
        parameters=count,
        context_length=context or GUESSED_CONTEXT,
        shape=Shape(
            width=width,
            heads=width // HEAD,
            feed_forward=int(width * MIDDLE),
            vocabulary=VOCABULARY,
            layers=(Layer(weight_bytes=inside, key_row=row, value_row=row),) * layers,
            input_bytes=table,
            output_bytes=0,
            other_bytes=total - table - inside * layers,
        ),
    )
