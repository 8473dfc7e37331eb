"""The networks of the speed and curvature benchmarks, with their data's shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from adatune_func import networks


class Model(NamedTuple):
    build: Callable[[], nn.Module]
    data: str  # mnist or cifar_10

    @property
    def shape(self) -> tuple[int, int, int]:
        return (1, 28, 28) if self.data == "mnist" else (3, 32, 32)


class Transformer(nn.Module):
    """A small vision transformer: 4 x 4 patches, a pre-norm encoder, the mean of its tokens."""

    def __init__(self, layers: int = 4, width: int = 128, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.positions = nn.Parameter(0.02 * torch.randn(64, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True,
            norm_first=True,
        )  # fmt: skip
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.encoder(tokens).mean(1))


def small_conv() -> nn.Module:
    """4 x 4 patches of 32 channels, two 3 x 3 convolutions of stride 2; BatchNorm and ReLU."""
    layers: list[nn.Module] = []
    for before, after, size, stride in ((3, 32, 4, 4), (32, 64, 3, 2), (64, 64, 3, 2)):
        padding = 0 if stride == size else 1
        layers += [nn.Conv2d(before, after, size, stride, padding, bias=False)]
        layers += [nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def smooth(module: nn.Module) -> nn.Module:
    """The module with GELU for each ReLU and average for max-pooling: no kinks left."""
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU):
            setattr(module, name, nn.GELU())
        elif isinstance(child, nn.MaxPool2d):
            pool = nn.AvgPool2d(child.kernel_size, child.stride, ceil_mode=child.ceil_mode)
            setattr(module, name, pool)
        else:
            smooth(child)
    return module


MODELS: dict[str, Model] = {
    "mlp": Model(lambda: networks.MLP((256, 128)), "mnist"),
    "lenet": Model(lambda: networks.LeNet(), "mnist"),
    "lenet_small": Model(lambda: networks.LeNet((6, 16)), "mnist"),
    "conv": Model(small_conv, "cifar_10"),
    "vgg_11": Model(lambda: networks.VGG(), "cifar_10"),
    "vgg_11_small": Model(lambda: networks.VGG(width=8), "cifar_10"),
    "resnet_18": Model(lambda: networks.ResNet(), "cifar_10"),
    "resnet_18_small": Model(lambda: networks.ResNet(base_width=8), "cifar_10"),
    "transformer": Model(lambda: Transformer(), "cifar_10"),
}
