"""What file names say of a model's variants: quantisation, parts, and what is no model by itself."""

from __future__ import annotations

import re
from typing import Final

_QUANTISATION: Final = re.compile(
    r"(?<![a-z0-9])((?:ud-)?(?:i?q\d(?:_[a-z0-9]+)*|bf16|f16|f32|fp16|fp32|mxfp4(?:_moe)?|nvfp4|tq\d_\d))"
    r"(?![a-z0-9])",
    re.IGNORECASE,
)
_PART: Final = re.compile(r"-(\d{5})-of-(\d{5})(?=\.gguf$)", re.IGNORECASE)
PREFERRED: Final = (
    "Q4_K_M", "Q4_K_S", "Q4_0", "MXFP4", "IQ4_XS", "IQ4_NL", "Q5_K_M", "Q8_0", "Q6_K", "Q5_K_S",
)  # fmt: skip
"""What is taken when nobody chose, the first that is there: small, and little is lost."""


def variant_of(path: str) -> str:
    """`Q4_K_M` and the like, from a file's name or its folder's; else the name without its end."""
    name = _PART.sub("", path.rsplit("/", 1)[-1])
    for text in (name.rsplit(".", 1)[0], *reversed(path.split("/")[:-1])):
        if found := _QUANTISATION.findall(text):
            return str(found[-1]).upper()
    return name.rsplit(".", 1)[0]


_ONNX: Final = re.compile(r"(?:model|decoder_model_merged)(?:_([A-Za-z0-9_]{1,40}))?\.onnx")
_SAFETENSORS: Final = ("model.safetensors", "model.safetensors.index.json")
_DTYPES: Final = {"": "FP32", "quantized": "Q8"}  # as transformers.js calls them


def is_layout(name: str) -> bool:
    """Whether a file of this name is the weights of a model that its folder describes."""
    return bool(_ONNX.fullmatch(name)) or name in _SAFETENSORS


DESCRIBED: Final = (
    "config.json", "generation_config.json", "genai_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "modules.json",
    "sentence_bert_config.json", "config_sentence_transformers.json", "README.md",
)  # fmt: skip
"""Files that say how weights are used."""
POOLING: Final = ("1_Pooling/config.json",)


def is_described_by(path: str) -> bool:
    """Whether a file of this path may be one of them."""
    return path.rsplit("/", 1)[-1] in DESCRIBED


def is_onnx(path: str) -> bool:
    """Whether it is a graph, or what was too large for one: `model.onnx_data`, `model.onnx.data`."""
    return bool(re.search(r"\.onnx([._]data(_\d+)?)?$", path))


def belongs_to(path: str, graph: str) -> bool:
    """Whether a file holds weights of this graph."""
    return bool(re.fullmatch(re.escape(graph) + r"[._]data(_\d+)?", path))


def layout_variant(steps: tuple[str, ...]) -> str:
    """`Q4`, `FP16` and the like, of weights by their path in a repository, without `onnx/`.

    onnxruntime-genai's variants are folders.
    """
    if steps[-1] in _SAFETENSORS:
        return "safetensors"
    found = _ONNX.fullmatch(steps[-1])
    dtype = (found[1] if found else None) or ""
    return steps[-2] if len(steps) > 1 and not dtype else _DTYPES.get(dtype, dtype.upper())


def part_of(path: str) -> tuple[int, int]:
    """Which part of how many a file is: (1, 1) for a whole one."""
    found = _PART.search(path)
    return (int(found[1]), int(found[2])) if found else (1, 1)


def is_projector(path: str) -> bool:
    """Whether it is the half of a vision model that reads pictures."""
    return "mmproj" in path.rsplit("/", 1)[-1].lower()


def rank(variant: str) -> int:
    """Its place among PREFERRED; those that are not there come last."""
    return PREFERRED.index(variant) if variant in PREFERRED else len(PREFERRED)
