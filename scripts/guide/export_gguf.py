"""The trained model as guide.gguf, in the Llama architecture of llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np

from scripts.guide.bpe import CHAT_TEMPLATE, END_OF_TEXT, SPECIAL, TURN_END
from scripts.guide.model import Guide
from scripts.guide.quantise import Floats, quantise

NAME = "TabAgent Guide"
DESCRIPTION = (
    "A small built-in model that answers questions about TabAgent. It was trained from nothing "
    "on questions and answers written for this project and knows nothing else."
)


def interleave(weight: Floats, heads: int) -> Floats:
    """Reorder the rows of a q or k matrix from rotate-half to llama.cpp's adjacent pairs."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


def tensors(model: Guide) -> dict[str, Floats]:
    """The weights under the names of GGUF, q and k still in the rotate-half layout."""
    shape = model.shape
    found: dict[str, Floats] = {}

    def put(name: str, value: object) -> None:
        found[name] = np.asarray(value, dtype=np.float32)

    put("token_embd.weight", model.embedding.weight.detach())
    put("output.weight", model.output.weight.detach())
    put("output_norm.weight", model.norm.weight.detach())
    for index, layer in enumerate(model.layers):
        state = {name: value.detach() for name, value in layer.named_parameters()}
        q, k, v = state["qkv.weight"].split(shape.width)
        gate, up = state["gate_up.weight"].split(shape.hidden)
        block = f"blk.{index}"
        put(f"{block}.attn_norm.weight", state["attention_norm.weight"])
        put(f"{block}.attn_q.weight", q)
        put(f"{block}.attn_k.weight", k)
        put(f"{block}.attn_v.weight", v)
        put(f"{block}.attn_output.weight", state["out.weight"])
        put(f"{block}.ffn_norm.weight", state["mlp_norm.weight"])
        put(f"{block}.ffn_gate.weight", gate)
        put(f"{block}.ffn_up.weight", up)
        put(f"{block}.ffn_down.weight", state["down.weight"])
    return found


def _write_tokenizer(writer: gguf.GGUFWriter, path: Path) -> None:
    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    vocabulary: dict[str, int] = model["vocab"]
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    control, normal = int(gguf.TokenType.CONTROL), int(gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in SPECIAL else normal for token in tokens])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    writer.add_eos_token_id(vocabulary[TURN_END])
    writer.add_eot_token_id(vocabulary[TURN_END])
    writer.add_pad_token_id(vocabulary[END_OF_TEXT])
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def export_gguf(model: Guide, tokenizer: Path, path: Path) -> None:
    """Write `path`: matrices in Q8_0, norms in float32, the tokenizer and the chat template."""
    shape = model.shape
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name(NAME)
    writer.add_basename("tabagent-guide")
    writer.add_author("The TabAgent authors")
    writer.add_version("1.0")
    writer.add_description(DESCRIPTION)
    writer.add_license("MIT")
    writer.add_languages(["en"])
    writer.add_tags(["text-generation", "tabagent", "documentation"])
    writer.add_size_label(f"{model.parameter_count() / 1e6:.1f}M")
    writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_Q8_0))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_rope_dimension_count(shape.head)
    writer.add_vocab_size(shape.vocabulary)
    # Where a request is silent it answers greedily: it recites, and chance only adds mistakes.
    writer.add_float32("general.sampling.temp", 0.0)
    _write_tokenizer(writer, tokenizer)
    for name, value in tensors(model).items():
        if value.ndim == 1:
            writer.add_tensor(name, value)
            continue
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            value = interleave(value, shape.heads)
        raw = quantise(value).raw
        writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
