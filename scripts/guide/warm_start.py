"""A start that already reads: word vectors from a bag of tokens, and a layer that takes their mean.

A bag of tokens sees many more questions in a minute than the whole model does, and learns what
each word says about the intent (as in fastText, arXiv 1607.01759). The model starts with these
vectors, with a first layer that adds the mean of what came before, and with the bag's own weights
for naming an intent. What is left to learn is what a bag cannot know: order, turns and answers.
"""

from __future__ import annotations

from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from scripts.guide.model import Guide
from scripts.guide.questions import Questions

QUESTIONS = 80_000
EPOCHS = 5
ROWS = 256
RATE = 4e-3
SPREAD = 0.03  # of all embeddings
MEAN = 0.15  # how much of the mean the first layer adds


def _encode(questions: Questions, tokenizer: Tokenizer) -> list[tuple[list[int], int]]:
    numbers = {name: number for number, name in enumerate(questions.intents)}
    found = []
    for _ in range(QUESTIONS):
        intent, text, _ = questions.draw()
        # The turn's own tokens are in the mean as well when the model takes it.
        turn = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        found.append((tokenizer.encode(turn).ids, numbers[intent.id]))
    return found


def _normed(vectors: Tensor) -> Tensor:
    """Each vector with the length that the model's RMSNorm gives it."""
    return functional.normalize(vectors, dim=-1) * vectors.shape[-1] ** 0.5


def _train_bag(rows: list[tuple[list[int], int]], vectors: Tensor, judge: nn.Linear) -> Tensor:
    """Train `judge` and copies of `vectors` [vocabulary, width]; returns the copies."""
    rng = Random(len(rows))
    table = nn.Parameter(vectors.clone())
    optimizer = torch.optim.Adam(
        [{"params": [table], "lr": RATE * SPREAD * 4}, {"params": judge.parameters(), "lr": RATE}]
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, EPOCHS)
    right = 0
    for _ in range(EPOCHS):
        rng.shuffle(rows)
        right = 0
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS]
            ids = torch.tensor([token for tokens, _ in part for token in tokens])
            lengths = torch.tensor([0, *(len(tokens) for tokens, _ in part[:-1])])
            wanted = torch.tensor([intent for _, intent in part])
            mean = functional.embedding_bag(ids, _normed(table), lengths.cumsum(0), mode="mean")
            named = judge(mean)
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(named, wanted).backward()
            optimizer.step()
            right += int((named.argmax(-1) == wanted).sum())
        schedule.step()
    print(f"word vectors: a bag of tokens names {right / len(rows):.1%} of the questions")
    return table.detach()


def warm_start(model: Guide, judge: nn.Linear, questions: Questions, tokenizer: Tokenizer) -> None:
    """Set the embedding, the first layer's value path, and `judge`."""
    width = model.shape.width
    table = _train_bag(_encode(questions, tokenizer), model.embedding.weight.detach(), judge)
    with torch.no_grad():
        model.embedding.weight.copy_(table * (SPREAD / table.std()))
        first = model.layers[0]
        first.qkv.weight[2 * width :].copy_(torch.eye(width))
        first.out.weight.copy_(torch.eye(width) * MEAN)
