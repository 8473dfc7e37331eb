"""Multilayer perceptron: flatten, then linear layers with ReLU between them."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """(N, in_channels, image_size, image_size) -> (N, num_classes) logits.

    784-512-256-10 for MNIST by default; `hidden` holds the widths between input and output.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (512, 256),
        *,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int = 28,
    ) -> None:
        super().__init__()
        widths = (in_channels * image_size**2, *hidden)
        layers = [
            layer
            for inputs, outputs in pairwise(widths)
            for layer in (nn.Linear(inputs, outputs), nn.ReLU())
        ]
        self.layers = nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)
