"""Image data sets as tensors on the device: fixed splits, seeded batches, augmentation.

A set is held as uint8, N x C x H x W, and becomes float batch by batch. Randomness is
counter-based: batch number t is a function of (seed, t) alone, so a run resumed at step t needs no
more than t, and it is drawn on the CPU, so that every device sees the same batches.

Sizes are left as they are, 28 x 28 or 32 x 32: the networks take both.

torchvision and scikit-learn are imported when a set of theirs is loaded, not before.
"""

import hashlib
import importlib
from collections.abc import Callable, Iterator
from functools import cache
from http.client import HTTPException
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from urllib.error import URLError

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


class Source(NamedTuple):
    """Where a set comes from, `read(root) -> (training images, test images)`, and its numbers."""

    read: Callable[[Path], tuple[Split, Split]]
    validation: int  # images taken from the training images
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_classes: int
    augmented: bool


def load(
    name: str, root: str | Path = "data", *, device: torch.device | str = "cpu", seed: int = 0
) -> ImageData:
    """A data set by name, downloaded under `root` on first use in torchvision's layout.

    digits (1,197 training, 300 validation and 300 test images), mnist and fashion_mnist (55,000,
    5,000, 10,000), cifar_10 and cifar_100 (45,000, 5,000, 10,000). `seed` chooses the validation
    images; it is apart from the seeds of training runs, so that all runs validate on the same
    images. The test images are always the same.

    Raises ValueError for an unknown name, ConnectionError when a download fails, OSError for a
    folder that cannot be read or written and for damaged files, ImportError without scikit-learn
    (digits) or torchvision (all others).
    """
    if name not in SOURCES:
        raise ValueError(f"no data set is called {name!r}; known are {', '.join(SOURCES)}")
    source = SOURCES[name]
    training, test = source.read(Path(root).expanduser())
    order = torch.randperm(len(training.labels), generator=_generator(seed, "split", 0))
    validation, train = order[: source.validation], order[source.validation :]
    splits = (_take(training, train), _take(training, validation), test)
    return ImageData(
        *(Split(split.images.to(device), split.labels.to(device)) for split in splits),
        mean=torch.tensor(source.mean, device=device),
        std=torch.tensor(source.std, device=device),
        num_classes=source.num_classes,
        augmented=source.augmented,
    )


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
        order = torch.randperm(size, generator=_generator(seed, "order", epoch))
        order = order.to(split.labels.device)
        for batch in torch.split(order, batch_size)[position : size // batch_size]:
            yield _take(split, batch)
            step += 1


def _augmented(raw: Iterator[Split], seed: int, start: int) -> Iterator[Split]:
    for step, (images, labels) in enumerate(raw, start):
        yield Split(augment(images, _generator(seed, "augment", step)), labels)


def _generator(seed: int, purpose: str, counter: int) -> torch.Generator:
    """A generator of its own for each (seed, purpose, counter), hashed apart."""
    digest = hashlib.blake2b(f"{seed} {purpose} {counter}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def _take(split: Split, indices: Tensor) -> Split:
    return Split(split.images[indices], split.labels[indices])


def _digits(root: Path) -> tuple[Split, Split]:
    """scikit-learn's 8 x 8 digits, enlarged to 28 x 28; they come in its package, not from `root`.

    They are in the order of their writers, so they are shuffled, always alike, before 300 become
    the test images.
    """
    try:
        datasets: Any = importlib.import_module("sklearn.datasets")
    except ImportError:
        raise ImportError("the digits come with scikit-learn: pip install scikit-learn") from None
    small, labels = datasets.load_digits(return_X_y=True)  # 0 to 16
    small = torch.as_tensor(small).float().reshape(-1, 1, 8, 8) * (255 / 16)
    images = F.interpolate(small, (28, 28), mode="bilinear", align_corners=False)
    digits = Split(images.round().to(torch.uint8), torch.as_tensor(labels).long())
    order = torch.randperm(len(labels), generator=_generator(0, "digits", 0))
    return _take(digits, order[300:]), _take(digits, order[:300])


def _torchvision(name: str) -> Callable[[Path], tuple[Split, Split]]:
    """The reader of torchvision's class `name`: training images, which may download, then test."""

    def read(root: Path) -> tuple[Split, Split]:
        dataset = getattr(torchvision_datasets(), name)
        try:
            training, test = (
                _tensors(dataset(str(root), train=train, download=True)) for train in (True, False)
            )
        except Exception as error:
            raise _in_words(error, name, root) from None
        return training, test

    return read


def _tensors(dataset: Any) -> Split:
    images, labels = torch.as_tensor(dataset.data), torch.as_tensor(dataset.targets)
    if len(images) != len(labels):
        raise RuntimeError(f"{len(images)} images and {len(labels)} labels")
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return Split(images.contiguous(), labels.long())


def _in_words(error: Exception, name: str, root: Path) -> OSError:
    """One line on why a set could not be read: no network, no permission, or damaged files."""
    where = f"under {str(root)!r}"
    reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
    no_network = isinstance(error, URLError | HTTPException | TimeoutError | ConnectionError)
    if no_network or "Error downloading" in str(error):  # MNIST's, after its last mirror
        return ConnectionError(
            f"{name} is not complete {where} and could not be downloaded ({reason[0]}); connect to "
            f"the internet, or put the files there in torchvision's layout"
        )
    if isinstance(error, OSError) and error.strerror:
        return OSError(f"{name} cannot be read or written {where}: {error.strerror}")
    return OSError(
        f"files of {name} {where} are damaged or cut short ({reason[0]}); delete them, load again"
    )


def torchvision_datasets() -> ModuleType:
    """torchvision.datasets, even where torchvision was built for CUDA and torch was not.

    There its library of operators does not load and the import stops at "operator torchvision::nms
    does not exist", although data sets need no operator; two declarations carry it past that.
    """
    try:
        return importlib.import_module("torchvision.datasets")
    except ImportError:
        raise ImportError("this data set needs torchvision: pip install torchvision") from None
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    _declare_operators()
    # What the failed import finished stays in sys.modules and is used as it is: importing it again
    # would register its operators twice.
    return importlib.import_module("torchvision.datasets")


@cache  # the declarations last as long as the object
def _declare_operators() -> torch.library.Library:
    library: Any = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define(
        "qnms(Tensor dets, Tensor scores, float scale, int zero_point, float iou_threshold)"
        " -> Tensor"
    )
    return library


SOURCES = {
    "digits": Source(_digits, 300, (0.3053,), (0.3247,), 10, augmented=False),
    "mnist": Source(_torchvision("MNIST"), 5_000, (0.1307,), (0.3081,), 10, augmented=False),
    "fashion_mnist": Source(
        _torchvision("FashionMNIST"), 5_000, (0.2860,), (0.3530,), 10, augmented=False
    ),
    "cifar_10": Source(
        _torchvision("CIFAR10"),
        5_000,
        (0.4914, 0.4822, 0.4465),
        (0.2023, 0.1994, 0.2010),  # AdaTune's; of the channels it would be 0.247, 0.244, 0.262
        10,
        augmented=True,
    ),
    "cifar_100": Source(
        _torchvision("CIFAR100"),
        5_000,
        (0.5071, 0.4867, 0.4408),
        (0.2675, 0.2565, 0.2761),
        100,
        augmented=True,
    ),
}
