"""Seeded batches of image data: float, normalised and, for training, augmented.

Randomness is counter-based: batch number t is a function of (seed, t) alone, so a run resumed at
step t needs no more than t, and it is drawn on the CPU, so that every device sees the same batches.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING = 4  # pixels on each side before a random crop, as He et al. 2016 for CIFAR


class Split(NamedTuple):
    """Images (N, C, H, W) uint8 and labels (N,) int64; a batch has the same form."""

    images: Tensor
    labels: Tensor


class ImageData(NamedTuple):
    """Disjoint splits, and what training on them needs: statistics (C,) of channels in [0, 1]."""

    train: Split
    validation: Split
    test: Split
    mean: Tensor
    std: Tensor
    num_classes: int
    augmented: bool  # whether train_batches crops and flips


def batches(split: Split, batch_size: int, *, seed: int, start: int = 0) -> Iterator[Split]:
    """Raw batches number `start`, `start + 1`, ... without end, in a new order each pass.

    Batch t is a function of (seed, t). A pass leaves out what does not fill a last batch; which
    images these are changes from pass to pass.

    Raises ValueError, at once, when the split does not fill one batch.
    """
    size = len(split.labels)
    if not 1 <= batch_size <= size:
        raise ValueError(
            f"batch_size must be from 1 to the split's {size} images, not {batch_size}"
        )
    return _batches(split, batch_size, seed, start)


def train_batches(
    data: ImageData, batch_size: int, *, seed: int, start: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """(float images, labels) of the training split without end, augmented where the set is.

    As `batches`, and the augmentation of batch t is a function of (seed, t) too.
    """
    raw = batches(data.train, batch_size, seed=seed, start=start)
    if data.augmented:
        raw = _augmented(raw, seed, start)
    return ((normalize(images, data.mean, data.std), labels) for images, labels in raw)


def validation_batches(
    data: ImageData, batch_size: int, *, seed: int, start: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """(float images, labels) of the validation split without end, as they are; see `batches`."""
    raw = batches(data.validation, batch_size, seed=seed, start=start)
    return ((normalize(images, data.mean, data.std), labels) for images, labels in raw)


def in_order(split: Split, batch_size: int) -> Iterator[Split]:
    """Every image once, raw, in the split's own order; the last batch may be short."""
    images, labels = (torch.split(part, batch_size) for part in split)
    return (Split(*pair) for pair in zip(images, labels, strict=True))


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(x / 255 - mean) / std, a channel at a time, in mean's dtype: (N, C, H, W) uint8 -> float."""
    # In place on the fresh copy: three new tensors of this size cost four times the arithmetic.
    return images.to(mean.dtype).div_(255).sub_(mean[:, None, None]).div_(std[:, None, None])


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random crop after zero padding by 4 and, half the time, a horizontal flip, image by image.

    (N, C, H, W) uint8 to the same, on the images' device; `generator` is the CPU's. The padding is
    black, as it comes before normalisation.

    Source: He, Zhang, Ren and Sun 2016 (arXiv 1512.03385), section 4.2.
    """
    number, _, height, width = images.shape
    shifts = torch.randint(2 * PADDING + 1, (2, number, 1), generator=generator)
    flipped = torch.rand(number, 1, generator=generator) < 0.5
    rows = shifts[0] + torch.arange(height)
    columns = torch.arange(width)
    columns = shifts[1] + torch.where(flipped, columns.flip(0), columns)
    padded = F.pad(images, (PADDING,) * 4)
    # One gather from the flattened pixels is three times as fast as a loop of slices.
    pixels = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
    pixels = pixels.to(images.device).reshape(number, 1, -1).expand(-1, images.shape[1], -1)
    return padded.flatten(2).gather(2, pixels).reshape(images.shape)


def _batches(split: Split, batch_size: int, seed: int, start: int) -> Iterator[Split]:
    size = len(split.labels)
    step = start
    while True:
        epoch, position = divmod(step, size // batch_size)
        order = torch.randperm(size, generator=generator_for(seed, "order", epoch))
        order = order.to(split.labels.device)
        for batch in torch.split(order, batch_size)[position : size // batch_size]:
            yield taken(split, batch)
            step += 1


def _augmented(raw: Iterator[Split], seed: int, start: int) -> Iterator[Split]:
    for step, (images, labels) in enumerate(raw, start):
        yield Split(augment(images, generator_for(seed, "augment", step)), labels)


def generator_for(seed: int, purpose: str, counter: int) -> torch.Generator:
    """A generator of its own for each (seed, purpose, counter), hashed apart."""
    digest = hashlib.blake2b(f"{seed} {purpose} {counter}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def taken(split: Split, indices: Tensor) -> Split:
    """The images and labels at these indices."""
    return Split(split.images[indices], split.labels[indices])
