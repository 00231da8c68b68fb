"""How a model in a folder reads whole texts: pooling, prompts, labels, from its JSON files.

Sources: sentence-transformers' `modules.json`, `1_Pooling/config.json` and
`config_sentence_transformers.json`; `config.json` of transformers for heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from tabagent.catalog.json_files import json_list, json_object, text_in
from tabagent.errors import UnsupportedModel
from tabagent.wire import Pooling, Reading, Scale

MODES: Final[dict[str, Pooling]] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean",  # another length, which vectors lose anyway
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
}
NAMES: Final[dict[str, Pooling]] = {
    "mean": "mean", "mean_sqrt_len_tokens": "mean", "cls": "cls", "lasttoken": "last", "max": "max",
}  # fmt: skip
"""As newer files say it, in one word."""
OFFSETS: Final = frozenset(
    {"roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl", "longformer"}
)
"""Architectures whose positions begin after the padding token's number."""
UNBOUNDED: Final = 10**6  # a tokenizer that knows no longest text says more
KNOWN: Final = ("Transformer", "Pooling", "Normalize", "StaticEmbedding")
MOST_LABELS: Final = 10_000
LONGEST_PROMPT: Final = 4096  # characters

Task = Literal["embedding", "rerank", "classification", "entities"]


def pooling_of(folder: Path, task: Task) -> Pooling:
    """What becomes of a text's tokens. Raises UnsupportedModel for what is not computed here."""
    if task != "embedding":
        kinds: dict[str, Pooling] = {
            "rerank": "rank", "classification": "labels", "entities": "spans",
        }  # fmt: skip
        return kinds[task]
    path = next((path for kind, path in modules_of(folder) if kind == "Pooling"), "1_Pooling")
    said = json_object(folder / path / "config.json")
    if said is None:
        return "mean"
    if (named := text_in(said, "pooling_mode")) and named in NAMES:
        return NAMES[named]
    wanted = [name for name, value in said.items() if name.startswith("pooling_mode") and value]
    found = {MODES[name] for name in wanted if name in MODES}
    if len(found) != 1 or len(wanted) != 1:
        names = ", ".join(wanted) or named or "nothing"
        raise UnsupportedModel(f"its vectors are pooled by {names}"[:200], architecture="unknown")
    return found.pop()


def reading_of(folder: Path, config: Mapping[str, Any], task: Task) -> Reading:
    """The rest of what its files say of its use."""
    about = json_object(folder / "config_sentence_transformers.json") or {}
    prompts = _prompts(about.get("prompts"))
    default = about.get("default_prompt_name")
    modules = modules_of(folder)
    pooling = next((path for kind, path in modules if kind == "Pooling"), "1_Pooling")
    pool = json_object(folder / pooling / "config.json") or {}
    return Reading(
        lowercase=(json_object(folder / "sentence_bert_config.json") or {}).get("do_lower_case")
        is True,
        prompts=prompts,
        default_prompt=default if isinstance(default, str) and default in prompts else None,
        pools_prompt=pool.get("include_prompt", True) is not False,
        labels=_labels(config) if task in ("classification", "entities") else [],
        scale=_scale(config, about, task),
        after=[kind for kind, _ in modules if kind not in KNOWN],
    )


def longest_text(folder: Path, config: Mapping[str, Any]) -> int:
    """Tokens of the longest text; 0 where nobody says."""
    positions = _count(config, "max_position_embeddings", "n_positions")
    if positions and config.get("model_type") in OFFSETS:
        padding = config.get("pad_token_id")
        positions -= (padding if type(padding) is int and 0 <= padding < positions else 1) + 1
    limits = [
        positions,
        _count(json_object(folder / "sentence_bert_config.json") or {}, "max_seq_length"),
        _count(json_object(folder / "tokenizer_config.json") or {}, "model_max_length"),
    ]
    return min((limit for limit in limits if 0 < limit < UNBOUNDED), default=0)


def modules_of(folder: Path) -> list[tuple[str, str]]:
    """(kind, folder) of each step of a sentence-transformers model, in order."""
    found = []
    for entry in json_list(folder / "modules.json") or []:
        kind, path = (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else ("", "")
        if isinstance(kind, str) and isinstance(path, str) and ".." not in path and path[:1] != "/":
            # The library imports whatever is named here: others' names stay whole, and are unknown.
            own = kind.startswith("sentence_transformers.")
            found.append((kind.rpartition(".")[2][:64] if own else kind[:64], path))
    return found


def _prompts(said: Any) -> dict[str, str]:
    """By name. What answers a query is a passage to some and a document to others."""
    if not isinstance(said, dict):
        return {}
    found = {
        name: value
        for name, value in list(said.items())[:64]
        if isinstance(name, str) and isinstance(value, str) and len(value) <= LONGEST_PROMPT
    }
    for one, other in (("passage", "document"), ("document", "passage")):
        if other in found:
            found.setdefault(one, found[other])
    return found


def _labels(config: Mapping[str, Any]) -> list[str]:
    said = config.get("id2label")
    if not isinstance(said, dict) or not 0 < len(said) <= MOST_LABELS:
        raise UnsupportedModel("its config.json names no labels", architecture="unknown")
    names = [said.get(str(number)) for number in range(len(said))]
    if not all(isinstance(name, str) for name in names):
        raise UnsupportedModel("its labels are not numbered from 0", architecture="unknown")
    return [str(name)[:200] for name in names]


def _scale(config: Mapping[str, Any], about: Mapping[str, Any], task: Task) -> Scale:
    """What makes scores of a head's outputs: as a cross-encoder says, else as its task has it."""
    own = config.get("sentence_transformers")
    said = text_in(about, "activation_fn")
    said = said or (text_in(own, "activation_fn") if isinstance(own, dict) else "")
    said = said or text_in(config, "sbert_ce_default_activation_function")
    if task == "rerank":
        return "raw" if said.endswith("Identity") else "sigmoid"
    if config.get("problem_type") == "multi_label_classification" or said.endswith("Sigmoid"):
        return "sigmoid"
    return "raw" if config.get("problem_type") == "regression" else "softmax"


def _count(said: Mapping[str, Any], *names: str) -> int:
    values = (said.get(name) for name in names)
    return next((v for v in values if type(v) is int and v > 0), 0)
