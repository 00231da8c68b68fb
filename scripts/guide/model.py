"""A small Llama in torch: RMSNorm, rotary positions, SwiGLU, an output matrix of its own."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

HALFWAY = 3  # the layer after which training asks what the question was about
FUSED_FROM = 384  # rows longer than this go through the fused attention kernel


@dataclass(frozen=True)
class Shape:
    """The sizes of the model; every width is a multiple of 32, as Q8_0 wants."""

    vocabulary: int = 3072
    width: int = 256
    layers: int = 6
    heads: int = 8
    hidden: int = 704
    context: int = 2048
    rope_base: float = 10000.0
    epsilon: float = 1e-5

    @property
    def head(self) -> int:
        """The width of one attention head."""
        return self.width // self.heads

    def as_dict(self) -> dict[str, float]:
        """For the checkpoint."""
        return asdict(self)


def rotary_tables(shape: Shape) -> tuple[Tensor, Tensor]:
    """Cosines and sines, [context, head], in the rotate-half layout."""
    steps = torch.arange(0, shape.head, 2, dtype=torch.float32) / shape.head
    angles = torch.outer(torch.arange(shape.context).float(), shape.rope_base**-steps)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn [batch, heads, length, head] by its positions (RoFormer, arXiv 2104.09864)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention over [batch, heads, length, head]."""
    length = q.shape[2]
    if length > FUSED_FROM:
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    # On a CPU the fused kernel's backward pass costs more than it saves on short rows.
    scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    hidden = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(hidden, float("-inf")).softmax(-1).to(v.dtype) @ v


class Layer(nn.Module):  # type: ignore[misc]  # torch is not read by mypy
    """One transformer block."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.attention_norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)
        self.mlp_norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
        self.gate_up = nn.Linear(shape.width, 2 * shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[batch, length, width] -> the same shape, causally."""
        batch, length, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        mixed = attend(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        down: Tensor = self.down(functional.silu(gate) * up)
        return x + down


class Guide(nn.Module):  # type: ignore[misc]  # torch is not read by mypy
    """The whole model: token ids to logits."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
        # Not the embedding: the softmax pushes at every row in every step, and would wear away
        # what the embedding knows of rare words.
        self.output = nn.Linear(shape.width, shape.vocabulary, bias=False)
        cos, sin = rotary_tables(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                # The layers that write into the residual stream start smaller (GPT-2).
                writes = name.endswith(("out.weight", "down.weight"))
                scale = (2 * shape.layers) ** -0.5 if writes else 1.0
                nn.init.normal_(parameter, std=0.03 * scale)

    def hidden(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, length] ids -> two of [batch, length, width]: halfway, and for the output."""
        x = self.embedding(ids)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        halfway = x
        for index, layer in enumerate(self.layers):
            x = layer(x, cos, sin)
            if index == HALFWAY:
                halfway = x
        return halfway, self.norm(x)

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, length] ids -> [batch, length, vocabulary] logits."""
        logits: Tensor = self.output(self.hidden(ids)[1])
        return logits

    def parameter_count(self) -> int:
        """Numbers to store."""
        return sum(parameter.numel() for parameter in self.parameters())

    def greedy(self, ids: list[int], end: int, limit: int) -> list[int]:
        """The most likely continuation of `ids`, without the end token."""
        ids, start = list(ids), len(ids)
        with torch.inference_mode():
            while len(ids) - start < limit:
                best = int(self(torch.tensor([ids]))[0, -1].argmax())
                if best == end:
                    break
                ids.append(best)
        return ids[start:]
