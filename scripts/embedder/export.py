"""The table as an ONNX model of one lookup, in the layout that encoders have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

LONGEST: Final = 8192  # tokens; nothing in a lookup limits a text


def export(table: npt.NDArray[np.float32], tokenizer: Any, folder: Path, card: str) -> None:
    """Write the model: the table in int8 with a scale for each token, its tokenizer, its card."""
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    scales = np.abs(table).max(axis=1, keepdims=True) / 127
    scales[scales == 0] = 1
    model = _graph(np.round(table / scales).astype(np.int8), scales.astype(np.float32))
    onnx.save(model, folder / "onnx" / "model_int8.onnx")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    width = table.shape[1]
    _write(
        folder / "config.json",
        {
            "architectures": ["StaticModel"], "model_type": "static-embedding",
            "hidden_size": width, "vocab_size": len(table), "max_position_embeddings": LONGEST,
        },
    )  # fmt: skip
    _write(folder / "tokenizer_config.json", {"model_max_length": LONGEST})
    kinds = ["Transformer", "Pooling", "Normalize"]
    _write(
        folder / "modules.json",
        [
            {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for n, (kind, path) in enumerate(
                zip(kinds, ["", "1_Pooling", "2_Normalize"], strict=True)
            )
        ],
    )
    _write(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True},
    )
    (folder / "README.md").write_text(card)


def _graph(table: npt.NDArray[np.int8], scales: npt.NDArray[np.float32]) -> onnx.ModelProto:
    """Ids -> rows of the table, each times its scale: [texts, tokens, numbers]."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["rows"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["scales", "input_ids"], ["scale"]),
        helper.make_node("Mul", ["numbers", "scale"], ["last_hidden_state"]),
    ]
    sides = ["batch", "sequence"]
    out = [*sides, table.shape[1]]
    graph = helper.make_graph(
        nodes,
        "static-embedding",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, sides)],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(scales, "scales")],
    )
    opset = helper.make_opsetid("", 17)
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.checker.check_model(model)
    return model


def _write(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=1) + "\n")
