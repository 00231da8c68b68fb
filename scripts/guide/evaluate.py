"""The share of held-back phrasings that the exported model answers rightly."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import SequenceMatcher
from pathlib import Path
from random import Random

from scripts.guide.engines import Engine, GgufEngine, Messages, OnnxEngine, TorchEngine
from scripts.guide.intents import Intent, load_held_back, load_intents
from scripts.guide.questions import Questions
from scripts.guide.train import SEED, load_model

ALIKE = 0.9  # an answer must be this close to the intent's own answer, besides its facts
REQUIRED = 0.8
PARITY_LINES = 5000
Wrap = Callable[[str], Messages]

HISTORY: Messages = (
    ("user", "What is the capital of Sweden?"),
    ("assistant", "I do not know that."),
    ("user", "how do i stream answers"),
    ("assistant", 'Add `"stream": true` to the request.'),
)
WRAPS: dict[str, Wrap] = {
    "as typed": lambda text: [("user", text)],
    "lower case, no marks": lambda text: [("user", re.sub(r"[?!.,]+(?= |$)", "", text.lower()))],
    "with a system prompt": lambda text: [
        ("system", "You are a helpful assistant."),
        ("user", text),
    ],
    'after "hey, can you tell me"': lambda text: [("user", f"hey, can you tell me {text}")],
    "after two other turns": lambda text: [*HISTORY, ("user", text)],
}


def likeness(a: str, b: str) -> float:
    """1 for equal texts, towards 0 for texts with nothing in common."""
    return 1.0 if a == b else SequenceMatcher(None, a, b, autojunk=False).ratio()


def judge(answer: str, intents: dict[str, Intent]) -> str:
    """The kind whose answer this is: its facts are all there and no intent is closer; or ""."""
    answer = answer.strip()
    for intent in intents.values():
        if answer in intent.answers:  # the usual case, and quick
            return intent.kind
    best, kind = 0.0, ""
    for intent in intents.values():
        score = max(likeness(answer, text) for text in intent.answers)
        if score > best:
            whole = all(re.search(fact, answer) for fact in intent.facts)
            best, kind = score, intent.kind if whole and score >= ALIKE else ""
    return kind


def share(engine: Engine, part: str, wrap: Wrap, *, show: bool) -> tuple[int, int]:
    """(right, asked) over a held-back part; with `show` the wrong ones are printed."""
    intents, right = load_intents(), 0
    cases = load_held_back(part)
    for kind, text in cases:
        answer = engine.answer(wrap(text))
        found = judge(answer, intents)
        right += found == kind
        if show and found != kind:
            print(f"  wrong  {text!r}: wanted {kind}, got {found or 'nothing'}: {answer[:90]!r}")
    return right, len(cases)


def _agree(name: str, one: Engine, other: Engine) -> None:
    texts = [text for part in ("test", "dev") for _, text in load_held_back(part)]
    same = sum(one.answer([("user", t)]) == other.answer([("user", t)]) for t in texts)
    print(
        f"{name}: same greedy text on {same} of {len(texts)} held-back questions "
        f"({same / len(texts):.1%})"
    )


def _tokenizer_parity(gguf: GgufEngine, tokenizer: Path) -> None:
    from tokenizers import Tokenizer

    exact = Tokenizer.from_file(str(tokenizer))
    questions = Questions(SEED + 2)
    lines = [questions.draw()[1] for _ in range(PARITY_LINES)]
    lines += [text for intent in questions.intents.values() for text in intent.answers]
    same = sum(gguf.tokens(line) == exact.encode(line).ids for line in lines)
    print(f"tokenizer: llama.cpp agrees on {same} of {len(lines)} lines")


def _long_context(gguf: GgufEngine) -> None:
    """The same questions at the end of a conversation that nearly fills the context."""
    rng, questions = Random(SEED), Questions(SEED + 3)
    cases = rng.sample(load_held_back("test"), 20)
    intents, right, used = load_intents(), 0, 0
    for kind, text in cases:
        history: list[tuple[str, str]] = []
        while sum(len(content) for _, content in history) < 5200:
            _, question, answer = questions.draw()
            history += [("user", question), ("assistant", answer)]
        used = max(used, sum(len(gguf.tokens(content)) + 5 for _, content in history))
        right += judge(gguf.answer([*history, ("user", text)]), intents) == kind
    print(f"GGUF, after a history of up to {used} tokens: {right} of {len(cases)} right")


def evaluate(gguf_path: Path, onnx_folder: Path, checkpoint: Path, tokenizer: Path) -> float:
    """Print everything that is claimed about the model; returns the reported share."""
    gguf = GgufEngine(gguf_path)
    _tokenizer_parity(gguf, tokenizer)
    pull = gguf.answer([("user", "How do I pull a model?")])
    print(f"How do I pull a model? -> {pull}")
    assert "tabagent pull" in pull
    reported = 0.0
    for part in ("dev", "test"):
        for name, wrap in WRAPS.items():
            right, asked = share(gguf, part, wrap, show=name == "as typed")
            print(f"GGUF, {part}, {name}: {right} of {asked} right ({right / asked:.1%})")
            if part == "test" and name == "as typed":
                reported = right / asked
    _long_context(gguf)
    print(f"GGUF: {gguf.finished} of {gguf.asked} answers ended by themselves")
    _agree("torch and GGUF", TorchEngine(load_model(checkpoint), tokenizer), gguf)
    _agree("ONNX and GGUF", OnnxEngine(onnx_folder), gguf)
    print(
        f"held-back share answered rightly at temperature 0: {reported:.1%} "
        f"({'at least' if reported >= REQUIRED else 'BELOW'} {REQUIRED:.0%})"
    )
    return reported
