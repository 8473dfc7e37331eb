"""A small language model on the characters of one text: the task where lr is hard to find."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH, CONTEXT, WIDTH, LAYERS, HEADS, STEPS = 32, 64, 64, 2, 4, 1500

#: How many batches the test loss is a mean of.
TESTED = 60


class Text(NamedTuple):
    """A text as numbers, in three parts: 90, 5 and 5 % of it, in order."""

    train: Tensor
    validation: Tensor
    test: Tensor
    vocabulary: int


def load(path: Path) -> Text:
    """The characters of the file at ``path``."""
    text = path.read_text()
    number = {character: i for i, character in enumerate(sorted(set(text)))}
    ids = torch.tensor([number[character] for character in text])
    first, second = int(0.9 * len(ids)), int(0.95 * len(ids))
    return Text(ids[:first], ids[first:second], ids[second:], len(number))


class Block(nn.Module):
    """Pre-norm attention, written out (the fused kernels have no second derivative), and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, HEADS, WIDTH // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-1, -2)) / (WIDTH // HEADS) ** 0.5
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        attention = scores.masked_fill(later, float("-inf")).softmax(-1)
        x = x + self.out((attention @ v).transpose(1, 2).reshape(x.shape))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class LanguageModel(nn.Module):
    """Logits of each next character."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        nn.init.normal_(self.embedding.weight, 0, 0.02)
        self.positions = nn.Parameter(0.02 * torch.randn(CONTEXT, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, vocabulary, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embedding(x) + self.positions)))


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Nats a character."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def batches(part: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pieces of the text and the same pieces one character on, drawn without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        start = torch.randint(len(part) - CONTEXT - 1, (BATCH,), generator=generator)
        piece = part[start[:, None] + torch.arange(CONTEXT + 1)]
        yield piece[:, :-1], piece[:, 1:]


@torch.no_grad()
def test_loss(model: nn.Module, text: Text) -> float:
    """The mean over the same batches of the test part for everyone."""
    model.eval()
    losses = [
        cross_entropy(model(x), y)
        for (x, y), _ in zip(batches(text.test, 99), range(TESTED), strict=False)
    ]
    return float(torch.stack(losses).mean())
