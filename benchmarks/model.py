"""A model for measuring speed: random weights in the shape of a small Llama, a real vocabulary.

Weights need no meaning to be as fast as trained ones. The tokenizer is the one of llama.cpp's
vocabulary-only file for Qwen2, with 151,936 tokens: what sampling costs depends on their number.
"""

from __future__ import annotations

import argparse
import ctypes
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import llama_cpp.llama_cpp as C
import numpy as np
import numpy.typing as npt

from benchmarks.source import CACHE, tree

Halves = npt.NDArray[np.float16]

RECIPE: Final = 1  # in the file's name; raise it when the same shape would come out differently
TURN_END: Final = "<|im_end|>"
SPREAD: Final = 0.02  # standard deviation of the weights
PUSH: Final = 0.5  # how far words are lifted above all other tokens

CHATML: Final = """\
{%- if tools or (messages and messages[0].role == 'system') -%}
<|im_start|>system
{% if messages and messages[0].role == 'system' %}{{ messages[0].content }}
{% endif %}
{%- if tools %}You may call these functions:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}To call one, write <tool_call>{"name": ..., "arguments": {...}}</tool_call>
{% endif %}<|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}<|im_start|>user
<tool_response>{{ message.content }}</tool_response><|im_end|>
{% elif message.role != 'system' or not loop.first %}<|im_start|>{{ message.role }}
{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}
<tool_call>{{ call.function | tojson }}</tool_call>
{%- endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama's measures; `feed_forward` and `width` in numbers a token."""

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    feed_forward: int


SHAPES: Final = {
    shape.name: shape
    for shape in (
        Shape("135m", layers=30, width=576, heads=9, kv_heads=3, feed_forward=1536),
        Shape("tiny", layers=4, width=256, heads=4, kv_heads=2, feed_forward=768),
    )
}


def model(name: str = "135m") -> Path:
    """The model of that shape in Q8_0, made if it is not there yet."""
    path = CACHE / f"random-{name}-{RECIPE}.gguf"
    if not path.exists():
        print(f"making {path.name}", flush=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        whole, draft = path.with_suffix(".f16"), path.with_suffix(".draft")
        _write(whole, SHAPES[name])
        _quantise(whole, draft)
        whole.unlink()
        draft.replace(path)
    return path


def _write(path: Path, shape: Shape) -> None:
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name(f"Random {shape.name}")
    writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_F16))
    writer.add_context_length(32768)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = _copy_tokenizer(writer)
    writer.add_vocab_size(len(tokens))
    for name, value in _tensors(shape, tokens):
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy_tokenizer(writer: gguf.GGUFWriter) -> list[str]:
    """Copy the vocabulary, end turns where ChatML does; the tokens as they are spelled there."""
    source = gguf.GGUFReader(tree() / "models" / "ggml-vocab-qwen2.gguf")
    kinds = "tokenizer.ggml.token_type"
    ours = {"tokenizer.chat_template", "tokenizer.ggml.eos_token_id", kinds}
    for key, field in source.fields.items():
        if key.startswith("tokenizer.") and key not in ours:
            sub = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], sub_type=sub)
    tokens: list[str] = source.fields["tokenizer.ggml.tokens"].contents()
    types: list[int] = source.fields[kinds].contents()
    # llama.cpp takes it for a control token whatever the file says, and complains at every load.
    types[tokens.index("</s>")] = int(gguf.TokenType.CONTROL)
    writer.add_token_types(types)
    writer.add_eos_token_id(tokens.index(TURN_END))
    writer.add_chat_template(CHATML)
    return tokens


def _tensors(shape: Shape, tokens: list[str]) -> Iterator[tuple[str, Any]]:
    """Names and values. The same seed gives the same model.

    Random logits would pick control tokens and halves of characters, whose text is empty or comes
    late, so that an answer would have fewer events than tokens. The first number of the state
    therefore stays the same from the embedding to the end, and lifts whole words above the rest.
    """
    draw = np.random.default_rng(135)
    width, narrow = shape.width, shape.width // shape.heads * shape.kv_heads

    def matrix(rows: int, columns: int) -> Halves:
        values = draw.standard_normal((rows, columns), dtype=np.float32) * np.float32(SPREAD)
        return values.astype(np.float16)

    def untouched(columns: int) -> Halves:
        value = matrix(width, columns)
        value[0] = 0
        return value

    words = np.array([re.fullmatch("Ġ?[A-Za-z]+", token) is not None for token in tokens])
    ones = np.ones(width, dtype=np.float32)
    embedding, output = matrix(len(tokens), width), matrix(len(tokens), width)
    embedding[:, 0] = PUSH
    output[:, 0] = np.where(words, PUSH, -PUSH)
    yield "token_embd.weight", embedding
    yield "output.weight", output
    yield "output_norm.weight", ones
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        yield f"{block}attn_norm.weight", ones
        yield f"{block}attn_q.weight", matrix(width, width)
        yield f"{block}attn_k.weight", matrix(narrow, width)
        yield f"{block}attn_v.weight", matrix(narrow, width)
        yield f"{block}attn_output.weight", untouched(width)
        yield f"{block}ffn_norm.weight", ones
        yield f"{block}ffn_gate.weight", matrix(shape.feed_forward, width)
        yield f"{block}ffn_up.weight", matrix(shape.feed_forward, width)
        yield f"{block}ffn_down.weight", untouched(shape.feed_forward)


@C.llama_log_callback  # type: ignore[untyped-decorator]  # ctypes
def _silence(level: int, text: bytes, _: object) -> None:
    """llama.cpp has a line for every tensor."""


def _quantise(source: Path, target: Path) -> None:
    C.llama_log_set(_silence, ctypes.c_void_p(0))
    params = C.llama_model_quantize_default_params()
    params.ftype = C.LLAMA_FTYPE_MOSTLY_Q8_0
    code = C.llama_model_quantize(str(source).encode(), str(target).encode(), params)
    if code:
        raise RuntimeError(f"llama_model_quantize returned {code}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES, nargs="?", default="135m")
    print(model(parser.parse_args().shape))
