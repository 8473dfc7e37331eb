"""Networks to try learning-rate tuning on: image classifiers by name, and a decoder for text.

All are plain nn.Modules under their usual names. Every operation in them has forward mode over
reverse mode and vmap, so that torch.func takes them as they are; the exact products see to it that
attention has, too. Reduced versions for tests come from the constructors' widths and depths.
"""

from collections.abc import Callable
from functools import partial

from torch import nn

from adatune_func.networks import resnet, vgg
from adatune_func.networks.densenet import DenseNet
from adatune_func.networks.init import initialize
from adatune_func.networks.lenet import LeNet
from adatune_func.networks.mlp import MLP
from adatune_func.networks.resnet import ResNet
from adatune_func.networks.transformer import Block, Decoder, Encoder, VisionTransformer
from adatune_func.networks.vgg import VGG
from adatune_func.networks.wide_resnet import WideResNet

__all__ = [
    "Block",
    "MLP",
    "NETWORKS",
    "VGG",
    "Decoder",
    "DenseNet",
    "Encoder",
    "LeNet",
    "ResNet",
    "VisionTransformer",
    "WideResNet",
    "initialize",
    "network",
]

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "lenet": LeNet,
    "vgg": VGG,
    "resnet": ResNet,
    "wide_resnet": WideResNet,
    "densenet": DenseNet,
    "vision_transformer": VisionTransformer,
    **{f"vgg_{depth}": partial(VGG, counts) for depth, counts in vgg.CONVOLUTIONS.items()},
    **{
        f"resnet_{depth}": partial(ResNet, counts, bottleneck=depth in resnet.BOTTLENECKED)
        for depth, counts in resnet.BLOCKS.items()
    },
    "wide_resnet_28_10": partial(WideResNet, 28, 10),
    "wide_resnet_28_20": partial(WideResNet, 28, 20),
    "densenet_bc_100_12": partial(DenseNet, 100, 12),
}

# As large as the image: their first linear layer, or the positions of its patches. All others pool
# it down to one pixel.
SIZED_BY_IMAGE = ("mlp", "lenet", "vision_transformer")


def network(name: str, *, num_classes: int, in_channels: int, image_size: int = 32) -> nn.Module:
    """A freshly initialised network by name, for square images.

    `vgg`, `resnet`, `wide_resnet` and `densenet` without a size are VGG-11, ResNet-18, WRN-28-10
    and DenseNet-BC-100-12.

    Raises ValueError when no network has that name.

    >>> network("lenet", num_classes=10, in_channels=1, image_size=28).classifier[-1].out_features
    10
    """
    if name not in NETWORKS:
        raise ValueError(f"no network is called {name!r}; known are {', '.join(NETWORKS)}")
    sizes = {"image_size": image_size} if name in SIZED_BY_IMAGE else {}
    return NETWORKS[name](num_classes=num_classes, in_channels=in_channels, **sizes)
