"""DenseNet-BC: each layer sees the concatenation of all that came before it in its block.

A layer is BatchNorm, ReLU, 1 x 1 to 4 · growth channels, BatchNorm, ReLU, 3 x 3 to `growth`
channels; a transition between blocks is BatchNorm, ReLU, 1 x 1, average pooling by 2.

Source: Huang, Liu, van der Maaten and Weinberger 2017 (arXiv 1608.06993).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adatune_func.networks.init import initialize


class DenseNet(nn.Module):
    """DenseNet-BC: (N, in_channels, H, W) -> (N, num_classes) logits, for H and W from 4.

    Each of the three blocks has (depth - 4) / 6 layers, each of which adds `growth` channels;
    `reduction` (the paper's θ) is the share of channels that a transition keeps.

    Raises ValueError when no whole number of layers gives `depth`.
    """

    def __init__(
        self,
        depth: int = 100,
        growth: int = 12,
        reduction: float = 0.5,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        layers, rest = divmod(depth - 4, 6)
        if rest or layers < 1:
            raise ValueError(f"a DenseNet-BC's depth is 6 n + 4 (10, 16, ..., 100), not {depth}")
        channels = 2 * growth
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        for block in range(3):
            if block > 0:
                kept = int(channels * reduction)
                blocks.append(_transition(channels, kept))
                channels = kept
            for _ in range(layers):
                blocks.append(DenseLayer(channels, growth))
                channels += growth
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, num_classes)
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.norm(self.blocks(self.stem(images))))
        return self.classifier(features.mean((2, 3)))


class DenseLayer(nn.Module):
    """x -> (x, new): `growth` new channels beside the old ones."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.new = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.new(x)), 1)


def _transition(channels: int, kept: int) -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, kept, 1, bias=False),
        nn.AvgPool2d(2),
    )
