"""Training: conversations in batches of like length, AdamW, a cosine schedule."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional

from scripts.guide.bpe import train_tokenizer
from scripts.guide.conversations import CONTEXT, Conversations, Sample
from scripts.guide.model import Guide, Shape
from scripts.guide.questions import Questions
from scripts.guide.warm_start import warm_start

SEED = 20
TOKENIZER_LINES = 60_000
BATCH_TOKENS = 2048
LONG_SHARE = 0.003  # of the conversations fill the context; they are 6 % of the tokens
# Few lengths, because the CPU library prepares itself anew for every shape it meets.
LENGTHS = (32, 48, 64, 96, 128, 192, 256, 384, 512, CONTEXT - 1)
MARKS = 32  # and the number of marks
IGNORED = -100
COUNTED = 256  # likewise the number of positions that go through the output matrix
SHORT = 0.75  # of the conversations end within the first words of the last answer
NAMING = 1.0  # how much the exercise counts
SAVED_EVERY = 250


HiddenOf = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Plan:
    """How long to train, and how fast to learn."""

    steps: int = 3000
    alone: int = 900
    peak: float = 2e-3
    warm_up: int = 100
    decay: float = 0.1


@dataclass(frozen=True)
class Batch:
    """Inputs, targets and the weight of each target, all [rows, length]; and the marks."""

    ids: Tensor
    targets: Tensor
    weights: Tensor
    places: Tensor  # [marks] positions in the flattened rows
    intents: Tensor  # [marks] what was asked there; IGNORED where the list was filled up


def make_tokenizer(path: Path) -> None:
    """Train the tokenizer on questions and on every answer, some of them more than once."""
    questions = Questions(SEED)
    lines: list[str] = []
    for _ in range(TOKENIZER_LINES):
        intent, question, answer = questions.draw()
        # The thousand words of the out-of-scope questions would push out the useful tokens.
        if intent.group != "rest" or questions.rng.random() < 0.35:
            lines.append(question)
        if questions.rng.random() < 0.3:
            lines.append(answer)
    lines += ["system\n", "user\n", "assistant\n"] * 100
    train_tokenizer(lines, path)


def _collate(samples: list[Sample], length: int) -> Batch:
    ids = torch.zeros(len(samples), length + 1, dtype=torch.long)
    weights = torch.zeros(len(samples), length + 1)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
        weights[row, : len(sample.ids)] = torch.tensor(sample.weights)
    marks = [
        (row * length + at, intent)
        for row, sample in enumerate(samples)
        for at, intent in sample.marks
    ]
    marks += [(0, IGNORED)] * (-len(marks) % MARKS)
    places, intents = torch.tensor(marks).T
    return Batch(ids[:, :-1], ids[:, 1:], weights[:, 1:], places, intents)


def batches(conversations: Conversations, rng: Random, alone: int) -> Iterator[Batch]:
    """Endless batches of about BATCH_TOKENS, each of conversations of like length.

    The first `alone` of them hold single questions, which are easier to begin with.
    """
    waiting: dict[int, list[Sample]] = {length: [] for length in LENGTHS}
    given = 0
    while True:
        if given < alone:
            sample = conversations.draw_one(short=SHORT)
        elif rng.random() < LONG_SHARE:
            sample = conversations.draw_long()
        else:
            sample = conversations.draw(short=SHORT)
        length = next(length for length in LENGTHS if len(sample.ids) <= length + 1)
        waiting[length].append(sample)
        if (len(waiting[length]) + 1) * length > BATCH_TOKENS + length // 2:
            yield _collate(waiting[length], length)
            waiting[length] = []
            given += 1


def _rate(step: int, plan: Plan) -> float:
    if step < plan.warm_up:
        return plan.peak * (step + 1) / plan.warm_up
    done = (step - plan.warm_up) / max(1, plan.steps - plan.warm_up)
    return plan.peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def _optimizer(model: Guide, judge: nn.Linear, plan: Plan) -> torch.optim.AdamW:
    """AdamW; each group carries its own `share` of the rate."""
    words = model.embedding.weight
    rest = [p for p in (*model.parameters(), *judge.parameters()) if p is not words]
    groups = [
        {"params": [p for p in rest if p.dim() == 2], "weight_decay": plan.decay, "share": 1.0},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0, "share": 1.0},
        # The words start out trained.
        {"params": [words], "weight_decay": 0.0, "share": 0.25},
    ]
    return torch.optim.AdamW(groups, lr=plan.peak, betas=(0.9, 0.98), fused=True)


def loss_of(
    model: Guide, judge: nn.Linear, hidden_of: HiddenOf, batch: Batch
) -> tuple[Tensor, Tensor]:
    """The weighted mean loss of the tokens, and the loss of naming what was asked.

    Naming the intent at the place where an answer begins is an exercise: `judge` is thrown away
    afterwards. Without it each token at which two answers part has to learn to read the question
    by itself, which takes several times as long.
    """
    width = model.shape.width
    at = batch.weights.flatten().nonzero()[:, 0]
    at = torch.cat((at, torch.zeros(-len(at) % COUNTED, dtype=torch.long)))
    weights = batch.weights.flatten()[at]
    halfway, last = hidden_of(batch.ids)
    hidden = last.reshape(-1, width)[at]
    named = judge(functional.rms_norm(halfway.reshape(-1, width)[batch.places], (width,)))
    naming = functional.cross_entropy(named.float(), batch.intents, ignore_index=IGNORED)
    logits = model.output(hidden)
    losses = functional.cross_entropy(logits.float(), batch.targets.flatten()[at], reduction="none")
    return (losses * weights).sum() / weights.sum(), naming


def train(tokenizer_path: Path, checkpoint: Path, plan: Plan, threads: int = 2) -> None:
    """Train from nothing and write the checkpoint; prints loss and speed as it goes."""
    torch.manual_seed(SEED)
    torch.set_num_threads(threads)
    model = Guide(Shape())
    conversations = Conversations(tokenizer_path, SEED + 1)
    stream = batches(conversations, Random(SEED), plan.alone)
    judge = nn.Linear(model.shape.width, len(conversations.questions.intents), bias=False)
    warm_start(model, judge, conversations.questions, conversations.exact)
    optimizer = _optimizer(model, judge, plan)
    print(f"{model.parameter_count():,} parameters, {plan.steps} steps", flush=True)
    # Compiled is a third faster; one graph for short rows and one for long, for any shape.
    hidden_of = torch.compile(model.hidden, dynamic=True)
    begin, tokens, smooth = time.perf_counter(), 0, torch.zeros(2)
    for step in range(plan.steps):
        batch = next(stream)
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * _rate(step, plan)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            telling, naming = loss_of(model, judge, hidden_of, batch)
        optimizer.zero_grad(set_to_none=True)
        (telling + NAMING * naming).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        tokens += batch.ids.numel()
        now = torch.stack((telling, naming)).detach()
        smooth = now if step == 0 else torch.lerp(smooth, now, 0.02)
        if step % 50 == 49:
            spent = time.perf_counter() - begin
            print(
                f"step {step + 1}  loss {smooth[0]:.4f}, of naming {smooth[1]:.4f}  "
                f"{tokens / spent:,.0f} tokens/s  "
                f"{spent / 60:.1f} min",
                flush=True,
            )
        if step % SAVED_EVERY == SAVED_EVERY - 1 or step == plan.steps - 1:
            torch.save({"model": model.state_dict(), "shape": model.shape.as_dict()}, checkpoint)
    questions = conversations.questions
    questions.check()
    print(
        f"{questions.drawn:,} questions drawn, {len(questions.distinct):,} distinct; "
        "none of them held back"
    )


def load_model(checkpoint: Path) -> Guide:
    """The trained model in float32."""
    saved = torch.load(checkpoint, weights_only=True)
    model = Guide(Shape(**saved["shape"]))
    model.load_state_dict(saved["model"])
    model.eval()
    return model
