"""Data as tensors: image sets by name, texts from files, and batches drawn from them.

``image_sets`` loads, ``batches`` draws, ``torchvision_import`` gets by a torchvision without its
operators; ``text`` does both for the characters or bytes of a file.
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
from .text import Text, load_text, text_batches, text_in_order, to_text
from .torchvision_import import torchvision_datasets

__all__ = [
    "ImageData",
    "SOURCES",
    "Source",
    "Split",
    "Text",
    "augment",
    "batches",
    "generator_for",
    "in_order",
    "load",
    "load_text",
    "normalize",
    "taken",
    "text_batches",
    "text_in_order",
    "to_text",
    "torchvision_datasets",
    "train_batches",
    "validation_batches",
]
