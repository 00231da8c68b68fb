"""Q8_0: the one place where weights are rounded, so that GGUF and ONNX hold the same ones."""

from __future__ import annotations

from dataclasses import dataclass

import gguf
import numpy as np
import numpy.typing as npt

BLOCK = 32
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Quantised:
    """A [rows, columns] matrix as 8-bit blocks of 32 along the columns."""

    raw: npt.NDArray[np.uint8]  # [rows, bytes], as GGUF stores it

    @property
    def scales(self) -> npt.NDArray[np.float16]:
        """[rows, blocks]; a value is its scale times its signed byte."""
        blocks = self.raw.reshape(self.raw.shape[0], -1, BLOCK + 2)
        return np.ascontiguousarray(blocks[:, :, :2]).view(np.float16)[:, :, 0]

    @property
    def values(self) -> npt.NDArray[np.int8]:
        """[rows, blocks, 32]."""
        blocks = self.raw.reshape(self.raw.shape[0], -1, BLOCK + 2)
        return np.ascontiguousarray(blocks[:, :, 2:]).view(np.int8)


def quantise(matrix: Floats) -> Quantised:
    """Round a float matrix to Q8_0."""
    return Quantised(gguf.quants.quantize(matrix, gguf.GGMLQuantizationType.Q8_0))
