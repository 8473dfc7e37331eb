"""ResNet for small images: a 3 x 3 stem without pooling, four stages, global average pooling.

A block computes relu(x + F(x)); where the shape changes, x passes through a 1 x 1 convolution and
BatchNorm first (the paper's option B).

Source: He, Zhang, Ren and Sun 2016 (arXiv 1512.03385), the depths of its table 1. A bottleneck
strides in its 3 x 3 convolution, as most implementations since.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from adatune_func.networks.init import initialize

BLOCKS = {  # depth -> blocks in each of the four stages
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
BOTTLENECKED = (50, 101, 152)
EXPANSION = 4  # a bottleneck's output channels over its inner ones


class ResNet(nn.Module):
    """(N, in_channels, H, W) -> (N, num_classes) logits, for any H and W.

    `blocks` holds each stage's number of blocks, `base_width` the first stage's inner channels,
    which double from stage to stage.
    """

    def __init__(
        self,
        blocks: Sequence[int] = BLOCKS[18],
        *,
        bottleneck: bool = False,
        base_width: int = 64,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv_norm(in_channels, base_width, 3), nn.ReLU())
        expansion = EXPANSION if bottleneck else 1
        channels = base_width
        stages: list[nn.Module] = []
        for stage, count in enumerate(blocks):
            inner = base_width * 2**stage
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(Residual(channels, inner, stride, bottleneck=bottleneck))
                channels = inner * expansion
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(channels, num_classes)
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.stages(self.stem(images)).mean((2, 3)))


class Residual(nn.Module):
    """relu(shortcut(x) + F(x)); F is 3 x 3, 3 x 3 or, as a bottleneck, 1 x 1, 3 x 3, 1 x 1."""

    def __init__(self, in_channels: int, inner: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        channels = inner * EXPANSION if bottleneck else inner
        self.residual = nn.Sequential(
            *_bottleneck(in_channels, inner, stride)
            if bottleneck
            else _basic(in_channels, inner, stride)
        )
        same_shape = stride == 1 and in_channels == channels
        self.shortcut = nn.Sequential(
            *[] if same_shape else _conv_norm(in_channels, channels, 1, stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.residual(x))


def _basic(in_channels: int, inner: int, stride: int) -> list[nn.Module]:
    return [
        *_conv_norm(in_channels, inner, 3, stride),
        nn.ReLU(),
        *_conv_norm(inner, inner, 3),
    ]


def _bottleneck(in_channels: int, inner: int, stride: int) -> list[nn.Module]:
    return [
        *_conv_norm(in_channels, inner, 1),
        nn.ReLU(),
        *_conv_norm(inner, inner, 3, stride),
        nn.ReLU(),
        *_conv_norm(inner, inner * EXPANSION, 1),
    ]


def _conv_norm(in_channels: int, channels: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels),
    ]
