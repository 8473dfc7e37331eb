"""Image data sets as tensors on the device, by name, with fixed splits.

A set is held as uint8, N x C x H x W; :mod:`adatune_func.data.batches` draws float batches from it.
Sizes are left as they are, 28 x 28 or 32 x 32: the networks take both. torchvision and scikit-learn
are imported when a set of theirs is loaded, not before.
"""

import importlib
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError

import torch
import torch.nn.functional as F

from .batches import ImageData, Split, generator_for, taken
from .torchvision_import import torchvision_datasets


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
    order = torch.randperm(len(training.labels), generator=generator_for(seed, "split", 0))
    validation, train = order[: source.validation], order[source.validation :]
    splits = (taken(training, train), taken(training, validation), test)
    return ImageData(
        *(Split(split.images.to(device), split.labels.to(device)) for split in splits),
        mean=torch.tensor(source.mean, device=device),
        std=torch.tensor(source.std, device=device),
        num_classes=source.num_classes,
        augmented=source.augmented,
    )


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
    order = torch.randperm(len(labels), generator=generator_for(0, "digits", 0))
    return taken(digits, order[300:]), taken(digits, order[:300])


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
        (0.2023, 0.1994, 0.2010),  # AdaTune's; of the channels it is 0.247, 0.243, 0.262
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
