"""Models that are folders: ONNX as transformers.js and onnxruntime-genai lay them out, and
sentence-transformers. What they are is read from their JSON files; no weights are opened.

Sources: the README of `optimum`'s ONNX exporter and of transformers.js (`onnx/model_q4.onnx`),
onnxruntime-genai's `genai_config.json`, and sentence-transformers' `modules.json`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from msgspec.structs import replace

from tabagent.catalog.json_files import (
    corrupt,
    json_object,
    parsed_object,
    read_whole,
    text_in,
)
from tabagent.catalog.reading import longest_text, pooling_of, reading_of
from tabagent.catalog.shape import Layer, Shape
from tabagent.catalog.speaking import speaking_of
from tabagent.catalog.variant import belongs_to
from tabagent.errors import UnsupportedModel
from tabagent.wire import Pooling, Reading, Speaking

LARGEST_HEADER: Final = 32 * 2**20  # of a safetensors file
FRONT: Final = 8192  # bytes of a model card that hold its front matter
CONTEXT: Final = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
HEADS: Final = ("num_attention_heads", "n_head", "n_heads")
LAYERS: Final = ("num_hidden_layers", "n_layer", "n_layers")
MIDDLE: Final = ("intermediate_size", "hidden_dim", "n_inner", "ffn_dim")
MOST_LAYERS: Final = 1000
WIDTH: Final = ("hidden_size", "d_model", "dim", "n_embd")

Kind = Literal["chat", "completion", "embedding", "rerank", "classification", "entities"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a folder says of the model in it. `files` are those that this variant needs."""

    format: Literal["onnx", "sentence-transformers"]
    task: Kind
    architecture: str
    context_length: int
    width: int  # numbers in a vector
    parameters: int  # 0: nobody says
    license: str | None
    chat_template: str | None
    files: tuple[Path, ...]
    pooling: Pooling | None = None  # of one that reads whole texts
    reading: Reading | None = None
    speaking: Speaking | None = None  # of one that generates
    shape: Shape | None = None

    @property
    def size_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)


def folder_of(weights: Path) -> Path:
    """The folder that describes a model: where its weights lie, or above `onnx/`."""
    return weights.parent.parent if weights.parent.name == "onnx" else weights.parent


def read_layout(weights: Path) -> Layout | None:
    """What is said of the model with these weights; None where nothing says that it is one.

    Raises ModelCorrupt for a description that cannot be read, UnsupportedModel for one of something
    that is neither text nor made from it.
    """
    folder = folder_of(weights)
    config = json_object(folder / "config.json")
    genai = json_object(folder / "genai_config.json")
    if config is None and genai is None:
        return None
    onnx = weights.suffix == ".onnx"
    modules = (folder / "modules.json").is_file()
    if not onnx and not modules and not _is_headed(config or {}):
        return None  # weights of another library
    text = (config or {}).get("text_config")
    template = _chat_template(folder)
    inside = _inside(genai or {}, "model")
    built: dict[str, Any] = {**inside, **_inside(inside, "decoder")}
    said = {**built, **(config or {}), **(text if isinstance(text, dict) else {})}
    task = _task(said, folder, template, decoder=genai is not None, modules=modules)
    files = _onnx_files(weights) if onnx else _shards(weights)
    pooling = reading = speaking = None
    context = _number(inside, ("context_length",)) or _number(said, CONTEXT)
    if task != "chat" and task != "completion":
        pooling, reading = pooling_of(folder, task), reading_of(folder, said, task)
        context = longest_text(folder, said) or context
    else:
        heads = _number(said, ("num_key_value_heads",)) or _number(said, HEADS)
        size = _number(said, ("head_dim", "head_size"))
        speaking = replace(
            speaking_of(folder, said, _inside(genai or {}, "search"), template),
            key_heads=heads,
            head_size=size or _number(said, WIDTH) // max(1, _number(said, HEADS)),
        )
    return Layout(
        format="onnx" if onnx else "sentence-transformers",
        task=task,
        architecture=text_in(said, "model_type") or text_in(inside, "type") or "",
        context_length=context,
        width=_width(said, folder),
        parameters=0 if onnx else sum(map(_parameters, files)),
        license=_license(folder / "README.md"),
        chat_template=template,
        files=files,
        pooling=pooling,
        reading=reading,
        speaking=speaking,
        shape=_shape(said, sum(file.stat().st_size for file in files)),
    )


def _inside(said: dict[str, Any], name: str) -> dict[str, Any]:
    value = said.get(name)
    return value if isinstance(value, dict) else {}


def _is_headed(config: dict[str, Any]) -> bool:
    """Whether safetensors are of a cross-encoder or a classifier, which bring no modules.json."""
    named = config.get("architectures")
    first = str(named[0]) if isinstance(named, list) and named else ""
    headed = first.endswith(("ForSequenceClassification", "ForTokenClassification"))
    return headed or "sentence_transformers" in config


def _width(said: dict[str, Any], folder: Path) -> int:
    """Numbers in a vector: as pooled, which a layer behind may have changed."""
    pool = json_object(folder / "1_Pooling" / "config.json") or {}
    return _number(pool, ("word_embedding_dimension", "embedding_dimension")) or _number(
        said, WIDTH
    )


def _shape(said: dict[str, Any], size: int) -> Shape | None:
    """The measures that decide what computing takes; its layers are thought alike."""
    width, heads = _number(said, WIDTH), _number(said, HEADS)
    count = _number(said, LAYERS)
    if not (width and heads and count) or count > MOST_LAYERS:
        return None
    key_heads = _number(said, ("num_key_value_heads",)) or heads
    row = (_number(said, ("head_dim", "head_size")) or width // heads) * key_heads
    return Shape(
        width=width,
        heads=heads,
        feed_forward=_number(said, MIDDLE) or 4 * width,
        vocabulary=_number(said, ("vocab_size",)),
        layers=(Layer(weight_bytes=size // count, key_row=row, value_row=row),) * count,
        input_bytes=0,
        output_bytes=0,
        other_bytes=size - size // count * count,
    )


def _task(
    said: dict[str, Any], folder: Path, template: str | None, *, decoder: bool, modules: bool
) -> Kind:
    named = said.get("architectures")
    first = str(named[0]) if isinstance(named, list) and named else ""
    if decoder or first.endswith(("ForCausalLM", "LMHeadModel")):
        return "chat" if template else "completion"
    if first.endswith("ForSequenceClassification"):
        labels = said.get("id2label")
        count = len(labels) if isinstance(labels, dict) else _number(said, ("num_labels",)) or 2
        return "rerank" if count == 1 else "classification"
    if first.endswith("ForTokenClassification"):
        return "entities"
    pools = modules or (folder / "1_Pooling" / "config.json").is_file()
    if pools or first.endswith(("Model", "ForMaskedLM")) or (not first and _number(said, WIDTH)):
        return "embedding"
    raise UnsupportedModel(
        f"{first or 'a model of unknown kind'} is no text model that TabAgent knows",
        architecture=first or "unknown",
    )


def _onnx_files(weights: Path) -> tuple[Path, ...]:
    """The graph, and beside it what was too large for it: `model.onnx_data`, `model.onnx.data`."""
    beside = (file for file in weights.parent.iterdir() if belongs_to(file.name, weights.name))
    return (weights, *sorted(beside))


def _shards(weights: Path) -> tuple[Path, ...]:
    if weights.suffix != ".json":
        return (weights,)
    index = json_object(weights)
    named = (index or {}).get("weight_map")
    if not isinstance(named, dict):
        raise corrupt(weights, "a weight_map", "none")
    names = sorted({str(name) for name in named.values()})
    if any("/" in name or "\\" in name or name.startswith(".") for name in names):
        raise corrupt(weights, "names of files beside it", "a path")
    shards = tuple(weights.with_name(name) for name in names)
    for shard in shards:
        if not shard.is_file():
            raise corrupt(weights, "all its files", f"no {shard.name}")
    return shards


def _parameters(weights: Path) -> int:
    """Numbers in a safetensors file, from its header: eight bytes of length, then JSON."""
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= LARGEST_HEADER:
            raise corrupt(weights, "a safetensors header", f"one of {length} bytes")
        header = parsed_object(weights, file.read(length))
    total = 0
    for name, tensor in header.items():
        shape = tensor.get("shape") if isinstance(tensor, dict) else None
        if name == "__metadata__":
            continue
        if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
            raise corrupt(weights, "a shape for each tensor", f"none for {name[:100]}")
        count = 1
        for side in shape:
            count *= side
        total += count
    return total


def _chat_template(folder: Path) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return read_whole(file).decode(errors="replace")
    found = (json_object(folder / "tokenizer_config.json") or {}).get("chat_template")
    if isinstance(found, list):  # several, by name
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _license(card: Path) -> str | None:
    """The `license` of a model card's front matter."""
    try:
        with card.open("rb") as file:
            text = file.read(FRONT).decode(errors="replace")
    except OSError:
        return None
    if not text.startswith("---"):
        return None
    found = re.search(r"^license:\s*[\"']?([\w.+-]{1,64})", text.partition("\n---")[0], re.M)
    return found[1] if found else None


def _number(said: dict[str, Any], names: tuple[str, ...]) -> int:
    """The first of these that is a sensible count; 0 when none is."""
    values = (said.get(name) for name in names)
    return next((v for v in values if type(v) is int and 0 < v < 2**31), 0)
