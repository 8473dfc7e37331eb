"""Data as tensors on the device: image sets by name, and batches drawn from them.

``image_sets`` loads, ``batches`` draws, ``torchvision_import`` gets by a torchvision without its
operators.
"""

from .batches import (
    ImageData,
    Split,
    augment,
    batches,
    generator_for,
    in_order,
    normalize,
    taken,
    train_batches,
    validation_batches,
)
from .image_sets import SOURCES, Source, load
from .torchvision_import import torchvision_datasets

__all__ = [
    "ImageData",
    "SOURCES",
    "Source",
    "Split",
    "augment",
    "batches",
    "generator_for",
    "in_order",
    "load",
    "normalize",
    "taken",
    "torchvision_datasets",
    "train_batches",
    "validation_batches",
]
