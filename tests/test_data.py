"""Data: splits, batches as functions of (seed, step), augmentation against a loop, errors in words.

Nothing is downloaded: digits come with scikit-learn, the rest are tiny files of the same formats.
"""

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor

from adatune_func import data
from adatune_func.data import ImageData, Split

#: Before 0.21 it prints why a mirror of MNIST failed, and the error is without a reason.
OLD_TORCHVISION = tuple(map(int, version("torchvision").split(".")[:2])) < (0, 21)


def numbered(size: int, channels: int = 1, pixels: int = 6) -> Split:
    """Random images whose labels are their numbers, so that a batch says what it holds."""
    shape = (size, channels, pixels, pixels)
    images = torch.randint(256, shape, generator=torch.Generator().manual_seed(0))
    return Split(images.to(torch.uint8), torch.arange(size))


def small(augmented: bool = True) -> ImageData:
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    return ImageData(
        numbered(50, 3), numbered(20, 3), numbered(10, 3), mean, std, 50, augmented=augmented
    )


def take(iterator: Iterator, number: int) -> list:
    return list(islice(iterator, number))


def assert_same(ours: list, theirs: list) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


# --- data sets and their splits


def write_idx(path: Path, values: Tensor) -> None:
    """An idx file: 0, 0, 8 for bytes, the number of dimensions, each as 4 bytes, the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + sizes + values.numpy().tobytes())


def write_mnist(root: Path, name: str = "MNIST") -> tuple[Split, Split]:
    """Ten training and four test images in torchvision's layout."""
    splits = (numbered(10, pixels=28), numbered(4, pixels=28))
    for split, prefix in zip(splits, ("train", "t10k"), strict=True):
        folder = root / name / "raw"
        write_idx(folder / f"{prefix}-images-idx3-ubyte", split.images[:, 0])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", split.labels.to(torch.uint8))
    return splits


def write_cifar(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Split, Split]:
    """The same for CIFAR: pickled rows of 3 x 32 x 32 bytes, with checksums set to match."""
    from hashlib import md5

    dataset = getattr(data.torchvision_datasets(), name)
    label = "labels" if name == "CIFAR10" else "fine_labels"
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)

    def write(file: str, content: dict[str, Any]) -> list[str]:
        raw = pickle.dumps(content)
        (folder / file).write_bytes(raw)
        return [file, md5(raw).hexdigest()]

    splits = (numbered(10, 3, 32), numbered(4, 3, 32))
    for split, attribute in zip(splits, ("train_list", "test_list"), strict=True):
        rows = {"data": split.images.flatten(1).numpy(), label: split.labels.tolist()}
        monkeypatch.setattr(dataset, attribute, [write(attribute, rows)])
    key = dataset.meta["key"]
    file, checksum = write("meta", {key: [str(label) for label in range(10)]})
    monkeypatch.setattr(dataset, "meta", {"filename": file, "key": key, "md5": checksum})
    return splits


@pytest.fixture
def three_for_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, source in data.SOURCES.items():
        monkeypatch.setitem(data.SOURCES, name, source._replace(validation=3))


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def test_digits() -> None:
    digits = data.load("digits")
    assert [len(split.labels) for split in digits[:3]] == [1197, 300, 300]
    for split in digits[:3]:
        assert split.images.shape == (len(split.labels), 1, 28, 28)
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert set(split.labels.tolist()) == set(range(10))
    assert not digits.augmented
    images, _ = next(data.train_batches(digits, 1197, seed=0))
    assert abs(images.mean()) < 0.02
    assert abs(images.std() - 1) < 0.02


def test_splits_are_disjoint_fixed_and_whole() -> None:
    def rows(split: Split) -> set[bytes]:
        return {image.numpy().tobytes() for image in split.images}

    first, again, other = (data.load("digits", seed=seed) for seed in (0, 0, 1))
    for one, same in zip(first[:3], again[:3], strict=True):
        assert_same([one], [same])
    train, validation, test = (rows(split) for split in first[:3])
    assert not train & validation
    assert not train & test
    assert not validation & test
    assert len(train | validation | test) == 1797
    assert rows(other.validation) != validation
    assert rows(other.test) == test
    assert rows(other.train) | rows(other.validation) == train | validation


@pytest.mark.parametrize(
    ("name", "write", "augmented"),
    [
        ("mnist", lambda root, _: write_mnist(root), False),
        ("fashion_mnist", lambda root, _: write_mnist(root, "FashionMNIST"), False),
        ("cifar_10", lambda root, patch: write_cifar(root, "CIFAR10", patch), True),
        ("cifar_100", lambda root, patch: write_cifar(root, "CIFAR100", patch), True),
    ],
)
@pytest.mark.usefixtures("three_for_validation")
def test_files_in_torchvisions_layout_become_tensors(
    name: str,
    write: Callable[[Path, pytest.MonkeyPatch], tuple[Split, Split]],
    augmented: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training, test = write(tmp_path, monkeypatch)
    offline(monkeypatch)
    loaded = data.load(name, tmp_path)
    assert_same([loaded.test], [test])
    assert (len(loaded.train.labels), len(loaded.validation.labels)) == (7, 3)
    for split in (loaded.train, loaded.validation):
        assert_same([split], [(training.images[split.labels], split.labels)])
    assert sorted([*loaded.train.labels.tolist(), *loaded.validation.labels.tolist()]) == [
        *range(10)
    ]
    assert loaded.augmented == augmented
    assert len(loaded.mean) == len(loaded.std) == training.images.shape[1]


# --- batches


def test_same_seed_same_batches_and_another_seed_others() -> None:
    split = numbered(20)
    assert_same(
        take(data.batches(split, 6, seed=3), 9),
        take(data.batches(split, 6, seed=3), 9),
    )
    one, other = (next(data.batches(split, 6, seed=seed)) for seed in (3, 4))
    assert one.labels.tolist() != other.labels.tolist()


@pytest.mark.parametrize("start", [1, 2, 3, 4, 7, 300])
@pytest.mark.parametrize("of", [data.train_batches, data.validation_batches])
def test_starting_at_k_is_skipping_k(of: Callable, start: int) -> None:
    assert_same(
        take(of(small(), 16, seed=5, start=start), 5),
        take(of(small(), 16, seed=5), start + 5)[start:],
    )


def test_a_pass_holds_every_image_once_in_an_order_of_its_own() -> None:
    split = numbered(20)
    raw = data.batches(split, 5, seed=0)
    passes = [torch.cat([batch.labels for batch in take(raw, 4)]).tolist() for _ in range(3)]
    for order in passes:
        assert sorted(order) == list(range(20))
    assert passes[0] != passes[1] != passes[2] != passes[0]


def test_batches_have_one_size_and_hold_their_own_images() -> None:
    split = numbered(20)
    for images, labels in take(data.batches(split, 6, seed=0), 7):
        assert labels.unique().numel() == 6
        assert torch.equal(images, split.images[labels])


def test_in_order_is_every_image_once_with_a_short_end() -> None:
    split = numbered(20)
    batches = list(data.in_order(split, 6))
    assert [len(batch.labels) for batch in batches] == [6, 6, 6, 2]
    whole = (torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches]))
    assert_same([whole], [split])


@pytest.mark.parametrize("batch_size", [0, 21])
def test_batch_size_must_fit_the_split(batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"from 1 to the split's 20 images, not {batch_size}"):
        data.batches(numbered(20), batch_size, seed=0)  # at once, not at the first batch


# --- augmentation and normalisation


@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 28), (6, 9)])
def test_augmentation_is_padding_slicing_and_flipping(height: int, width: int) -> None:
    images = torch.randint(256, (64, 3, height, width), dtype=torch.uint8)
    ours = data.augment(images, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    tops, lefts = torch.randint(9, (2, 64, 1), generator=generator).flatten(1).tolist()
    flips = (torch.rand(64, 1, generator=generator) < 0.5).flatten().tolist()
    assert {*tops} == {*lefts} == {*range(9)}
    assert 16 < sum(flips) < 48
    for image, top, left, flip, result in zip(images, tops, lefts, flips, ours, strict=True):
        padded = torch.zeros(3, height + 8, width + 8, dtype=torch.uint8)
        padded[:, 4:-4, 4:-4] = image
        expected = padded[:, top : top + height, left : left + width]
        assert torch.equal(result, expected.flip(2) if flip else expected)


def test_augmentation_changes_with_step_and_seed_and_only_where_asked() -> None:
    one = small()._replace(train=numbered(1, 3))  # every batch is the same image

    def distinct(batches: Iterator) -> int:
        return len({images.numpy().tobytes() for images, _ in take(batches, 20)})

    assert distinct(data.train_batches(one, 1, seed=0)) > 10
    by_seed = (next(data.train_batches(one, 1, seed=seed)) for seed in range(20))
    assert distinct(by_seed) > 10
    assert distinct(data.train_batches(one._replace(augmented=False), 1, seed=0)) == 1
    still = one._replace(validation=one.train)
    assert distinct(data.validation_batches(still, 1, seed=0)) == 1


def test_normalisation() -> None:
    loaded = small(augmented=False)
    images, labels = next(data.train_batches(loaded, 8, seed=0))
    raw = loaded.train.images[labels]
    assert images.dtype == torch.float32
    for channel in range(3):
        expected = (raw[:, channel] / 255 - loaded.mean[channel]) / loaded.std[channel]
        torch.testing.assert_close(images[:, channel], expected)
    before = raw.clone()
    data.normalize(raw, loaded.mean, loaded.std)
    assert torch.equal(raw, before)


# --- errors


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="no data set is called 'svhn'; known are digits, mnist"):
        data.load("svhn")


def failure(name: str, root: Path) -> OSError:
    with pytest.raises(OSError) as caught:
        data.load(name, root)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__
    return caught.value


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar_10", "cifar_100"])
def test_offline(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    error = failure(name, tmp_path)
    assert isinstance(error, ConnectionError)
    assert "could not be downloaded" in str(error)
    if not ("mnist" in name and OLD_TORCHVISION):
        assert "Temporary failure in name resolution" in str(error)
    assert str(tmp_path) in str(error)


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    root = tmp_path / "file"
    root.touch()
    assert "cannot be read or written" in str(failure("mnist", root))


@pytest.mark.parametrize("kept", [0, 2, 100])
@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_truncated_mnist(file: str, kept: int, tmp_path: Path) -> None:
    write_mnist(tmp_path)
    path = tmp_path / "MNIST" / "raw" / file
    path.write_bytes(path.read_bytes()[: min(kept, path.stat().st_size - 1)])
    assert "damaged or cut short" in str(failure("mnist", tmp_path))


def test_fewer_labels_than_images(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    labels = torch.zeros(9, dtype=torch.uint8)
    write_idx(tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte", labels)
    assert "damaged or cut short (10 images and 9 labels)" in str(failure("mnist", tmp_path))


def test_damaged_cifar_is_fetched_again_and_says_so_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(tmp_path, "CIFAR10", monkeypatch)
    offline(monkeypatch)
    path = tmp_path / "cifar-10-batches-py" / "train_list"
    path.write_bytes(path.read_bytes()[:-1])
    assert "not complete" in str(failure("cifar_10", tmp_path))


# --- imports


def python(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_needs_neither_torchvision_nor_scikit_learn() -> None:
    python(
        "import sys, adatune_func.data\n"
        "assert not {'torchvision', 'sklearn'} & {name.split('.')[0] for name in sys.modules}"
    )


@pytest.mark.parametrize("tried_before", [False, True])
def test_torchvision_imports_whatever_torch_is_beside_it(tried_before: bool) -> None:
    python(
        "import contextlib\n"
        "from adatune_func.data import torchvision_datasets\n"
        f"if {tried_before}:\n"
        "    with contextlib.suppress(RuntimeError):\n"
        "        import torchvision\n"
        "assert torchvision_datasets() is torchvision_datasets()\n"
        "assert torchvision_datasets().CIFAR10.base_folder == 'cifar-10-batches-py'\n"
        "import torchvision.datasets\n"
    )
