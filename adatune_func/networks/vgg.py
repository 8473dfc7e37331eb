"""VGG for small images: five groups of 3 x 3 convolutions with BatchNorm, one linear head.

Source: Simonyan and Zisserman 2015 (arXiv 1409.1556), configurations A, B, D and E, with Ioffe and
Szegedy's BatchNorm (arXiv 1502.03167) after each convolution, which therefore has no bias, and one
linear layer for the paper's three: after five halvings a 32 x 32 image is a single pixel.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from adatune_func.networks.init import initialize

CONVOLUTIONS = {  # depth -> convolutions in each of the five groups; the head is the last layer
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class VGG(nn.Module):
    """(N, in_channels, H, W) -> (N, num_classes) logits, for H and W from 1 to 32.

    `width` is the first group's number of channels; the others have 2, 4, 8 and 8 times as many.
    Pooling rounds up, which changes nothing at 32 x 32 and takes 28 x 28 through 14, 7, 4 and 2 to
    the one pixel that the head expects.
    """

    def __init__(
        self,
        convolutions: Sequence[int] = CONVOLUTIONS[11],
        *,
        width: int = 64,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        channels = [in_channels, *(width * factor for factor in (1, 2, 4, 8, 8))]
        layers: list[nn.Module] = []
        for (before, after), count in zip(pairwise(channels), convolutions, strict=True):
            layers += _group(before, after, count)
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.classifier = nn.Linear(channels[-1], num_classes)
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


def _group(in_channels: int, channels: int, count: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs in (in_channels, *[channels] * (count - 1)):
        layers += [
            nn.Conv2d(inputs, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
    return [*layers, nn.MaxPool2d(2, ceil_mode=True)]
