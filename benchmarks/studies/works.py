"""The tasks of ``recipe.py``: images, characters, a regression on a table, fine-tuning.

``score`` is on the test part, which no method looks at: accuracy in per cent, the explained
variance in per cent of the regression, nats of the characters.
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adatune_func import data
from benchmarks.studies import characters
from benchmarks.studies.models import MODELS
from benchmarks.studies.tasks import TASKS, evaluate, pairs_of


class Work(NamedTuple):
    """A task as the grid sees it."""

    network: Callable[[], nn.Module]
    criterion: Callable[..., Tensor]
    steps: int
    pairs: Callable[[int], Iterable[Any]]  # (batch, validation batch) without end, of a seed
    score: Callable[[nn.Module], float]  # on the test part
    warm_up: int = 0  # steps of cosine's


def of_images(args: argparse.Namespace) -> Work:
    task = TASKS[args.task]
    images = data.load(task.images, args.data)
    return Work(
        task.network,
        F.cross_entropy,
        task.epochs * (len(images.train.labels) // task.batch_size),
        lambda seed: pairs_of(images, task.batch_size, seed),
        lambda model: evaluate(model, images)["accuracy"],
    )


def of_characters(args: argparse.Namespace) -> Work:
    if args.text is None:
        raise SystemExit("--task characters needs --text FILE: any long text")
    text = characters.load(args.text)
    return Work(
        lambda: characters.LanguageModel(text.vocabulary),
        characters.cross_entropy,
        characters.STEPS,
        lambda seed: zip(
            characters.batches(text.train, seed),
            characters.batches(text.validation, seed + 1000),
            strict=True,
        ),
        lambda model: characters.test_loss(model, text),
        warm_up=100,
    )


def friedman(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Friedman's first regression (1991): ten columns, five of them noise; unit noise on y.

    ``y = 10 sin(pi x1 x2) + 20 (x3 - 1/2)^2 + 10 x4 + 5 x5 + e`` of uniform x; y has mean 14.4 and
    standard deviation 5, so that nobody can explain more than 96 % of its variance. Standardised.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 10, generator=generator)
    y = 10 * torch.sin(torch.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5).square()
    y = y + 10 * x[:, 3] + 5 * x[:, 4] + torch.randn(count, generator=generator)
    return (x - 0.5) * 12**0.5, ((y - 14.4) / 5)[:, None]


def of_a_table(_: argparse.Namespace, batch: int = 64, steps: int = 1500) -> Work:
    """An MLP of two layers on 4,000 rows; 1,000 more validate, 10,000 test."""
    x, y = friedman(15_000)
    test = x[5000:], y[5000:]

    def batches(first: int, last: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = first + torch.randperm(last - first, generator=generator)
            for chosen in order.split(batch)[: len(order) // batch]:
                yield x[chosen], y[chosen]

    @torch.no_grad()
    def explained(model: nn.Module) -> float:
        return 100 * (1 - float(F.mse_loss(model(test[0]), test[1]) / test[1].var()))

    return Work(
        lambda: nn.Sequential(
            nn.Linear(10, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1)
        ),
        F.mse_loss,
        steps,
        lambda seed: zip(batches(0, 4000, seed), batches(4000, 5000, seed + 1000), strict=True),
        explained,
    )


@functools.cache
def pretrained(folder: str, epochs: int = 4) -> nn.Module:
    """The small CNN after plain training, by cosine from lr 0.1, on five classes of CIFAR-10."""
    images = _classes(data.load("cifar_10", folder), range(5))
    torch.manual_seed(0)
    model = MODELS["conv"].build()
    steps = epochs * (len(images.train.labels) // 128)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for x, y in itertools.islice(data.train_batches(images, 128, seed=0), steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        plan.step()
    return model


def of_fine_tuning(args: argparse.Namespace, batch: int = 64, epochs: int = 15) -> Work:
    """That network with a new head, all of it, on 5,000 images of the other five classes."""
    images = _classes(data.load("cifar_10", args.data), range(5, 10))
    images = images._replace(train=data.Split(*(part[:5000] for part in images.train)))

    def network() -> nn.Module:
        model = copy.deepcopy(pretrained(args.data))
        model[-1] = nn.Linear(64, 5)  # type: ignore[index]
        return model

    return Work(
        network,
        F.cross_entropy,
        epochs * (5000 // batch),
        lambda seed: pairs_of(images, batch, seed),
        lambda model: evaluate(model, images)["accuracy"],
    )


def _classes(images: data.ImageData, kept: range) -> data.ImageData:
    """The images of these classes, counted from 0."""

    def part(split: data.Split) -> data.Split:
        mask = (split.labels >= kept.start) & (split.labels < kept.stop)
        return data.Split(split.images[mask], split.labels[mask] - kept.start)

    return images._replace(
        train=part(images.train), validation=part(images.validation), test=part(images.test)
    )


WORKS: dict[str, Callable[[argparse.Namespace], Work]] = {
    **dict.fromkeys(TASKS, of_images),
    "characters": of_characters,
    "friedman": of_a_table,
    "fine_tuning": of_fine_tuning,
}
