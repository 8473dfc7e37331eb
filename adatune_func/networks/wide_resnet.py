"""Wide ResNet: three stages of pre-activation blocks, wide instead of deep.

A block computes x + F(x), F = BatchNorm, ReLU, 3 x 3, BatchNorm, ReLU, dropout, 3 x 3; where the
shape changes, a 1 x 1 convolution of the activated x replaces x.

Source: Zagoruyko and Komodakis 2016 (arXiv 1605.07146).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from adatune_func.networks.init import initialize


class WideResNet(nn.Module):
    """WRN-`depth`-`width`: (N, in_channels, H, W) -> (N, num_classes) logits, for any H and W.

    A stage has (depth - 4) / 6 blocks; the stages have base_width · width · (1, 2, 4) channels.
    `dropout` is the share of activations zeroed between a block's convolutions.

    Raises ValueError when no whole number of blocks gives `depth`.
    """

    def __init__(
        self,
        depth: int = 28,
        width: int = 10,
        *,
        dropout: float = 0.0,
        base_width: int = 16,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"a Wide ResNet's depth is 6 n + 4 (10, 16, 22, 28, ...), not {depth}")
        self.stem = nn.Conv2d(in_channels, base_width, 3, padding=1, bias=False)
        channels = base_width
        stages: list[nn.Module] = []
        for stage in range(3):
            outputs = base_width * width * 2**stage
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(WideBlock(channels, outputs, stride, dropout))
                channels = outputs
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, num_classes)
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.norm(self.stages(self.stem(images))))
        return self.classifier(features.mean((2, 3)))


class WideBlock(nn.Module):
    """x + F(x), or shortcut(activated x) + F(x) where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            # Even dropout of nothing draws random numbers, which vmap refuses by default.
            nn.Dropout(dropout) if dropout else nn.Identity(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )
        same_shape = stride == 1 and in_channels == channels
        self.shortcut = (
            None if same_shape else nn.Conv2d(in_channels, channels, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.norm(x))
        carried = x if self.shortcut is None else self.shortcut(activated)
        return carried + self.residual(activated)
