"""Greedy answers from the three forms of the model: torch, GGUF and ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
from llama_cpp import Llama
from tokenizers import Tokenizer

from scripts.guide.bpe import TURN_END
from scripts.guide.export_onnx import MODEL_FILE
from scripts.guide.model import Guide

LIMIT = 128  # tokens; the longest answer has about half
Messages = Sequence[tuple[str, str]]  # (role, content)


class Engine(Protocol):
    """Something that answers a conversation greedily."""

    def answer(self, messages: Messages) -> str:
        """The text up to the end of the turn."""


def render(messages: Messages) -> str:
    """ChatML, as the chat template writes it, with the assistant's turn opened."""
    turns = [f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in messages]
    return "".join(turns) + "<|im_start|>assistant\n"


class TorchEngine:
    """The checkpoint, in float32."""

    def __init__(self, model: Guide, tokenizer: Path) -> None:
        self._model = model
        self._tokenizer = Tokenizer.from_file(str(tokenizer))

    def answer(self, messages: Messages) -> str:
        """See Engine."""
        ids = self._tokenizer.encode(render(messages)).ids
        end = self._tokenizer.token_to_id(TURN_END)
        assert end is not None, "the guide's tokenizer has it"
        found = self._model.greedy(ids, end, LIMIT)
        return str(self._tokenizer.decode(found))


class GgufEngine:
    """guide.gguf through llama.cpp, with the chat template inside the file."""

    def __init__(self, path: Path) -> None:
        self.llama = Llama(str(path), n_ctx=2048, n_threads=1, verbose=False, seed=1)
        self.finished = 0
        self.asked = 0

    def answer(self, messages: Messages) -> str:
        """See Engine."""
        reply = self.llama.create_chat_completion(
            [{"role": role, "content": content} for role, content in messages],
            temperature=0.0,
            max_tokens=LIMIT,
        )
        choice = reply["choices"][0]
        self.asked += 1
        self.finished += choice["finish_reason"] == "stop"
        return str(choice["message"]["content"])

    def tokens(self, text: str) -> list[int]:
        """The token ids of plain text."""
        return list(self.llama.tokenize(text.encode(), add_bos=False, special=False))


class OnnxEngine:
    """The ONNX export through onnxruntime, one token at a time with its cache."""

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        self._session = onnxruntime.InferenceSession(
            str(folder / MODEL_FILE), options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._end = self._tokenizer.token_to_id(TURN_END)
        self._past = {
            value.name: value.shape
            for value in self._session.get_inputs()
            if value.name.startswith("past_key_values.")
        }

    def answer(self, messages: Messages) -> str:
        """See Engine."""
        ids = self._tokenizer.encode(render(messages)).ids
        cache = {
            name: np.zeros((1, shape[1], 0, shape[3]), dtype=np.float32)
            for name, shape in self._past.items()
        }
        names = [name.replace("past_key_values", "present") for name in self._past]
        feed, done, found = list(ids), 0, list[int]()
        while len(found) < LIMIT:
            inputs = {
                "input_ids": np.array([feed], dtype=np.int64),
                "attention_mask": np.ones((1, done + len(feed)), dtype=np.int64),
                "position_ids": np.arange(done, done + len(feed), dtype=np.int64)[None],
            }
            logits, *grown = self._session.run(["logits", *names], inputs | cache)
            cache = dict(zip(self._past, grown, strict=True))
            best = int(logits[0, -1].argmax())
            if best == self._end:
                break
            done, feed = done + len(feed), [best]
            found.append(best)
        return str(self._tokenizer.decode(found))
