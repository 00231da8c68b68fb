"""The same weights in the transformers.js layout: config, tokenizer and onnx/ model."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
from tokenizers import Tokenizer

from scripts.guide.bpe import CHAT_TEMPLATE, END_OF_TEXT, SPECIAL, TURN_END
from scripts.guide.model import Guide
from scripts.guide.onnx_graph import build

MODEL_FILE = "onnx/model_quantized.onnx"


def _config(model: Guide, tokenizer: Tokenizer) -> dict[str, object]:
    shape = model.shape
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "head_dim": shape.head,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.epsilon,
        "rope_theta": shape.rope_base,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer.token_to_id(TURN_END),
        "pad_token_id": tokenizer.token_to_id(END_OF_TEXT),
        "use_cache": True,
        "torch_dtype": "float32",
    }


def _generation(tokenizer: Tokenizer) -> dict[str, object]:
    return {
        "do_sample": False,
        "eos_token_id": [tokenizer.token_to_id(TURN_END)],
        "pad_token_id": tokenizer.token_to_id(END_OF_TEXT),
        "max_new_tokens": 128,
    }


def _tokenizer_config(model: Guide, tokenizer: Tokenizer) -> dict[str, object]:
    added = {
        str(tokenizer.token_to_id(token)): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for token in SPECIAL
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "bos_token": None,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": model.shape.context,
        "chat_template": CHAT_TEMPLATE,
    }


def export_onnx(model: Guide, tokenizer_path: Path, folder: Path) -> None:
    """Write the whole folder; an older one is overwritten file by file."""
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    tables = {
        "config.json": _config(model, tokenizer),
        "generation_config.json": _generation(tokenizer),
        "tokenizer_config.json": _tokenizer_config(model, tokenizer),
    }
    for name, table in tables.items():
        text = json.dumps(table, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "tokenizer.json").write_bytes(tokenizer_path.read_bytes())
    proto = build(model)
    onnx.checker.check_model(proto)
    onnx.save(proto, str(folder / MODEL_FILE))
